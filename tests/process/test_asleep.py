"""Pools that sleep, through reloads and rollbacks: tried without being woken for good."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from running import APP, Running, wait_until

from gateway.supervisor.pools.pools import MAX_TRIED

Start = Callable[..., Running]
MANUAL = "  reload_on_edit: false\n"
OLD = 'WHAT = b"old "\n' + APP.replace("return [", "return [WHAT + ")
NEW = OLD.replace("old", "new")
FAILING = APP.replace("200 OK", "500 No")


def start_asleep(start: Start, server: str = "", number: int = 2, **modules: str) -> Running:
    """``number`` pools, each with a mount of its name, which all sleep."""
    pools = "".join(f"  p{i}: {{idle: 1s}}\n" for i in range(number))
    gateway = start(
        mounts(number),
        f"{server or MANUAL}  keep_previous: 1h\npools:\n{pools}",
        **{"nap": OLD, **modules},
    )
    wait_until(lambda: states(gateway) == ["asleep"] * number, "all pools sleep")
    return gateway


def keep_awake(gateway: Running) -> None:
    """From the next reload on."""
    gateway.server = gateway.server.replace("idle: 1s", "idle: 1h")
    gateway.write_table(mounts())


def mounts(number: int = 2, more: str = "") -> str:
    own = "".join(f"  /p{i}: {{app: 'nap:app', pool: p{i}{more}}}\n" for i in range(number))
    return f"  /: good:app\n{own}"


def generations(gateway: Running) -> dict[str, list[tuple[str, str]]]:
    """Ids and states, by pool."""
    found: dict[str, list[tuple[str, str]]] = {}
    for each in gateway.control("status")["generations"]:
        found.setdefault(each["pool"], []).append((each["generation"], each["state"]))
    return found


def states(gateway: Running) -> list[str]:
    """Of all pools but the front workers'."""
    found = generations(gateway)
    return [state for pool, each in found.items() if pool != "main" for _, state in each]


# --- reloads ----------------------------------------------------------------------------------


def test_a_pool_that_slept_goes_back_to_sleep_after_a_reload(start: Start) -> None:
    gateway = start_asleep(start)
    workers, before = gateway.children(), generations(gateway)
    gateway.write("nap.py", NEW)
    keep_awake(gateway)
    outcome = gateway.control("reload")
    assert (outcome["exit_code"], outcome["how"]) == (0, "new workers; asleep: p0, p1")
    assert states(gateway) == ["asleep"] * 2
    assert not {before[p][0] for p in ("p0", "p1")} & {g for [g] in no_main(gateway)}
    assert len(gateway.children() - workers) == 1  # of the front
    assert b"new " in gateway.ask("/p0")
    assert states(gateway).count("asleep") == 1


def no_main(gateway: Running) -> list[list[tuple[str, str]]]:
    return [each for pool, each in generations(gateway).items() if pool != "main"]


def test_a_sleeping_pool_that_does_not_load_fails_a_reload(start: Start) -> None:
    gateway = start_asleep(start)
    before, workers = generations(gateway), gateway.children()
    gateway.write("nap.py", "1/0")
    outcome = gateway.control("reload")
    assert outcome["exit_code"] == 3
    assert "mounts./p0: nap:app: ZeroDivisionError" in "\n".join(outcome["messages"])
    assert (generations(gateway), gateway.children()) == (before, workers)
    gateway.write("nap.py", OLD)
    assert b"old " in gateway.ask("/p1")


def test_without_a_trial_the_next_request_loads_what_was_changed(start: Start) -> None:
    gateway = start_asleep(start, MANUAL + "  try_asleep: false\n")
    counting = 'import pathlib\npathlib.Path(__file__ + ".loaded").touch()\n1/0\n'
    gateway.write("nap.py", counting)
    assert gateway.control("reload")["exit_code"] == 0
    assert states(gateway) == ["asleep"] * 2
    assert not (gateway.folder / "nap.py.loaded").exists()
    assert b" 503 " in gateway.ask("/p0")
    assert (gateway.folder / "nap.py.loaded").exists()


def test_few_sleeping_pools_are_tried_at_a_time(start: Start) -> None:
    number = MAX_TRIED + 3
    gateway = start_asleep(start, number=number)
    # in the worker of the throw-away start: how many others load just now
    gateway.write(
        "nap.py",
        "import os, pathlib, time\n"
        "here = pathlib.Path(__file__).parent\n"
        "own = here / f'loading-{os.getpid()}'\n"
        "own.touch()\n"
        "time.sleep(0.3)\n"
        "seen = len(list(here.glob('loading-*')))\n"
        "with open(here / 'most', 'a') as file:\n"
        "    print(seen, file=file)\n"
        "own.unlink()\n" + OLD,
    )
    assert gateway.control("reload")["exit_code"] == 0
    counts = [int(line) for line in (gateway.folder / "most").read_text().split()]
    assert len(counts) == number
    assert max(counts) <= MAX_TRIED


def test_a_pool_that_is_woken_during_a_reload_serves_the_new_code_after_it(start: Start) -> None:
    gateway = start_asleep(start)
    waiting = (
        "import pathlib, time\n"
        "here = pathlib.Path(__file__).parent\n"
        "(here / 'loading').touch()\n"
        "while not (here / 'go').exists():\n    time.sleep(0.01)\n"
    )
    gateway.write("good.py", waiting + APP)
    gateway.write("nap.py", NEW)
    with ThreadPoolExecutor(1) as threads:
        reload = threads.submit(gateway.control, "reload")
        wait_until((gateway.folder / "loading").exists, "the front workers load")
        gateway.write("nap.py", OLD)  # as it was: what is served before the swap
        assert b"old " in gateway.ask("/p0")
        gateway.write("nap.py", NEW)
        gateway.write("go", "")
        assert reload.result()["exit_code"] == 0
    assert b"new " in gateway.ask("/p0")


def test_an_edit_in_place_wakes_no_pool(start: Start) -> None:
    gateway = start_asleep(start, server="  reload_on_edit: true\n")
    workers, before = gateway.children(), generations(gateway)
    gateway.write_table(mounts(more=", timeout: 9s"))
    last = wait_until(lambda: gateway.control("status")["last_reload"], "a reload has ended")
    assert (last["exit_code"], last["how"]) == (0, "in place")
    assert (gateway.children(), generations(gateway)) == (workers, before)
    assert b"old " in gateway.ask("/p0")


# --- rollbacks --------------------------------------------------------------------------------


def test_a_rollback_starts_no_worker_where_pools_sleep(start: Start) -> None:
    gateway = start_asleep(start)
    before = generations(gateway)
    gateway.write("nap.py", NEW)
    renewed = gateway.control("reload")["generation"]
    workers = gateway.children()
    gateway.write("nap.py", "import nothing_of_this_name")
    outcome = gateway.control("rollback")
    assert (outcome["exit_code"], outcome["how"]) == (0, "standby workers; asleep: p0, p1")
    assert gateway.children() == workers
    after = generations(gateway)
    assert {p: after[p] for p in ("p0", "p1")} == {p: before[p] for p in ("p0", "p1")}
    gateway.write("nap.py", OLD)
    assert b"old " in gateway.ask("/p1")
    # and the way back
    assert gateway.control("rollback")["exit_code"] == 0
    assert gateway.generation() == renewed


def test_a_pool_that_is_awake_sleeps_again_by_a_rollback(start: Start) -> None:
    gateway = start_asleep(start)
    gateway.write("nap.py", NEW)
    keep_awake(gateway)
    assert gateway.control("reload")["exit_code"] == 0
    assert b"new " in gateway.ask("/p0")
    [(woken, _)] = generations(gateway)["p0"]
    gateway.write("nap.py", OLD)
    assert gateway.control("rollback")["exit_code"] == 0
    wait_until(lambda: b"old " in gateway.ask("/p0"), "it is woken as it was")
    # what was replaced is kept, and one more rollback has it serve again
    assert (woken, "standby") in generations(gateway)["p0"]
    assert gateway.control("rollback")["exit_code"] == 0
    assert b"new " in gateway.ask("/p0")
    assert gateway.ask("/p0").endswith(woken.encode())


def test_a_pool_that_has_fallen_asleep_stays_asleep_by_a_rollback(start: Start) -> None:
    gateway = start_asleep(start)
    gateway.ask("/p0")
    assert gateway.control("reload")["exit_code"] == 0
    wait_until(lambda: {"asleep", "standby"} >= set(states(gateway)), "it sleeps again")
    for old in kept(gateway, "p0"):  # none where it fell asleep before the swap
        os.kill(old, signal.SIGKILL)  # as after keep_previous
        wait_until(lambda old=old: old not in gateway.children(), "what served before has gone")
    gateway.write("nap.py", "1/0")
    assert gateway.control("rollback")["exit_code"] == 0
    assert states(gateway) == ["asleep"] * 2


def kept(gateway: Running, pool: str) -> list[int]:
    """The workers that a rollback would have serve again."""
    return [
        worker["pid"]
        for each in gateway.control("status")["generations"]
        if (each["pool"], each["state"]) == (pool, "standby")
        for worker in each["workers"]
    ]


def test_a_rollback_by_too_many_errors_puts_a_pool_back_to_sleep(start: Start) -> None:
    gateway = start_asleep(start, MANUAL + "  watch: {for: 1h, max_error_rate: 5%}\n", number=1)
    gateway.write("nap.py", FAILING)
    assert gateway.control("reload")["exit_code"] == 0
    gateway.write("good.py", "1/0")  # no worker is started for it
    for _ in range(20):
        assert b" 500 " in gateway.ask("/p0")
    gateway.write("nap.py", OLD)

    def last() -> Any:
        return gateway.control("status")["last_reload"]

    wait_until(lambda: last()["trigger"] == "watch", "the reload is taken back")
    assert (last()["exit_code"], last()["how"]) == (0, "standby workers; asleep: p0")
    wait_until(lambda: b"old " in gateway.ask("/p0"), "it is woken as it was")
