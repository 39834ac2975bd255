"""Workers that end while they serve: what is recorded of their requests, and who goes on."""

import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from running import Running, wait_until

Start = Callable[..., Running]
MANUAL = "  reload_on_edit: false\n"
MOUNTS = "  /: good:app\n  /slow: slow:app\n"
SLOW = """
import pathlib, time
here = pathlib.Path(__file__).parent
def app(environ, start_response):
    if environ["PATH_INFO"] == "/crash":
        import ctypes
        ctypes.string_at(0)
    (here / f"began-{environ['QUERY_STRING']}").touch()
    time.sleep(60)
"""


def kill(gateway: Running) -> set[int]:
    """Every worker at once; their pids."""
    pids = gateway.children()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return pids


def fail(gateway: Running, target: str) -> bytes:
    """What comes of a request whose worker is killed."""
    try:
        return gateway.ask(target)
    except OSError:
        return b""


def test_requests_of_a_killed_worker_get_their_records(start: Start) -> None:
    gateway = start(MOUNTS, MANUAL, slow=SLOW)
    gateway.ask("/before")
    with ThreadPoolExecutor(2) as pool:
        for name in ("a", "b"):
            pool.submit(fail, gateway, f"/slow/page?{name}")
            wait_until((gateway.folder / f"began-{name}").exists, "the request has begun")
        [pid] = kill(gateway)
    wait_until(gateway.is_ready, "another worker serves")
    records = wait_until(lambda: gateway.records[1:], "the records are written")
    assert [(r["target"], r["mount"], r["status"], r["method"]) for r in records] == [
        ("/slow/page?a", "/slow", 502, "GET"),
        ("/slow/page?b", "/slow", 502, "GET"),
    ]
    assert {r["error"] for r in records} == {f"worker {pid} was killed by SIGKILL"}
    assert all(r["request_id"] and r["client"] == f"unix:{os.getuid()}" for r in records), records
    assert all(0 < r["duration_ms"] < 20_000 for r in records)
    assert records[0].keys() == gateway.records[0].keys() | {"error"}
    assert "was killed by SIGKILL, with requests in flight: 2, after" in gateway.log_text


@pytest.mark.parametrize("style", ["text", "off"])
def test_the_records_are_of_the_table_s_kind(start: Start, style: str) -> None:
    gateway = start(MOUNTS, f"{MANUAL}  access_log: {style}\n", slow=SLOW)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(fail, gateway, "/slow/page?a")
        wait_until((gateway.folder / "began-a").exists, "the request has begun")
        [pid] = kill(gateway)
    wait_until(lambda: "requests in flight: 1" in gateway.log_text, "its end is told")
    text = (gateway.folder / "records").read_text()
    line = f"GET /slow/page?a  <- /slow  unix:{os.getuid()}  [worker {pid} was killed by SIGKILL]\n"
    assert text.endswith(line) if style == "text" else text == ""


def test_a_crash_in_c_tells_the_stack(start: Start) -> None:
    gateway = start(MOUNTS, MANUAL, slow=SLOW)
    assert fail(gateway, "/slow/crash") == b""
    wait_until(lambda: "was killed by SIGSEGV" in gateway.log_text, "its end is told")
    assert "Fatal Python error: Segmentation fault" in gateway.log_text
    assert "slow.py" in gateway.log_text
    [record] = wait_until(lambda: gateway.records, "its record is written")
    assert (record["target"], record["status"]) == ("/slow/crash", 502)


def test_killing_all_workers_again_and_again_is_over_within_a_second(start: Start) -> None:
    gateway = start(MOUNTS, f"{MANUAL}  workers: 3\n", slow=SLOW)
    for _ in range(4):
        wait_until(lambda: status(gateway)["ready"] == 3, "all are ready")
        killed = kill(gateway)
        wait_until(lambda pids=killed: not pids & gateway.children(), "they have gone")
        assert b" 200 " in gateway.ask()  # waits in the kernel's queue
    assert "a new one starts in 1 s" not in gateway.log_text


def test_what_was_answered_has_one_record_alone(start: Start) -> None:
    gateway = start(MOUNTS, MANUAL, slow=SLOW)
    for _ in range(3):
        gateway.ask("/x")
    wait_until(lambda: len(gateway.records) == 3, "the records are written")
    kill(gateway)
    wait_until(lambda: "was killed by SIGKILL" in gateway.log_text, "its end is told")
    assert [record["status"] for record in gateway.records] == [200] * 3


def status(gateway: Running) -> Any:
    return json.loads(gateway.ask("/readyz", "admin.sock").partition(b"\r\n\r\n")[2])
