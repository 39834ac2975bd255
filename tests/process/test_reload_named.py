"""``gateway reload MOUNT|POOL``: what is named is renewed, and nothing else; what a person sees
meanwhile."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from running import APP, Running, wait_until

from gateway.commands.main import main
from gateway.supervisor.listeners.control import send_command

Start = Callable[..., Running]
POOLS = "pools:\n  a: {}\n  b: {}\n"
MANUAL = "  reload_on_edit: false\n  keep_previous: 1h\n"
MOUNTS = (
    "  /: good:app\n  /a: {app: 'good:app', pool: a}\n  /b: {app: 'good:app', pool: b}\n"
    "  /own: {app: 'good:app', pool: own}\n"
)
WAITING = """
import pathlib, time
here = pathlib.Path(__file__).parent
while (here / "wait").exists():
    time.sleep(0.01)
""" + APP.replace(
    "    return",
    """    (here / "began").touch()
    while environ["QUERY_STRING"] and not (here / "go").exists():
        time.sleep(0.01)
    return""",
)


@pytest.fixture
def gateway(start: Start) -> Running:
    gateway = start(MOUNTS, MANUAL + POOLS, good=WAITING)
    for target in ("/", "/a", "/b", "/own"):
        assert b" 200 " in gateway.ask(target)
    return gateway


def serving(gateway: Running) -> dict[str, tuple[str, list[int]]]:
    """Generation and workers, by pool."""
    return {
        each["pool"]: (each["generation"], [worker["pid"] for worker in each["workers"]])
        for each in gateway.control("status")["generations"]
        if each["state"] == "serving"
    }


def named(gateway: Running, *names: Any) -> dict[str, Any]:
    return gateway.control("reload", names=list(names))


def changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    assert before.keys() == after.keys()
    return {pool for pool in before if before[pool] != after[pool]}


@pytest.mark.parametrize(
    ("names", "pools"),
    [
        (["/a/"], {"a"}),
        (["/own"], {"/own"}),
        (["/b", "a", "b"], {"a", "b"}),
        (["/"], {"main"}),
    ],
)
def test_only_what_is_named_is_renewed(gateway: Running, names: list[str], pools: set[str]) -> None:
    before = serving(gateway)
    gateway.write("good.py", WAITING.replace("200 OK", "201 Created"))
    outcome = named(gateway, *names)
    assert (outcome["exit_code"], outcome["messages"]) == (0, [])
    assert outcome["trigger"] == f"reload of {' '.join(names)}"
    assert changed(before, serving(gateway)) == pools
    targets = {"main": "/", "a": "/a", "b": "/b", "/own": "/own"}
    assert {p for p, target in targets.items() if b" 201 " in gateway.ask(target)} == pools
    # back to the state before the last change
    assert gateway.control("rollback")["exit_code"] == 0
    assert serving(gateway) == before


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["/c"], 'no mount or pool that is served is named "/c"'),
        (["/owm"], 'named "/owm": did you mean "/own"?'),
        (["a", "nowhere"], 'named "nowhere"'),
    ],
)
def test_a_name_that_is_none_changes_nothing(gateway: Running, names: list[str], told: str) -> None:
    before = serving(gateway)
    outcome = named(gateway, *names)
    assert outcome["exit_code"] == 2
    assert told in "\n".join(outcome["messages"])
    assert serving(gateway) == before


def test_names_that_are_no_list_are_refused(gateway: Running) -> None:
    assert gateway.control("reload", names="a")["exit_code"] == 2
    assert named(gateway, 7)["exit_code"] == 2


def test_an_app_that_does_not_load_changes_nothing(gateway: Running) -> None:
    before, workers = serving(gateway), gateway.children()
    gateway.write("good.py", "1/0")
    outcome = named(gateway, "/a")
    assert outcome["exit_code"] == 3
    assert "mounts./a: good:app: ZeroDivisionError" in outcome["messages"][0]
    assert (serving(gateway), gateway.children()) == (before, workers)


def test_the_saved_settings_of_what_is_named_are_served_and_no_others(gateway: Running) -> None:
    before = serving(gateway)
    gateway.server = gateway.server.replace("a: {}\n  b: {}", "a: {nice: 3}\n  b: {nice: 3}")
    gateway.write_table(MOUNTS + "  /new: good:app\n")
    outcome = named(gateway, "a")
    more = "the saved table has more changes: `gateway reload` serves them"
    assert (outcome["exit_code"], outcome["messages"]) == (0, [more])
    assert changed(before, serving(gateway)) == {"a"}
    assert b"/new" not in gateway.ask("/new")
    plan = gateway.control("plan")["messages"]
    assert "~ pools.b: nice 0 -> 3" in plan
    assert not any("pools.a" in line for line in plan)
    gateway.write_table("  /: [\n")
    assert named(gateway, "a")["exit_code"] == 2


def test_an_edit_that_was_saved_just_before_is_served_all_the_same(start: Start) -> None:
    gateway = start(MOUNTS, POOLS, good=WAITING)
    wait_until(lambda: len(gateway.children()) == 4, "all pools have started")
    gateway.write_table(MOUNTS + "  /new: {app: 'good:app'}\n")
    named(gateway, "a")
    wait_until(lambda: b" 200 " in gateway.ask("/new"), "the edit is served")


# --- what a person sees -----------------------------------------------------------------------


def test_what_is_loading_is_shown_with_its_time(gateway: Running) -> None:
    gateway.write("wait", "")
    shown: list[str] = []

    def note(line: str) -> None:
        shown.append(line)
        if "pool a at /a" in line:
            (gateway.folder / "wait").unlink(missing_ok=True)

    outcome = send_command(gateway.folder / "control.sock", "reload", note, names=["/a"])
    assert outcome["exit_code"] == 0
    assert any("loading pool a at /a (" in line for line in shown)
    assert not any("pool b" in line for line in shown)


def test_what_becomes_of_open_requests_and_websockets_is_said(gateway: Running) -> None:
    shown: list[str] = []
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(gateway.ask, "/a?wait")
        wait_until((gateway.folder / "began").exists, "the request has begun")
        send_command(gateway.folder / "control.sock", "reload", shown.append, names=["/b"])
        assert not any("WebSockets" in line for line in shown)
        send_command(gateway.folder / "control.sock", "reload", shown.append, names=["/a"])
        [line] = [line for line in shown if "WebSockets" in line]
        assert line.startswith("requests and WebSockets open in replaced workers: 1; ")
        assert "after 3630 s (keep_previous and drain_timeout) is cut" in line
        gateway.write("go", "")
        assert b" 200 " in waiting.result()


def test_the_command_takes_names(gateway: Running, capsys: pytest.CaptureFixture[str]) -> None:
    table = str(gateway.folder / "mounts.yaml")
    before = serving(gateway)
    assert main(["reload", "-c", table, "/a", "b"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{table}: served after ")
    assert out.endswith(" s, new workers of a, b\n")
    assert changed(before, serving(gateway)) == {"a", "b"}
    assert main(["rollback", "-c", table]) == 0
    assert capsys.readouterr().out.endswith(" s, standby workers of a, b\n")
