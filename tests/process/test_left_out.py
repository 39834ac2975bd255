"""Mounts that do not load at a start cost nobody but themselves, and come back by themselves."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from idle_process import IdleProcess
from running import Running, wait_until

from gateway.config.model import Config, Mount, RedirectTarget, ServerSettings, Where
from gateway.limits import MountLimits
from gateway.supervisor.generations.generation import Generation
from gateway.supervisor.generations.outages import FIRST_TRY_SECONDS, MAX_TRY_SECONDS, Outages
from gateway.supervisor.generations.retries import SLOW_SECONDS, Retrier
from gateway.supervisor.processes.process import ProcessState, Purpose

Start = Callable[..., Running]
MANUAL = "  reload_on_edit: false\n"
# a busy machine loads its workers several times over
SECONDS = 120.0

GOOD = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"good"]
"""
EXITS = "import os, sys; print('last words', file=sys.stderr, flush=True); os._exit(3)\n"
HANGS = "import time; time.sleep(10_000)\n"
RAISES = "raise ConnectionError('no database')\n"
# mended by a file beside it: no bytecode of the broken one may be taken for it
MENDABLE = (
    """
import os, pathlib, sys
if not (pathlib.Path(__file__).parent / "mended").exists():
    BREAK
"""
    + GOOD
)


def name(number: int) -> str:
    return f"m{number:02}"


def write_mounts(names: list[str], pool: str = "") -> str:
    where = f", pool: {pool}" if pool else ""
    return "".join(f"  /{name}: {{app: '{name}:app'{where}}}\n" for name in names)


def serves(gateway: Running, names: list[str]) -> bool:
    try:
        return all(b" 200 " in gateway.ask(f"/{name}").partition(b"\r\n")[0] for name in names)
    except TimeoutError:  # it waits in the kernel for a worker
        return False


def find_trouble(gateway: Running) -> dict[str, dict[str, Any]]:
    mounts = gateway.control("status")["mounts"]
    return {each["mount"].strip("/"): each for each in mounts if each["state"] == "failed"}


def retry_seconds(answer: bytes) -> int:
    [seconds] = [
        line.partition(b": ")[2]
        for line in answer.partition(b"\r\n\r\n")[0].split(b"\r\n")
        if line.startswith(b"Retry-After: ")
    ]
    return int(seconds)


@contextmanager
def asking(gateway: Running, target: str) -> Iterator[list[bytes]]:
    """One request after the other meanwhile; their status lines, b"" for one that was lost."""
    seen: list[bytes] = []
    is_over = Event()

    def ask() -> None:
        while not is_over.is_set():
            try:
                seen.append(gateway.ask(target).partition(b"\r\n")[0])
            except OSError:
                seen.append(b"")

    with ThreadPoolExecutor(1) as threads:
        work = threads.submit(ask)
        try:
            yield seen
        finally:
            is_over.set()
        work.result()


@pytest.mark.parametrize("pool", ["", "a"])
def test_a_crash_a_hang_and_an_error_at_a_start_cost_their_mounts_alone(
    start: Start, pool: str
) -> None:
    names = [name(number) for number in range(20)]
    bad = {names[3]: EXITS, names[9]: HANGS, names[16]: RAISES}
    well = [each for each in names if each not in bad]
    server = MANUAL + ("pools: {a: {workers: 2}}\n" if pool else "  workers: 2\n")
    gateway = start(write_mounts(names, pool), server, **dict.fromkeys(names, GOOD) | bad)
    wait_until(lambda: serves(gateway, well), "the others serve", SECONDS)
    # so nobody has waited for the one that hangs
    assert "server.start_timeout" not in gateway.log_text
    for each in bad:
        answer = gateway.ask(f"/{each}")
        assert b" 503 " in answer.partition(b"\r\n")[0]
        assert retry_seconds(answer) >= 1

    def all_say_why() -> bool:
        found = find_trouble(gateway)
        return found.keys() == bad.keys() and "tried it alone" in found[names[3]]["error"]

    wait_until(all_say_why, "status says why", SECONDS)
    found = find_trouble(gateway)
    assert "exited with 3" in found[names[3]]["error"]
    assert "last words" in found[names[3]]["traceback"]
    assert "loading" in found[names[9]]["error"] or "not loaded so far" in found[names[9]]["error"]
    assert "ConnectionError: no database" in found[names[16]]["error"]
    lines = gateway.log_text
    for each in bad:
        assert f"mounts.yaml:{found[each]['place'].split(':')[-2]}:3: mounts./{each}: " in lines
    assert lines.count(f"/{names[3]}: worker") >= 1
    assert lines.count("it is left out and answers 503") == 1
    assert serves(gateway, well)


@pytest.mark.parametrize("broken", ["os._exit(3)", "raise ConnectionError('no database')"])
def test_what_passes_by_itself_is_served_again_and_no_request_is_lost(
    start: Start, broken: str
) -> None:
    names = ["ill", "well"]
    ill = MENDABLE.replace("BREAK", broken)
    gateway = start(write_mounts(names), f"{MANUAL}  workers: 2\n", ill=ill, well=GOOD)
    wait_until(lambda: find_trouble(gateway).keys() == {"ill"}, "it has not loaded", SECONDS)
    with asking(gateway, "/well") as seen:
        wait_until(
            lambda: (
                gateway.log_text.count("it answers 503")
                + gateway.log_text.count("left out and answers 503")
            ),
            "the log has it",
            SECONDS,
        )
        gateway.write("mended", "")
        wait_until(lambda: not find_trouble(gateway), "it serves again", SECONDS)
    assert {line.split()[1] for line in seen} == {b"200"}
    # all workers have it
    assert all(serves(gateway, ["ill"]) for _ in range(20))
    assert gateway.log_text.count("mounts./ill: it has loaded, and serves") == 1
    assert gateway.log_text.count(" 503, the others serve") == 1
    assert gateway.control("status")["generation"] == "g1"


def test_a_worker_that_took_anothers_place_in_an_outage_is_replaced_after_it(start: Start) -> None:
    ill = MENDABLE.replace("BREAK", "raise ConnectionError('no database')")
    gateway = start(write_mounts(["ill", "well"]), MANUAL + "  workers: 2\n", ill=GOOD, well=GOOD)
    wait_until(lambda: gateway.control("status")["ready"] == 2, "both are ready", SECONDS)
    gateway.write("ill.py", ill)
    victim = min(gateway.children())
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: find_trouble(gateway).keys() == {"ill"}, "the new one lacks it", SECONDS)
    gateway.write("mended", "")
    wait_until(lambda: not find_trouble(gateway), "it is replaced in its turn", SECONDS)
    assert all(serves(gateway, ["ill", "well"]) for _ in range(20))
    assert victim not in gateway.children()


def test_killed_workers_come_back_without_the_app_that_no_longer_loads(start: Start) -> None:
    names = ["a", "ill", "z"]
    gateway = start(write_mounts(names), f"{MANUAL}  workers: 2\n", **dict.fromkeys(names, GOOD))
    wait_until(lambda: gateway.control("status")["ready"] == 2, "both are ready", SECONDS)
    gateway.write("ill.py", MENDABLE.replace("BREAK", "os.kill(os.getpid(), 9)"))
    for pid in gateway.children():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: serves(gateway, ["a", "z"]), "the others serve", SECONDS)
    told = "which tried it alone, was killed by SIGKILL; it is left out"
    wait_until(lambda: told in gateway.log_text, "it is told", SECONDS)
    assert b" 503 " in gateway.ask("/ill").partition(b"\r\n")[0]
    gateway.write("mended", "")
    wait_until(lambda: serves(gateway, ["ill"] * 10), "it serves again", SECONDS)


def test_what_loads_slowly_keeps_nobody_waiting_and_serves_in_the_end(start: Start) -> None:
    slow = (
        """
import pathlib, time
here = pathlib.Path(__file__).parent
with open(here / "begun", "a") as file:
    file.write(".")
while not (here / "go").exists():
    time.sleep(0.01)
"""
        + GOOD
    )
    gateway = start(write_mounts(["a", "slow", "z"]), MANUAL, a=GOOD, slow=slow, z=GOOD)
    wait_until(lambda: serves(gateway, ["a", "z"]), "the others serve", SECONDS)
    answer = gateway.ask("/slow")
    assert b" 503 " in answer.partition(b"\r\n")[0]
    assert find_trouble(gateway).keys() == {"slow"}
    with asking(gateway, "/z") as seen:
        gateway.write("go", "")
        wait_until(lambda: serves(gateway, ["slow"] * 10), "it serves", SECONDS)
        wait_until(lambda: gateway.control("status")["workers"] == 1, "one worker", SECONDS)
    assert {line.split()[1] for line in seen} == {b"200"}
    assert not find_trouble(gateway)


def test_an_app_that_ends_its_workers_holds_up_a_reload_only_where_it_served(start: Start) -> None:
    ill = MENDABLE.replace("BREAK", "os._exit(3)")
    gateway = start(write_mounts(["a", "ill"]), MANUAL, a=GOOD, ill=ill)
    wait_until(lambda: find_trouble(gateway).keys() == {"ill"}, "it is left out", SECONDS)
    gateway.write("b.py", GOOD)
    gateway.write_table(write_mounts(["a", "ill", "b"]))
    assert gateway.control("reload")["exit_code"] == 0
    assert serves(gateway, ["a", "b"])
    assert b" 503 " in gateway.ask("/ill").partition(b"\r\n")[0]
    # what serves may not become worse
    gateway.write("b.py", EXITS)
    outcome = gateway.control("reload")
    assert outcome["exit_code"] == 3
    assert "mounts./b: worker " in outcome["messages"][0]
    assert serves(gateway, ["a", "b"])


# --- the front's fallback responder -----------------------------------------------------------

BROKEN_GEVENT = "raise SystemExit('no worker can start')\n"


def kill_all(gateway: Running) -> None:
    for pid in gateway.children():
        os.kill(pid, signal.SIGKILL)


def test_clients_are_answered_503_while_front_workers_end_before_they_load(
    start: Start, tmp_path: Path
) -> None:
    gateway = start(server=MANUAL, before=lambda: os.chdir(tmp_path))
    gateway.write("gevent.py", BROKEN_GEVENT)  # which a worker finds before the real one
    kill_all(gateway)

    def is_refused() -> bytes:
        answer = gateway.ask()
        return answer if b" 503 " in answer.partition(b"\r\n")[0] else b""

    answer = wait_until(is_refused, "clients are answered", SECONDS)
    assert retry_seconds(answer) in range(1, 11)
    assert b"new ones are starting" in answer
    with asking(gateway, "/") as seen:
        (tmp_path / "gevent.py").unlink()
        served = lambda: {line[:12] for line in seen[-20:]} == {b"HTTP/1.1 200"}  # noqa: E731
        wait_until(served, "workers alone answer", SECONDS)
    # no request is lost when they take over
    assert {line.split()[1] if line else b"" for line in seen} <= {b"200", b"503"}


def test_clients_are_answered_503_while_no_front_worker_can_be_started(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = link_python(tmp_path / "venv")
    monkeypatch.setattr(sys, "executable", str(python))
    gateway = start(server=MANUAL)
    python.rename(tmp_path / "away")
    kill_all(gateway)
    refused = lambda: b" 503 " in gateway.ask().partition(b"\r\n")[0]  # noqa: E731
    wait_until(refused, "clients are answered", SECONDS)
    assert "a worker could not be started: " in gateway.log_text
    (tmp_path / "away").rename(python)
    wait_until(lambda: not refused(), "workers answer", SECONDS)


def link_python(venv: Path) -> Path:
    """This Python with its packages, under a name that can be taken away."""
    (venv / "bin").mkdir(parents=True)
    for name in ("pyvenv.cfg", "lib"):
        if (Path(sys.prefix) / name).exists():
            (venv / name).symlink_to(Path(sys.prefix) / name)
    (venv / "bin" / "python").symlink_to(sys.executable)
    return venv / "bin" / "python"


def test_requests_wait_for_a_front_worker_that_is_only_replaced(start: Start) -> None:
    gateway = start(server=MANUAL)
    for _ in range(3):
        pids = gateway.children()
        kill_all(gateway)
        wait_until(lambda pids=pids: not pids & gateway.children(), "it has gone")
        assert b" 200 " in gateway.ask().partition(b"\r\n")[0]


# --- when it is tried again -------------------------------------------------------------------

COUNTING = """
import pathlib
with open(pathlib.Path(__file__).parent / "tries", "a") as file:
    file.write(".")
raise ConnectionError("no database")
"""


def is_trying(gateway: Running) -> bool:
    [generation] = gateway.control("status")["generations"]
    return any(worker["state"] == "trying" for worker in generation["workers"])


def test_clients_are_told_when_the_next_try_begins_and_tries_are_no_news(start: Start) -> None:
    gateway = start(write_mounts(["ill", "well"]), MANUAL, ill=COUNTING, well=GOOD)
    count = lambda: (gateway.folder / "tries").stat().st_size  # noqa: E731
    wait_until(lambda: count() >= 3, "it has been tried twice", SECONDS)

    def find_pause() -> tuple[float, int, int] | None:
        tries = count()
        began, is_between = time.monotonic(), not is_trying(gateway)
        seconds = retry_seconds(gateway.ask("/ill"))
        is_between &= not is_trying(gateway) and count() == tries
        return (began, seconds, tries) if is_between and seconds >= 2 else None

    began, seconds, tries = wait_until(find_pause, "a pause between two tries", SECONDS)
    wait_until(lambda: count() > tries, "the next try", SECONDS)
    assert time.monotonic() - began > seconds - 1  # it is a number of whole seconds, rounded up
    assert count() == tries + 1
    entries = [line for line in gateway.log_text.splitlines() if "mounts./ill" in line]
    assert len(entries) == 1, entries
    assert "no database" not in gateway.log_text.replace(entries[0], "")


def report(error: str, mount: str = "/a") -> dict[str, Any]:
    return {"mount": mount, "error": error, "traceback": ""}


def test_the_pause_between_tries_doubles_up_to_a_minute_or_as_long_as_a_try_took() -> None:
    outages = Outages()
    outages.note_error(report("no database"), 0.0, took=1.0, is_trial=False)
    assert outages.begin_due(FIRST_TRY_SECONDS - 0.1, ()) == ""
    assert outages.begin_due(FIRST_TRY_SECONDS, ()) == "/a"
    pauses = []
    for _ in range(10):
        outages.note_error(report("no database"), 100.0, took=0.5, is_trial=True)
        pauses.append(outages.pauses["/a"][1] - 100.0)
    assert pauses == [1, 2, 4, 8, 16, 32] + [MAX_TRY_SECONDS] * 4
    outages.note_error(report("no database"), 100.0, took=300.0, is_trial=True)
    assert outages.pauses["/a"][1] == 400.0


def test_what_siblings_report_is_one_failure() -> None:
    outages = Outages()
    for moment in (0.0, 0.3, 0.6):
        outages.note_error(report("no database"), moment, took=1.0, is_trial=False)
    assert outages.pauses["/a"][1] == FIRST_TRY_SECONDS


def test_a_mount_that_has_ended_a_worker_is_left_out_until_it_has_loaded_alone() -> None:
    outages = Outages()
    outages.note_death(report("exited"), 0.0, took=1.0, is_trial=False, is_alone=False)
    assert outages.left_out == {"/a": "exited"}
    assert outages.begin_due(0.0, {"/a"}) == ""  # it is being tried
    assert outages.begin_due(0.0, ()) == "/a"
    outages.note_loaded(frozenset({"/b"}))
    assert outages.left_out == {}
    assert outages.loaded == ["/a"]
    assert outages.begin_due(1000.0, ()) == ""
    # in company it does not: the next pause is longer
    for number in range(3):
        outages.note_death(report("exited"), 0.0, took=0.1, is_trial=False, is_alone=False)
        assert outages.pauses["/a"][1] == 2**number
        outages.note_loaded(frozenset())


def test_the_only_mount_of_a_pool_is_left_out_from_its_second_death_on() -> None:
    outages = Outages()
    outages.note_death(report("exited"), 0.0, took=1.0, is_trial=False, is_alone=True)
    assert outages.left_out == {}
    assert outages.begin_due(1.0, ()) == ""  # the next worker tries it
    outages.note_death(report("exited"), 1.0, took=1.0, is_trial=False, is_alone=True)
    assert outages.left_out == {"/a": "exited"}
    assert outages.begin_due(1.0, ()) == "/a"


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_mount_is_tried_again_whether_it_ends_its_worker_or_only_fails(is_alone: bool) -> None:
    outages = Outages()
    outages.note_error(report("no database"), 0.0, took=1.0, is_trial=False)
    for moment in (100.0, 300.0, 500.0):
        assert outages.begin_due(moment, ()) == "/a"
        outages.note_death(report("exited"), moment, took=1.0, is_trial=True, is_alone=is_alone)
        assert outages.left_out == {"/a": "exited"}
        assert outages.begin_due(moment + 100, ()) == "/a"
        outages.note_error(report("no database"), moment + 100, took=1.0, is_trial=True)
        assert outages.left_out == {}


# --- what loads for long ----------------------------------------------------------------------


class Loading:
    """A generation whose workers are none, each at the mount that it is told to be at."""

    def __init__(self, tmp_path: Path, size: int) -> None:
        mounts = tuple(
            Mount(each, None, each, RedirectTarget("/"), MountLimits(), Where(1, 1))
            for each in ("/a", "/b", "/c")
        )
        config = Config(str(tmp_path), tmp_path, ServerSettings(workers=size), mounts)
        self.generation = Generation(1, config, self._start)
        self.generation.serve()
        self.purposes: list[set[str]] = []
        self.retrier = Retrier(self.generation)

    def _start(self, _: Generation, purpose: Purpose) -> Any:
        self.purposes.append(set(purpose.left_out))
        return IdleProcess(len(self.purposes))

    def add(self, mount: str, seconds: float) -> Any:
        """One that has been loading this mount for so long."""
        child: Any = self.generation.spawn()
        self.put(child, mount, seconds)
        return child

    def put(self, child: Any, mount: str, seconds: float) -> None:
        child.started = child.loading_since = time.monotonic() - seconds
        child.loading = mount


def test_others_start_without_what_loads_for_long_one_at_a_time(tmp_path: Path) -> None:
    async def look() -> None:
        loading = Loading(tmp_path, 2)
        loading.add("/a", 2 * SLOW_SECONDS)
        loading.add("/a", 0.0)  # it will wait there, too
        for _ in range(3):
            loading.retrier.look()
        assert loading.purposes == [set(), set(), {"/a"}]
        # the one beside them is slow at another
        loading.put(loading.generation.processes[3], "/b", 2 * SLOW_SECONDS)
        for _ in range(3):
            loading.retrier.look()
        assert loading.purposes[3:] == [{"/a", "/b"}]
        # nothing is left that another could serve
        loading.put(loading.generation.processes[4], "/c", 2 * SLOW_SECONDS)
        loading.retrier.look()
        assert len(loading.purposes) == 4

    asyncio.run(look())


def test_who_is_about_to_serve_is_waited_for(tmp_path: Path) -> None:
    async def look() -> None:
        loading = Loading(tmp_path, 2)
        loading.add("/a", 2 * SLOW_SECONDS)
        loading.add("", 0.0).state = ProcessState.LOADED
        loading.retrier.look()
        assert len(loading.purposes) == 2

    asyncio.run(look())
