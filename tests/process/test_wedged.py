"""Event loops that are silent: what is told of them, and what becomes of their workers."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from running import Running, wait_until

from gateway.supervisor.generations.patrol import is_stopped

pytestmark = pytest.mark.alone

Start = Callable[..., Running]
MOUNTS = "  /: good:app\n  /slow: wedge:app\n"
WEDGE = """
import pathlib, re, time
here = pathlib.Path(__file__).parent
def compute(seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
def hold():
    (here / "held").touch()
    re.match(r"(a+)+$", "a" * 64 + "b")
def app(environ, start_response):
    start_response("200 OK", [])
    path, _, seconds = environ["PATH_INFO"].rpartition("/")
    compute(float(seconds)) if path == "/compute" else hold()
    return [b"done"]
"""
WARN = "  reload_on_edit: false\n  block_warn: 500ms\n"


def entries(gateway: Running) -> list[dict[str, Any]]:
    """The log, without what the interpreter has written of itself."""
    lines = gateway.log_text.splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def told(gateway: Running, what: str) -> dict[str, Any]:
    """The one entry that says it, once it is there."""
    found = wait_until(lambda: [e for e in entries(gateway) if what in e["message"]], what)
    assert len(found) == 1
    entry: dict[str, Any] = found[0]
    return entry


def workers(gateway: Running) -> list[dict[str, Any]]:
    status = gateway.control("status")
    return [worker for generation in status["generations"] for worker in generation["workers"]]


def fail(gateway: Running, target: str) -> bytes:
    try:
        return gateway.ask(target)
    except OSError:
        return b""


def test_what_keeps_the_loop_is_told_with_its_stack(start: Start) -> None:
    gateway = start(MOUNTS, WARN, wedge=WEDGE)
    began = time.monotonic()
    assert gateway.ask("/slow/compute/2").endswith(b"done")
    entry = told(gateway, "has been silent for")
    [record] = wait_until(lambda: gateway.records, "its record is written")
    assert (entry["mount"], entry["request_id"]) == ("/slow", record["request_id"])
    assert (entry["level"], entry["generation"]) == ("warning", "g1")
    request = f"mount /slow blocks it with GET /slow/compute/2 (request {record['request_id']})"
    assert request in entry["message"]
    assert "in compute\n" in entry["message"]
    end = told(gateway, "is running again")
    silent = float(re.findall(r"after ([0-9.]+) s", end["message"])[0])
    assert 1 < silent < time.monotonic() - began
    assert record["status"] == 200


def test_a_loop_that_turns_is_not_told_of(start: Start) -> None:
    gateway = start(MOUNTS, WARN, wedge=WEDGE)
    for _ in range(20):
        gateway.ask("/slow/compute/0.05")
    assert "been silent" not in gateway.log_text


def test_a_worker_that_is_wedged_is_replaced_and_others_serve(start: Start) -> None:
    server = "  reload_on_edit: false\n  workers: 2\n  block_timeout: 1s\n"
    gateway = start(MOUNTS, server, wedge=WEDGE)
    wait_until(lambda: [w["state"] for w in workers(gateway)] == ["ready"] * 2, "all are ready")
    before = gateway.children()
    answers = []
    with ThreadPoolExecutor(1) as pool:
        wedged = pool.submit(fail, gateway, "/slow/hold/0")
        wait_until((gateway.folder / "held").exists, "a worker is wedged")
        while not wedged.done():
            answers.append(gateway.ask())
        assert wedged.result() == b""
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)
    entry = told(gateway, "(server.block_timeout)")
    [record] = wait_until(
        lambda: [r for r in gateway.records if r["status"] == 502], "its record is written"
    )
    assert (record["target"], record["mount"]) == ("/slow/hold/0", "/slow")
    assert "its event loop was silent for" in record["error"]
    assert f"1: GET /slow/hold/0 <- /slow ({record['request_id']})" in entry["message"]
    assert "in hold\n" in gateway.log_text  # the interpreter's own stack, without the lock
    wait_until(lambda: [w["state"] for w in workers(gateway)] == ["ready"] * 2, "it is replaced")
    assert len(before & gateway.children()) == 1


@pytest.mark.parametrize("limit", ["0", "60s"])
def test_a_loop_may_be_silent_within_its_limit(start: Start, limit: str) -> None:
    server = f"  reload_on_edit: false\n  block_warn: 0\n  block_timeout: {limit}\n"
    gateway = start(MOUNTS, server, wedge=WEDGE)
    before = gateway.children()
    assert gateway.ask("/slow/compute/2").endswith(b"done")
    assert gateway.children() == before
    assert "been silent" not in gateway.log_text


def test_status_tells_of_silence_and_requests(start: Start) -> None:
    gateway = start(MOUNTS, "  reload_on_edit: false\n", wedge=WEDGE)
    gateway.ask()
    wait_until(lambda: workers(gateway)[0]["requests"] == 1, "the request is counted")
    assert (workers(gateway)[0]["silent"], workers(gateway)[0]["in_flight"]) == (0, 0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(gateway.ask, "/slow/compute/4")
        silent = wait_until(lambda: workers(gateway)[0]["silent"], "it is silent")
        assert workers(gateway)[0]["in_flight"] == 1
        assert silent > 1
        assert waiting.result().endswith(b"done")
    wait_until(lambda: not workers(gateway)[0]["silent"], "it turns again")


def test_a_worker_that_somebody_has_stopped_is_left_alone(start: Start) -> None:
    gateway = start(MOUNTS, "  reload_on_edit: false\n  block_timeout: 500ms\n", wedge=WEDGE)
    [pid] = gateway.children()
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: workers(gateway)[0]["silent"] > 2, "it is silent")
    os.kill(pid, signal.SIGCONT)
    assert b" 200 " in gateway.ask()
    assert gateway.children() == {pid}


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


def test_a_stopped_process_is_known(sleeper: subprocess.Popen[bytes]) -> None:
    assert not is_stopped(sleeper.pid)
    sleeper.send_signal(signal.SIGSTOP)
    wait_until(lambda: is_stopped(sleeper.pid), "it has stopped")
    assert not is_stopped(2**22 + 1)
