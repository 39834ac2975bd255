"""What a worker writes into the memory that it shares with its supervisor harms itself alone."""

import json
import math
import os
import signal
import struct
import time
from collections.abc import Callable

import pytest
from running import Running, wait_until

from gateway.inflight import MAX_COUNTED, SLOT_BYTES, InFlight, InFlightReader, encode_mount

Start = Callable[..., Running]

SLOTS = 4
USED = 32  # where the count of slots is: behind four numbers of eight bytes


@pytest.fixture
def board() -> InFlightReader:
    """With one request in flight."""
    board = InFlightReader(SLOTS)
    worker = InFlight(board.descriptor)
    worker.write(
        worker.memory, worker.take(), 1.0, b"id", b"client", encode_mount("/") + b"GET / x"
    )
    return board


@pytest.mark.parametrize("size", [0, 1, SLOT_BYTES, (SLOTS + 3) * SLOT_BYTES, 2**40])
def test_its_size_cannot_be_changed(board: InFlightReader, size: int) -> None:
    before = os.fstat(board.descriptor).st_size
    with pytest.raises(PermissionError):
        os.ftruncate(board.descriptor, size)
    assert os.fstat(board.descriptor).st_size == before
    assert board.count() == 1


@pytest.mark.parametrize("count", [SLOTS, SLOTS + 1, 2**32, 2**40, 2**63 - 1, 2**64 - 1])
def test_a_count_of_slots_beyond_its_size_is_not_believed(
    board: InFlightReader, count: int
) -> None:
    os.pwrite(board.descriptor, count.to_bytes(8, "big"), USED)
    assert board.count() == 1
    assert [request.request_id for request in board.requests()] == ["id"]


@pytest.mark.parametrize(
    ("moment", "is_believed"),
    [
        *((1.0, True), (0.0, False), (-1.0, False), (1e11, False), (1e308, False)),
        *((math.inf, False), (-math.inf, False), (math.nan, False)),
    ],
)
def test_a_request_has_begun_in_the_past(
    board: InFlightReader, moment: float, is_believed: bool
) -> None:
    os.pwrite(board.descriptor, struct.pack(">d", moment), SLOT_BYTES)
    assert board.count() == is_believed


def test_texts_may_be_anything(board: InFlightReader) -> None:
    os.pwrite(board.descriptor, bytes(range(256)) * 2, SLOT_BYTES + 8)
    os.pwrite(board.descriptor, SLOTS.to_bytes(8, "big"), USED)
    [request] = board.requests()
    assert json.loads(json.dumps(request._asdict())) == request._asdict()
    os.pwrite(board.descriptor, b"\xff" * 136, 40)
    assert len(board.blocking_request()) == 136


def test_what_was_counted_is_bounded(board: InFlightReader) -> None:
    os.pwrite(board.descriptor, b"\xff" * 32, 0)
    assert board.counts()[1:] == (MAX_COUNTED,) * 3


# --- a whole gateway --------------------------------------------------------------------------

MODULE = """
import glob, os, time

def find():
    for link in glob.glob("/proc/self/fd/*"):
        try:
            if "gateway-inflight" in os.readlink(link):
                return int(link.rpartition("/")[2])
        except OSError:
            pass

def app(environ, start_response):
    start_response("200 OK", [])
    memory, what = find(), environ["PATH_INFO"]
    if what == "/shrink":
        try:
            os.ftruncate(memory, 0)
        except OSError:
            return [b"refused"]
    elif what == "/count":
        for count in (2**40, 2**63 - 1):
            os.pwrite(memory, count.to_bytes(8, "big"), 32)
    elif what == "/junk":
        os.pwrite(memory, os.urandom(1 << 20)[:os.fstat(memory).st_size], 0)
    elif what == "/texts":
        # a request since one second in every slot, whose texts end a record
        since = __import__("struct").pack(">d", time.monotonic() - 1)
        slot = since + b'","x":1}\\n{"' * 60
        for place in range(512, os.fstat(memory).st_size, 512):
            os.pwrite(memory, slot[:512], place)
        os.pwrite(memory, (2**40).to_bytes(8, "big"), 32)
    return [str(os.getpid()).encode()]
"""


@pytest.fixture(
    params=["  /: hostile:app\n", "  /: {app: hostile:app, pool: shop}\npools: {shop: {}}\n"]
)
def gateway(start: Start, request: pytest.FixtureRequest) -> Running:
    return start(request.param, hostile=MODULE)


def find_worker(gateway: Running) -> int:
    """The pid of the one that runs the app."""
    answer = gateway.ask("/pid").rpartition(b"\r\n")[2]
    return int(answer)


def is_replaced(gateway: Running, pid: int) -> bool:
    answer = gateway.ask("/pid")
    return b" 200 " in answer and int(answer.rpartition(b"\r\n")[2]) != pid


@pytest.mark.parametrize("how", ["shrink", "count", "junk", "texts"])
def test_its_worker_is_watched_and_replaced_all_the_same(gateway: Running, how: str) -> None:
    pid = find_worker(gateway)
    assert b" 200 " in gateway.ask(f"/{how}")
    looked = time.monotonic()
    status = gateway.control("status")
    json.dumps(status)
    assert status["status"] == "ready"
    assert b'"mounts"' in gateway.ask("/status", "admin.sock")
    wait_until(lambda: time.monotonic() - looked > 0.6, "the patrol has looked at it")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_replaced(gateway, pid), "the worker is replaced")
    assert "Traceback" not in gateway.log_text
    assert "a fault of the gateway's own" not in gateway.log_text
    for record in gateway.records:
        assert "x" not in record
