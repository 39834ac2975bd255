"""What apps know of their worker outside of requests, and that what they run beside them, such as a
scheduler, never runs in two generations at once."""

import os
import signal
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from running import Running, wait_until

from gateway import lifecycle
from gateway.lifecycle import LEAVING, LOADING, NEXT, SERVING, STANDBY, Lifecycle

Start = Callable[..., Running]

# runs a job again and again while its worker serves; two at a time are seen by a file
SCHEDULER = """
import os, threading, time
from gateway.lifecycle import on_change, state

running, busy = threading.Event(), threading.Lock()

def note(what):
    with open("events", "a") as file:
        file.write(f"{os.getpid()} {what}\\n")

def work():
    while True:
        running.wait()
        with busy:
            if running.is_set():
                job()
        time.sleep(0.001)

def job():
    try:
        os.close(os.open("job", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        note("overlap")
        return
    time.sleep(0.005)
    os.unlink("job")

threading.Thread(target=work, daemon=True).start()
note(state())

@on_change
def follow(state):
    if state == "serving":
        running.set()
    else:
        running.clear()
        with busy:  # the job that runs ends first
            pass
    note(state)

def app(environ, start_response):
    start_response("200 OK", [])
    return [state().encode()]
"""
HURTS = """
import threading
from gateway.lifecycle import on_change

@on_change
def raises(state):
    raise SystemExit(f"no {state}")

@on_change
def hangs(state):
    threading.Event().wait()
"""
POOLS = {
    "front": "",
    "greenlets": "pools:\n  main2: {}\n",
    "threads": "pools:\n  main2: {concurrency: threads}\n",
}


def begin(start: Start, folder: Path, pool: str, server: str = "", **modules: str) -> Running:
    more = "" if pool == "front" else ", pool: main2"
    table = f"  /: {{app: 'scheduler:app'{more}}}\n"
    table += "".join(f"  /{name}: {{app: '{name}:app'{more}}}\n" for name in modules)
    places = (
        POOLS[pool]
        .replace("{}", f"{{directory: {folder}}}")
        .replace("{concurrency", f"{{directory: {folder}, concurrency")
    )
    server = f"  reload_on_edit: false\n{server}"
    text = SCHEDULER.replace('"events"', f'"{folder}/events"').replace('"job"', f'"{folder}/job"')
    return start(table, server + places, scheduler=text, **modules)


def read_events(folder: Path) -> dict[str, list[str]]:
    """What each worker's app was told, by pid, in order of their first event."""
    events = defaultdict(list)
    path = folder / "events"
    for line in path.read_text().splitlines() if path.exists() else ():
        pid, _, what = line.partition(" ")
        events[pid].append(what)
    return events


def find_serving(folder: Path) -> list[str]:
    return [pid for pid, events in read_events(folder).items() if events[-1] == SERVING]


@pytest.mark.parametrize("pool", POOLS)
def test_a_job_never_runs_in_two_generations_at_once(
    start: Start, tmp_path: Path, pool: str
) -> None:
    gateway = begin(start, tmp_path, pool)
    wait_until(lambda: find_serving(tmp_path), "the first serves")
    first = find_serving(tmp_path)
    assert gateway.ask().endswith(b"serving")

    assert gateway.control("reload")["exit_code"] == 0
    wait_until(lambda: find_serving(tmp_path) not in ([], first), "another one serves")
    second = find_serving(tmp_path)
    assert read_events(tmp_path)[first[0]] == [LOADING, SERVING, STANDBY]

    assert gateway.control("rollback")["exit_code"] == 0
    wait_until(lambda: find_serving(tmp_path) == first, "the first serves again")
    assert read_events(tmp_path)[second[0]] == [LOADING, SERVING, STANDBY]
    assert gateway.ask().endswith(b"serving")

    assert gateway.end() == 0
    events = read_events(tmp_path)
    assert events.pop(first[0]) == [LOADING, SERVING, STANDBY, SERVING, LEAVING]
    assert list(events.values()) == [[LOADING, SERVING, STANDBY, LEAVING]]


def test_a_worker_that_is_recycled_or_dies_hands_on(start: Start, tmp_path: Path) -> None:
    gateway = begin(start, tmp_path, "front", "  max_requests: 20\n")
    wait_until(lambda: find_serving(tmp_path), "the first serves")
    first = find_serving(tmp_path)
    wait_until(
        lambda: gateway.ask() and read_events(tmp_path)[first[0]][-1] == LEAVING, "it leaves"
    )
    wait_until(lambda: find_serving(tmp_path), "another one serves")
    assert "overlap" not in (tmp_path / "events").read_text()

    [number] = find_serving(tmp_path)
    os.kill(int(number), signal.SIGKILL)
    (tmp_path / "job").unlink(missing_ok=True)
    wait_until(lambda: number not in find_serving(tmp_path)[-1:], "one takes its place")


def test_a_reload_that_fails_never_serves(start: Start, tmp_path: Path) -> None:
    gateway = begin(start, tmp_path, "front", more="from good import app\n")
    wait_until(lambda: find_serving(tmp_path), "the first serves")
    first = find_serving(tmp_path)
    gateway.write("more.py", "1 / 0\n")
    assert gateway.control("reload")["exit_code"] == 3
    assert find_serving(tmp_path) == first
    assert all(SERVING not in e for pid, e in read_events(tmp_path).items() if pid not in first)


def test_callbacks_that_raise_or_hang_hurt_nobody(start: Start, tmp_path: Path) -> None:
    gateway = begin(start, tmp_path, "threads", hurts=HURTS + "from good import app\n")
    wait_until(lambda: find_serving(tmp_path), "the first serves")
    first = find_serving(tmp_path)
    assert gateway.control("reload")["exit_code"] == 0
    wait_until(lambda: find_serving(tmp_path) not in ([], first), "another one serves")
    log = gateway.log_text
    assert 'mounts./hurts: hurts.raises failed on \\"serving\\": SystemExit: no serving' in log
    assert 'mounts./hurts: hurts.hangs has not returned from \\"serving\\" after 5 s' in log
    assert gateway.ask("/hurts").startswith(b"HTTP/1.1 200 ")


# --- in this process ------------------------------------------------------------------------------


def make(*states: str) -> Lifecycle:
    own = Lifecycle()
    for state in states:
        own.move(state)
    return own


def test_only_states_that_may_follow_do() -> None:
    for state, path in {
        "": [],
        LOADING: [LOADING],
        STANDBY: [LOADING, STANDBY],
        SERVING: [LOADING, STANDBY, SERVING],
        LEAVING: [LOADING, LEAVING],
    }.items():
        for wanted in NEXT:
            own = make(*path)
            assert own.state == state
            own.move(wanted)
            assert own.state == (wanted if wanted in NEXT[state] else state)


def test_each_change_is_told_once_and_in_order() -> None:
    own, told = make(LOADING), []
    own.add(told.append)
    for state in (STANDBY, SERVING, SERVING, STANDBY, SERVING, LEAVING):
        own.move(state)
        wait_until(own.is_settled, "it is told")
    assert told == [SERVING, STANDBY, SERVING, LEAVING]


def test_who_asks_late_is_told_at_once() -> None:
    own, told = make(LOADING, STANDBY, SERVING), []
    own.add(told.append)
    wait_until(own.is_settled, "it is told")
    assert told == [SERVING]


def test_one_that_is_busy_is_told_the_state_of_then() -> None:
    own, told, go_on = make(LOADING, STANDBY), [], threading.Event()

    def callback(state: str) -> None:
        told.append(state)
        assert go_on.wait(10)

    own.add(callback)
    own.move(SERVING)
    wait_until(lambda: told, "it is told")
    for state in (STANDBY, SERVING, STANDBY):
        own.move(state)
    assert not own.is_settled()
    go_on.set()
    wait_until(own.is_settled, "it is told")
    assert told == [SERVING, STANDBY]


def test_of_an_app_that_does_not_load_nothing_is_called() -> None:
    own, told = make(LOADING), []

    def fail() -> None:
        with own.loading("/bad"):
            own.add(lambda state: told.append(("bad", state)))
            raise ZeroDivisionError

    with own.loading("/good"):
        own.add(lambda state: told.append(("good", state)))
    with pytest.raises(ZeroDivisionError):
        fail()
    own.move(STANDBY)
    own.move(SERVING)
    wait_until(own.is_settled, "it is told")
    assert told == [("good", SERVING)]


def test_in_a_process_that_is_no_worker_nothing_is_called() -> None:
    assert lifecycle.state() == ""
    told: list[str] = []
    assert lifecycle.on_change(told.append) == told.append
    assert lifecycle.own.is_settled()
    assert told == []
