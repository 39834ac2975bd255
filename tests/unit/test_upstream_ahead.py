"""What a server answers faster than the client reads is read ahead, within a bound."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from harness import GET, Gateway, wait_until
from scripted import Peer, scripted

from gateway.upstream.link import AHEAD_BYTES, READ_BYTES, Link

Serve = Callable[..., Gateway]
Load = Callable[..., Any]
# more than the kernel holds on the way
LONG = 2 * 1024 * 1024
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LONG


@pytest.fixture(autouse=True)
def all_is_given_back() -> Iterator[None]:
    assert Link.free_bytes == AHEAD_BYTES
    yield
    wait_until(lambda: Link.free_bytes == AHEAD_BYTES, "nothing is held")


class Server:
    """Answers each request of a connection with LONG bytes, and tells of each answer's end."""

    def __init__(self) -> None:
        self.done = threading.Semaphore(0)

    def __call__(self, peer: Peer) -> None:
        while True:
            try:
                peer.read_head()
                peer.send(HEAD, b"x" * LONG)
            except (EOFError, OSError):
                return
            self.done.release()

    def has_answered(self) -> bool:
        return self.done.acquire(blocking=False)


def test_a_server_is_done_before_its_client_has_read(serve: Serve, upstream: Load) -> None:
    answering = Server()
    with scripted(answering) as server:
        mount = upstream(server.address)
        client = serve(mount).connect()
        for _ in range(2):  # on one connection
            client.send(GET)
            wait_until(answering.has_answered, "the server is done")
            assert client.read_answer().content == b"x" * LONG
        assert server.connections == 1
        mount.close()


def test_what_a_client_leaves_is_given_back(serve: Serve, upstream: Load) -> None:
    answering = Server()
    with scripted(answering) as server:
        mount = upstream(server.address)
        gateway = serve(mount)
        client = gateway.connect()
        client.send(GET)
        wait_until(answering.has_answered, "the server is done")
        assert Link.free_bytes < AHEAD_BYTES
        client.close()
        wait_until(lambda: gateway.records, "the request has ended")


def test_beyond_the_bound_the_server_waits(
    serve: Serve, upstream: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = LONG // 2
    monkeypatch.setattr(Link, "free_bytes", bound)
    answering = Server()
    with scripted(answering) as server:
        mount = upstream(server.address)
        greedy = serve(mount).connect()
        greedy.send(GET)
        wait_until(lambda: Link.free_bytes <= bound // 2, "it has as much as is left for others")
        for _ in range(50):  # in which it would get the rest
            gevent.sleep(0.001)
        assert Link.free_bytes > bound // 2 - 2 * READ_BYTES
        assert not answering.has_answered()
        assert greedy.read_answer().content == b"x" * LONG
        assert answering.has_answered()
        wait_until(lambda: Link.free_bytes == bound, "nothing is held")
        mount.close()
