"""Pieces of a response on a real TCP connection: which share a segment, and when they leave."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event
from harness import GET, WAIT_SECONDS, TcpListener, wait_until

from gateway.http.wire import push
from gateway.http.wire.push import BURST_SECONDS, Pusher

PIECE = b"x" * 1024
PIECES = 64
# less than the 200 ms that the kernel itself holds a segment back: one that left sooner was pushed
KERNEL_SECONDS = 0.15
TRIES = 10


def count_segments(client: Any) -> int:
    """Those with content that a client's kernel has received: tcpi_data_segs_in (linux/tcp.h)."""
    info = client._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    [count] = struct.unpack_from("=I", info, 152)
    return int(count)


def give_at_once(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [])
    return (PIECE for _ in range(PIECES))


def give_at_once_with_length(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Length", str(PIECES * len(PIECE)))])
    return (PIECE for _ in range(PIECES))


def write_at_once(environ: Any, start_response: Any) -> list[bytes]:
    write = start_response("200 OK", [])
    for _ in range(PIECES):
        write(PIECE)
    return []


@pytest.mark.parametrize("app", [give_at_once, give_at_once_with_length, write_at_once])
def test_pieces_that_are_given_at_once_share_segments(serve: Any, app: Any) -> None:
    client = serve(app, listener=TcpListener()).connect()
    assert client.ask(GET).content == PIECE * PIECES
    assert count_segments(client) < PIECES / 4


def test_pieces_that_are_given_slowly_have_a_segment_each(serve: Any) -> None:
    asked_for = Event()

    def give_slowly(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        for _ in range(3):
            yield PIECE
            asked_for.wait()
            asked_for.clear()
            gevent.sleep(BURST_SECONDS * 2)

    client = serve(give_slowly, listener=TcpListener()).connect()
    client.send(GET)
    for count in range(1, 4):
        wait_until(lambda count=count: count_segments(client) == count)  # type: ignore[misc]
        asked_for.set()
    assert client.read_answer().content == PIECE * 3


def test_a_burst_leaves_as_soon_as_the_app_waits(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "PUSH_SECONDS", WAIT_SECONDS)  # the thread has no part in it
    has_arrived = Event()
    waited: list[float] = []

    def give_and_wait(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield from (b"first", b"second", b"third")
        began = time.monotonic()
        assert has_arrived.wait(WAIT_SECONDS)
        waited.append(time.monotonic() - began)

    gateway = serve(give_and_wait, listener=TcpListener())
    for _ in range(TRIES):
        has_arrived.clear()
        client = gateway.connect()
        client.send(GET)
        data = b""
        while not data.endswith(b"third\r\n"):
            data += client._socket.recv(4096)
        has_arrived.set()
        client.close()
    assert len(waited) == TRIES
    assert min(waited) < KERNEL_SECONDS


def test_a_burst_has_left_while_the_app_computes(serve: Any) -> None:
    """Also without a turn of the event loop, and sooner than the kernel alone would do it."""
    has_arrived = threading.Semaphore(0)
    waited: list[float] = []

    def give_and_compute(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield from (b"first", b"second", b"third")
        began = time.monotonic()
        assert has_arrived.acquire(timeout=WAIT_SECONDS)  # the event loop's whole thread waits
        waited.append(time.monotonic() - began)
        yield b"last"

    def read() -> None:
        data = b""
        while not data.endswith(b"third\r\n"):
            data += connected.recv(4096)
        has_arrived.release()

    def ask() -> None:
        reader = threading.Thread(target=read)
        reader.start()
        connected.sendall(GET)
        wait_until(lambda: not reader.is_alive())

    gateway = serve(give_and_compute, listener=TcpListener())
    for _ in range(TRIES):
        with gateway.listener.connect("192.0.2.1") as connected:
            ask()
    assert len(waited) == TRIES
    assert min(waited) < KERNEL_SECONDS


@pytest.fixture
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    with ours, theirs:
        yield ours, theirs


def measure(send: Callable[[], object], receiver: socket.socket) -> float:
    began = time.monotonic()
    send()
    assert receiver.recv(10) == b"held back"
    return time.monotonic() - began


def test_what_is_held_back_is_pushed_sooner_than_by_the_kernel(connected: Any) -> None:
    sender, receiver = connected
    pusher = Pusher()
    hold_back = lambda: sender.send(b"held back", socket.MSG_MORE)  # noqa: E731

    def hold_back_and_tell() -> None:
        hold_back()
        pusher.hold(sender)

    try:
        assert min(measure(hold_back, receiver) for _ in range(3)) > KERNEL_SECONDS
        waited = [measure(hold_back_and_tell, receiver) for _ in range(TRIES)]
        assert min(waited) < KERNEL_SECONDS
    finally:
        pusher.close()


def test_a_socket_that_was_closed_meanwhile_does_not_stop_the_pushes(connected: Any) -> None:
    sender, receiver = connected
    gone = socket.socket()
    gone.close()
    pusher = Pusher()

    def hold_back() -> None:
        pusher.hold(gone)
        sender.send(b"held back", socket.MSG_MORE)
        pusher.hold(sender)

    try:
        waited = [measure(hold_back, receiver) for _ in range(TRIES)]
        assert min(waited) < KERNEL_SECONDS
    finally:
        pusher.close()


class HeldAgain:
    """A socket behind which the app holds back more, while it is being pushed."""

    def __init__(self, pusher: Pusher) -> None:
        self._pusher = pusher
        self.pushes = 0

    def setsockopt(self, *_: int) -> None:
        self.pushes += 1
        if self.pushes == 1:
            self._pusher.hold(self)


def test_what_is_held_back_during_a_push_is_pushed_too() -> None:
    pusher = Pusher()
    try:
        sender = HeldAgain(pusher)
        pusher.hold(sender)
        wait_until(lambda: sender.pushes == 2)
    finally:
        pusher.close()
