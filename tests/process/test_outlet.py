"""Nobody waits for who reads a log: what comes meanwhile is kept, dropped beyond a bound, counted,
and reported; and nothing that a record holds can end its line."""

import json
import os
import pty
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest
from running import Running, wait_until

from gateway import outlet as outlets
from gateway.outlet import MAX_BYTES, WHOLE_WRITE_BYTES, Outlet
from gateway.streams import OutletStream

LINE = b"x" * 99 + b"\n"
TALKATIVE = """
import sys

def app(environ, start_response):
    if environ["PATH_INFO"] == "/print":
        print("y" * 100_000)
        print("y" * 100_000, file=environ["wsgi.errors"])
    if environ["PATH_INFO"] == "/fail":
        raise ValueError("z" * 10_000)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok"]
"""


def make_pipe() -> tuple[int, int]:
    return os.pipe()


def make_socket() -> tuple[int, int]:
    read, write = socket.socketpair()
    return read.detach(), write.detach()


def make_terminal() -> tuple[int, int]:
    read, write = pty.openpty()
    return read, write


@contextmanager
def opened(make: Callable[[], tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The other end stays open: a thread may be writing there."""
    read, write = make()
    try:
        yield read, write
    finally:
        os.close(read)


def read_lines(read: int, count: int) -> list[bytes]:
    """As many whole lines, without the CR that a terminal adds."""
    data = b""
    while data.count(b"\n") < count:
        data += os.read(read, 1 << 16)
    return data.replace(b"\r\n", b"\n").splitlines(keepends=True)


def number(count: int) -> list[bytes]:
    return [b"%099d\n" % each for each in range(count)]


KINDS = pytest.mark.parametrize("make", [make_pipe, make_socket, make_terminal])


def fill_up(outlet: Outlet) -> int:
    """Put lines until some have been dropped; how many were kept."""
    count = 0
    while not outlet.dropped:
        outlet.put(LINE)
        count += 1
    return count - outlet.dropped


@KINDS
def test_lines_come_whole_in_their_order(make: Any) -> None:
    with opened(make) as (read, write):
        outlet = Outlet(write)
        for line in number(2000):  # more than there is room for
            outlet.put(line)
        assert read_lines(read, 2000) == number(2000)
        assert outlet.dropped == 0


def refuse(descriptor: int, data: bytes) -> int:
    """As where the kernel cannot write without waiting."""
    raise BlockingIOError


@pytest.mark.parametrize("way", [outlets._write_nowait, refuse])
def test_a_pipe_that_cannot_be_opened_again_is_written_to_as_well(way: Any) -> None:
    with opened(make_pipe) as (read, write):
        outlet = Outlet(write)
        outlet._try = partial(way, write)
        for line in number(2000):
            outlet.put(line)
        assert read_lines(read, 2000) == number(2000)


def test_a_write_that_takes_a_part_is_gone_on_with() -> None:
    with opened(make_pipe) as (read, write):
        outlet = Outlet(write)
        outlet._try = lambda data: os.write(write, data[:7])
        for line in number(20):
            outlet.put(line)
        assert read_lines(read, 20) == number(20)


def test_a_line_of_any_length_comes_whole_by_a_stream() -> None:
    with opened(make_pipe) as (read, write):
        print("x" * 300_000, file=OutletStream(Outlet(write), 2))
        assert read_lines(read, 1) == [b"x" * 300_000 + b"\n"]


@KINDS
def test_what_a_stalled_reader_has_no_room_for_is_dropped_and_reported_once_it_reads(
    make: Any,
) -> None:
    with opened(make) as (read, write):
        outlet = Outlet(write)
        reported: list[int] = []
        outlet.on_room = reported.append
        kept = fill_up(outlet)
        assert kept * len(LINE) >= MAX_BYTES
        outlet.put(LINE * 10)
        assert outlet.dropped == 11
        assert not reported
        assert read_lines(read, kept) == [LINE] * kept
        wait_until(lambda: reported, "it is reported")
        assert reported == [11]
        outlet.put(b"again\n")
        assert read_lines(read, 1) == [b"again\n"]


def test_what_is_dropped_leaves_no_line_without_its_end_or_begin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outlets, "MAX_BYTES", 4)
    with opened(make_pipe) as (read, write):
        outlet = Outlet(write)
        fill(write)
        for piece in (b"begun, ", b"but ", b"not ended\nnor is this\n", b"nor "):
            outlet.put(piece)
        assert outlet.dropped == 3
        while b"begun, \n" not in (lines := read_lines(read, 1)):
            assert set(lines) == {b" " * (WHOLE_WRITE_BYTES - 1) + b"\n"}
        wait_until(lambda: outlet.is_empty, "all has been read")
        outlet.put(b"that\nwhole\n")
        assert read_lines(read, 1) == [b"whole\n"]
        assert outlet.dropped == 3


def test_flags_of_a_descriptor_that_others_share_stay_as_they_are() -> None:
    with opened(make_pipe) as (_, write):
        outlet = Outlet(write)
        for _ in range(1000):
            outlet.put(LINE)
        assert os.get_blocking(write)


def test_a_child_that_an_app_has_forked_writes_by_itself() -> None:
    with opened(make_pipe) as (read, write):
        outlet = Outlet(write)
        for line in number(1000):
            outlet.put(line)
        child = os.fork()
        if not child:
            outlet.put(b"child\n")
            outlets.FINISH_SECONDS = 10
            outlets.finish(outlet)
            os._exit(0)
        assert len(read_lines(read, 1001)) == 1001
        assert os.waitpid(child, 0)[1] == 0


def test_a_log_that_nobody_reads_stops_nothing() -> None:
    read, write = os.pipe()
    os.close(read)
    outlet = Outlet(write)
    outlet.put(LINE)
    print("x" * 100_000, file=OutletStream(outlet, 2))
    assert outlet.is_empty
    os.close(write)


def test_what_waits_for_a_reader_that_goes_away_is_given_up() -> None:
    read, write = os.pipe()
    outlet = Outlet(write)
    fill_up(outlet)
    os.close(read)
    wait_until(lambda: outlet.is_empty, "the queue is empty")


# --- a gateway whose logs nobody reads ----------------------------------------------------------


@pytest.fixture
def stalled() -> Iterator[tuple[int, int]]:
    with opened(make_pipe) as ends:
        yield ends


def fill(write: int) -> None:
    """No room is left."""
    filler = os.open(f"/proc/self/fd/{write}", os.O_WRONLY | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(filler, b" " * (WHOLE_WRITE_BYTES - 1) + b"\n")
    os.close(filler)


def status(running: Running) -> list[dict[str, Any]]:
    return [w for g in running.control("status")["generations"] for w in g["workers"]]


@pytest.mark.parametrize("style", ["json", "text"])
def test_a_reader_of_the_access_log_that_stalls_keeps_no_request_and_no_stop(
    start: Any, stalled: tuple[int, int], style: str
) -> None:
    _, write = stalled
    running = start(
        "  /: good:app\n",
        f"  access_log: {style}\n  block_timeout: 2s\n  block_warn: 1s\n  workers: 2\n",
        stdout=write,
    )
    workers = running.children()
    fill(write)
    for _ in range(50):
        assert running.ask("/" + "a" * 700).startswith(b"HTTP/1.1 200")
    assert running.children() == workers
    assert not any(worker["silent"] for worker in status(running))
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(10) == 0
    assert "killed" not in running.log_text
    assert "stopped" in running.log_text


def test_what_was_dropped_is_reported_when_the_reader_is_back(
    start: Any, stalled: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = stalled
    running = start("  /: good:app\n", "  workers: 1\n", stdout=write)
    fill(write)
    line = b"GET /" + b"a" * 790 + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    with running.connect() as client:
        count = 2 * MAX_BYTES // 1000
        for _ in range(count // 50):
            client.sendall(line * 50)
            received = b""
            while received.count(b"HTTP/1.1 200") < 50:
                received += client.recv(1 << 16)
    dropped = wait_until(lambda: sum(w["dropped"] for w in status(running)), "it is counted")
    reading = threading.Thread(target=read_all, args=(read,), daemon=True)
    reading.start()
    told = f"{dropped} access records were dropped"
    wait_until(lambda: told in running.log_text, "it is reported")
    for entry in running.log_text.splitlines():
        json.loads(entry)
    running.end()
    os.write(write, b"end\n")
    reading.join(10)


def read_all(read: int) -> None:
    while not os.read(read, 1 << 16).endswith(b"end\n"):
        pass


def test_what_a_worker_leaves_unread_at_its_end_is_counted(
    start: Any, stalled: tuple[int, int]
) -> None:
    _, write = stalled
    server = "  reload_on_edit: false\n  keep_previous: 0s\n"
    running = start("  /: good:app\n", server, stdout=write)
    fill(write)
    for _ in range(50):
        assert running.ask("/").startswith(b"HTTP/1.1 200")
    assert running.control("status")["dropped"] == 0
    assert running.control("reload")["exit_code"] == 0
    wait_until(lambda: running.control("status")["dropped"] >= 45, "it is counted")


POOLS = """
pools:
  greenlets: {}
  threads: {concurrency: threads, threads: 2}
"""
MOUNTS = """
  /: talkative:app
  /greenlets: {app: "talkative:app", pool: greenlets}
  /threads: {app: "talkative:app", pool: threads}
"""


def test_readers_of_both_logs_that_stall_keep_no_request_no_reload_and_no_stop(
    start: Any, stalled: tuple[int, int]
) -> None:
    _, write = stalled
    running = start(MOUNTS, POOLS, stdout=write, stderr=write, talkative=TALKATIVE)
    for mount in ("", "/greenlets", "/threads"):
        wait_until(lambda: b" 200 " in running.ask(f"{mount}/"), "it serves")  # noqa: B023
    fill(write)
    for mount in ("", "/greenlets", "/threads"):
        for target in ("/", "/print", "/fail", "/print", "/"):
            wanted = b"500" if target == "/fail" else b"200"
            assert running.ask(mount + target).startswith(b"HTTP/1.1 " + wanted)
    assert running.control("reload")["exit_code"] == 0
    assert running.ask("/").startswith(b"HTTP/1.1 200")
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(10) == 0
