"""What nobody catches is a record of the error log, whether it is the gateway's or an app's."""

import asyncio
import gc
import json
import logging
import socket
from typing import Any

import pytest
from running import wait_until

from gateway.supervisor.listeners.admin import AdminServer
from gateway.supervisor.tasks import keep_up, start
from gateway.uncaught import report_asyncio, report_own, summarize

LEAVES = """
import sys, threading
import gevent

class Unraisable:
    def __del__(self):
        raise ValueError("in a finalizer")

def fail(kind):
    raise kind("left behind")

def interrupt():
    raise KeyboardInterrupt("left behind")

def app(environ, start_response):
    what = environ["PATH_INFO"].strip("/")
    if what == "greenlet":
        gevent.spawn(fail, ValueError)
    elif what == "exit":
        gevent.spawn(sys.exit, 3)
    elif what == "interrupt":
        gevent.spawn(interrupt)
    elif what == "timer":
        gevent.get_hub().loop.timer(0.001).start(fail, ValueError)
    elif what == "callback":
        gevent.get_hub().loop.run_callback(fail, SystemExit)
    elif what == "thread":
        threading.Thread(target=fail, args=(ValueError,), name="mine").start()
    elif what == "finalizer":
        Unraisable()
    gevent.sleep(0.01)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]
"""
LATE = """
import gevent

def app(environ, start_response):
    gevent.Timeout(0.3).start()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]

gevent.Timeout(0.2).start()
"""


def entries(running: Any) -> list[dict[str, Any]]:
    """The error log; fails where a line is no record."""
    return [json.loads(line) for line in running.log_text.splitlines()]


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("greenlet", "leaves.fail, which it left running, failed: ValueError"),
        ("interrupt", "leaves.interrupt, which it left running, failed: KeyboardInterrupt"),
        ("timer", "leaves.fail, which it left running, failed: ValueError"),
        ("thread", "the thread mine failed, which an app has started"),
        ("finalizer", "Unraisable.__del__"),
        ("exit", ""),
        ("callback", ""),
    ],
)
def test_what_an_app_leaves_behind_is_a_record_and_ends_no_worker(
    start: Any, what: str, told: str
) -> None:
    running = start("  /: leaves:app\n", leaves=LEAVES)
    workers = running.children()
    assert running.ask(f"/{what}").endswith(b"ok")
    if told:
        wait_until(lambda: told in running.log_text, "it is reported")
        [entry] = [entry for entry in entries(running) if told in entry["message"]]
        assert entry["level"] == "error"
        assert "gateway's own" not in entry["message"]
        assert 'File "' in entry["traceback"]
    assert running.ask("/").endswith(b"ok")
    assert running.children() == workers
    assert running.control("stop") == {}
    assert entries(running)[-1]["message"] == "stopped"


def test_a_greenlet_that_fails_while_its_request_runs_is_reported_with_that_request(
    start: Any,
) -> None:
    running = start("  /: leaves:app\n", leaves=LEAVES)
    running.ask("/greenlet")
    wait_until(lambda: running.records, "there is a record")
    [entry] = [entry for entry in entries(running) if "left running" in entry["message"]]
    assert entry["mount"] == "/"
    assert entry["request_id"] == running.records[0]["request_id"]


def test_a_timer_that_an_app_never_cancels_leaves_nothing_behind(start: Any) -> None:
    running = start(
        "  /: {app: 'late:app', timeout: 1s, request_buffering: off}\n  /well: good:app\n",
        "  keep_alive: 1s\n  drain_timeout: 1s\n",
        late=LATE,
    )
    workers = running.children()
    with running.connect() as client, running.connect() as idle:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n0123456789")
        assert client.recv(1000).endswith(b"ok")
        assert client.recv(1000) == b""
        idle.sendall(b"GET /well HTTP/1.1\r\nHost: a\r\n\r\n")
        assert idle.recv(1000)
        assert idle.recv(1000) == b""  # swept
    wait_until(lambda: len(running.records) == 2, "there are records")
    [record] = [record for record in running.records if record["method"] == "POST"]
    assert (record["status"], record["error"]) == (200, "Timeout: 0.3 seconds")

    def in_flight() -> int:
        [generation] = running.control("status")["generations"]
        return sum(worker["in_flight"] for worker in generation["workers"])

    assert not in_flight()
    assert running.control("reload")["exit_code"] == 0
    messages = [entry["message"] for entry in entries(running)]
    assert any("left running" in message for message in messages)
    assert not any("gateway's own" in message for message in messages)
    assert running.children() != workers


# --- the supervisor ----------------------------------------------------------------------------


def test_a_task_that_fails_is_reported_when_it_does(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise LookupError("in the background")

    async def run() -> None:
        task = start(fail())
        await asyncio.wait([task])
        await asyncio.sleep(0)

    asyncio.run(run())
    assert "fail has failed: LookupError: in the background" in caplog.text


def test_a_watch_that_fails_is_begun_again(caplog: pytest.LogCaptureFixture) -> None:
    begun: list[int] = []

    async def watch() -> None:
        begun.append(1)
        if len(begun) < 3:
            raise LookupError("at the first look")

    asyncio.run(keep_up(watch))
    assert len(begun) == 3
    assert caplog.text.count("LookupError: at the first look") >= 2


def test_what_a_callback_of_the_loop_raises_is_reported(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("asyncio")  # is left as it was
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        report_asyncio(loop)
        loop.call_soon(lambda: [][0])
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(run())
    assert "a fault of the gateway's own: Exception in callback" in caplog.text
    assert "IndexError" in caplog.text


def ask_admin(path: str, report: Any) -> bytes:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        admin = AdminServer(listener, report, report, report)
        admin.start()
        try:
            with socket.create_connection(listener.getsockname()) as client:
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                answer = b""
                while data := client.recv(65536):
                    answer += data
                return answer
        finally:
            admin.stop()


def test_a_fault_of_the_admin_listener_is_answered_and_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def report() -> dict[str, Any]:
        raise LookupError("no report")

    async def report_no_json() -> dict[str, Any]:
        return {"a set": {1}}

    async def report_well() -> dict[str, Any]:
        return {"well": True}

    assert ask_admin("/status", report).startswith(b"HTTP/1.1 500 ")
    wait_until(lambda: "LookupError: no report" in caplog.text, "it is reported")
    assert ask_admin("/status", report_no_json).startswith(b"HTTP/1.1 500 ")
    assert ask_admin("/status", report_well).endswith(b'{"well": true}\n')


def test_an_exception_that_cannot_print_itself_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    assert summarize(Mute()).startswith("test_an_exception")
    report_own("a test", Mute())
    assert "a fault of the gateway's own: a test" in caplog.text
    gc.collect()
