"""Mounts whose requests end their worker: they answer 503 for a while, and nobody else does."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from running import Running, wait_until

from gateway.commands.remote import format_status
from gateway.supervisor.pools.quarantine import MAX_QUARANTINE_SECONDS, Quarantine

Start = Callable[..., Running]
MANUAL = "  reload_on_edit: false\n  block_warn: 200ms\n  block_timeout: 1s\n"
BAD = """
import ctypes, os, pathlib, re, time
here = pathlib.Path(__file__).parent
def app(environ, start_response):
    name = environ["PATH_INFO"]
    if name == "/exit":
        os._exit(3)
    if name == "/leave":
        os._exit(0)
    if name == "/crash":
        ctypes.string_at(0)
    if name == "/hold":
        until = time.monotonic() + 60
        while time.monotonic() < until:
            pass
    start_response("200 OK", [])
    return [b"well"]
"""
SLOW = """
import pathlib, time
here = pathlib.Path(__file__).parent
def app(environ, start_response):
    (here / f"began-{environ['QUERY_STRING']}").touch()
    time.sleep(60)
"""
MOUNTS = "  /: good:app\n  /bad: bad:app\n  /slow: slow:app\n"


def start_bad(start: Start, mounts: str = MOUNTS, server: str = MANUAL) -> Running:
    return start(mounts, server, bad=BAD, slow=SLOW)


def fail(gateway: Running, target: str) -> bytes:
    """What comes of a request whose worker may end."""
    try:
        return gateway.ask(target)
    except OSError:
        return b""


def status_of(answer: bytes) -> bytes:
    return answer[9:12]


def end_workers(gateway: Running, target: str, count: int = 3) -> None:
    """Ask for what ends a worker so many times, each once another serves."""
    for _ in range(count):
        assert fail(gateway, target) == b""
        wait_until(lambda: status_of(fail(gateway, "/")) == b"200", "another worker serves")


def mounts_of(gateway: Running) -> dict[str, Any]:
    return {mount["mount"]: mount for mount in gateway.control("status")["mounts"]}


def generation(gateway: Running) -> dict[str, Any]:
    """The one of the front workers."""
    found: dict[str, Any] = gateway.control("status")["generations"][0]
    return found


def quarantined(gateway: Running) -> set[str]:
    return {name for name, mount in mounts_of(gateway).items() if mount["quarantine"]}


@contextmanager
def in_flight(gateway: Running, *names: str) -> Iterator[None]:
    """Requests to /slow, each begun anew as often as its worker ends."""
    is_over = threading.Event()

    def keep(name: str) -> None:
        while not is_over.is_set():
            fail(gateway, f"/slow?{name}")

    clients = [threading.Thread(target=keep, args=(name,), daemon=True) for name in names]
    for client in clients:
        client.start()
    for name in names:
        wait_until((gateway.folder / f"began-{name}").exists, "the request has begun")
    try:
        yield
    finally:
        is_over.set()
        for pid in gateway.children():  # their requests take longer than a test
            os.kill(pid, signal.SIGKILL)
        for client in clients:
            client.join()


@pytest.mark.parametrize(
    ("target", "ended"),
    [
        ("/bad/exit", "exited with 3"),
        ("/bad/leave", "exited with 0"),
        ("/bad/crash", "was killed by SIGSEGV"),
        ("/bad/hold", "was killed by SIGABRT (its event loop was silent for"),
    ],
)
def test_a_mount_that_ends_three_workers_answers_503_alone(start: Start, target: str, ended: str):
    gateway = start_bad(start)
    end_workers(gateway, target + "?secret")
    workers = gateway.children()
    answer = gateway.ask(target)
    assert status_of(answer) == b"503"
    head = answer.decode().partition("\r\n\r\n")[0].splitlines()
    [seconds] = [line.removeprefix("Retry-After: ") for line in head if "Retry-After" in line]
    assert 1 <= int(seconds) <= 10
    assert status_of(gateway.ask("/bad/")) == b"503"
    assert status_of(gateway.ask("/")) == b"200"
    assert gateway.children() == workers
    mount = mounts_of(gateway)["/bad"]
    known = mount["quarantine"]
    assert (mount["state"], known["deaths"], known["times"]) == ("quarantine", 3, 1)
    assert known["request"] == f"GET {target}"
    assert ended in known["ended"]
    assert quarantined(gateway) == {"/bad"}
    [line] = [line for line in gateway.log_text.splitlines() if "in quarantine for 10 s" in line]
    entry = json.loads(line)
    assert f"mounts.yaml:{2 + gateway.server.count(chr(10)) + 1}:3: mounts./bad: " in line
    assert (entry["level"], entry["mount"]) == ("error", "/bad")
    assert entry["request_id"] == known["request_id"]
    assert "secret" not in entry["message"]
    [said] = [line for line in format_status(gateway.control("status")) if "quarantine" in line]
    assert "its requests have ended 3 workers" in said
    assert "secret" not in said
    records = [record for record in gateway.records if record["status"] == 503]
    assert {r["error"] for r in records} == {
        "mount /bad is in quarantine, because its requests have crashed workers"
    }


def test_two_workers_that_end_prove_nothing(start: Start):
    gateway = start_bad(start)
    end_workers(gateway, "/bad/exit", 2)
    assert status_of(gateway.ask("/bad/")) == b"200"
    assert quarantined(gateway) == set()


def test_workers_that_somebody_else_ends_do_not_count(start: Start):
    gateway = start_bad(start)
    with in_flight(gateway, "a"):
        for number in (signal.SIGKILL, signal.SIGTERM) * 3:
            began = gateway.folder / "began-a"
            wait_until(began.exists, "the request has begun")
            began.unlink()
            [pid] = gateway.children()
            os.kill(pid, number)
            if number == signal.SIGTERM:  # it waits for the request
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: pid not in gateway.children(), "it has ended")
            wait_until(lambda: status_of(fail(gateway, "/")) == b"200", "another worker serves")
        assert quarantined(gateway) == set()


def test_a_busy_neighbour_keeps_serving(start: Start):
    """It is in flight in every worker at every death."""
    gateway = start_bad(start, server=MANUAL + "  workers: 2\n")
    with in_flight(gateway, "a", "b", "c", "d"):
        wait_until(lambda: generation(gateway)["age"] > 4, "it is known who is busy")
        answer = b""
        for _ in range(60):
            answer = fail(gateway, "/bad/exit")
            assert quarantined(gateway) <= {"/bad"}
            if answer:
                break
            wait_until(lambda: status_of(fail(gateway, "/")) == b"200", "another worker serves")
        assert status_of(answer) == b"503"
        assert quarantined(gateway) == {"/bad"}


def test_who_only_waits_for_a_loop_that_is_held_does_not_count(start: Start):
    """The watchdog names the request that holds it."""
    gateway = start_bad(start)
    with in_flight(gateway, "a"):
        for _ in range(3):
            began = gateway.folder / "began-a"
            wait_until(began.exists, "the other request has begun")
            began.unlink()
            assert fail(gateway, "/bad/hold") == b""
            wait_until(lambda: status_of(fail(gateway, "/")) == b"200", "another worker serves")
        assert quarantined(gateway) == {"/bad"}
        assert status_of(gateway.ask("/bad/")) == b"503"


def test_workers_that_come_later_know_of_it(start: Start):
    gateway = start_bad(start)
    end_workers(gateway, "/bad/exit")
    [pid] = gateway.children()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pid not in gateway.children(), "it has ended")
    assert status_of(gateway.ask("/bad/exit")) == b"503"
    assert pid not in gateway.children()


def test_the_front_workers_answer_for_a_mount_of_a_pool(start: Start):
    gateway = start_bad(start, MOUNTS.replace("bad:app", "{app: bad:app, pool: own}"))
    for _ in range(3):
        wait_until(lambda: status_of(gateway.ask("/bad/")) == b"200", "the pool serves")
        assert status_of(gateway.ask("/bad/exit")) == b"502"  # sent to one worker alone
    wait_until(lambda: quarantined(gateway) == {"/bad"}, "it is in quarantine")
    answered = json.loads(gateway.ask("/status", "admin.sock").partition(b"\r\n\r\n")[2])
    [mount] = [mount for mount in answered["mounts"] if mount["mount"] == "/bad"]
    assert mount["quarantine"]["deaths"] == 3
    answer = gateway.ask("/bad/")
    assert status_of(answer) == b"503"
    assert b"so it is paused. Try again in " in answer
    assert status_of(gateway.ask("/")) == b"200"


def test_an_edit_in_place_keeps_it_and_new_code_ends_it(start: Start):
    gateway = start_bad(start, server=MANUAL.replace("false", "true"))
    end_workers(gateway, "/bad/exit")
    gateway.write_table(MOUNTS.replace("bad:app", "{app: bad:app, timeout: 5s}"))
    last = wait_until(lambda: gateway.control("status")["last_reload"], "the edit is served")
    assert (last["exit_code"], last["how"]) == (0, "in place")
    assert quarantined(gateway) == {"/bad"}
    assert status_of(gateway.ask("/bad/exit")) == b"503"
    gateway.write("bad.py", BAD.replace("os._exit(3)", "pass"))
    assert gateway.control("reload")["exit_code"] == 0
    assert quarantined(gateway) == set()
    assert gateway.ask("/bad/exit").endswith(b"well")


def test_it_ends_by_itself_and_the_next_one_is_longer(start: Start):
    gateway = start_bad(start)
    end_workers(gateway, "/bad/exit")
    assert status_of(gateway.ask("/bad/")) == b"503"
    wait_until(lambda: status_of(gateway.ask("/bad/")) == b"200", "it is over", 30)
    wait_until(lambda: "its quarantine is over" in gateway.log_text, "that is logged")
    assert quarantined(gateway) == set()
    end_workers(gateway, "/bad/exit", 1)  # one is enough now
    known = mounts_of(gateway)["/bad"]["quarantine"]
    assert (known["times"], known["deaths"]) == (2, 4)
    assert 10 < known["for"] <= 20


def test_the_time_doubles_up_to_a_limit():
    quarantine = Quarantine("main")
    pauses = [quarantine.begin(0.0) for _ in range(8)]
    assert pauses == [10, 20, 40, 80, 160, MAX_QUARANTINE_SECONDS, MAX_QUARANTINE_SECONDS, 300]
    assert quarantine.seconds == sum(pauses)
