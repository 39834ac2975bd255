"""Which connections to a server are kept: only those whose last answer is certainly complete.

Each test has a server that goes on talking where it should not, in the form of an answer: the next
client's request must reach another connection and get its own answer.
"""

import _socket
import os
import signal
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from gevent import get_hub
from harness import GET, WAIT_SECONDS, Client, Gateway, wait_until
from running import Running
from running import wait_until as wait_for
from scripted import OK, Peer, Scripted, keep_answering, scripted

from gateway.limits import MountLimits
from gateway.upstream.address import Address
from gateway.upstream.link import Link
from gateway.upstream.mount import Upstream

Serve = Callable[..., Gateway]
Load = Callable[..., Any]
EVIL = OK.replace(b"fine", b"evil")
UPGRADE = b"GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a.example\r\n\r\n"


class Session:
    """A script: what a server does that has switched protocols and never ends by itself. It answers
    whatever comes as if it were a request; ``typed`` is what came, and ``has_ended`` whether the
    gateway has closed."""

    def __init__(self, before: bytes = b"", *, chatters: bool = False) -> None:
        self.typed = b""
        self.has_ended = threading.Event()
        self._before = before
        self._chatters = chatters

    def __call__(self, peer: Peer) -> None:
        peer.answer(SWITCHED + self._before)
        try:
            if self._chatters:
                while True:
                    peer.send(EVIL)
            while data := peer.socket.recv(65536):
                self.typed += data
                peer.send(EVIL)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            self.has_ended.set()


def open_tunnel(gateway: Gateway) -> Client:
    client = gateway.connect()
    client.send(UPGRADE)
    while client._read_line():
        pass
    return client


def reset(client: Client) -> None:
    client._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def end_by_deadline(gateway: Gateway, client: Client) -> None:
    gateway.pass_time(0)
    gateway.pass_time(301)


def end_by_close(gateway: Gateway, client: Client) -> None:
    client.close()


def end_by_reset(gateway: Gateway, client: Client) -> None:
    reset(client)


def end_by_cut(gateway: Gateway, client: Client) -> None:
    get_hub().loop.run_callback(gateway.connection.cut)


ENDS = (
    (end_by_deadline, False),  # a chattering one is not silent
    *(
        (end, chatters)
        for end in (end_by_close, end_by_reset, end_by_cut)
        for chatters in (False, True)
    ),
)


def expect_next_is_answered_elsewhere(gateway: Gateway, server: Scripted) -> None:
    """And the time of the next after that."""
    for _ in range(2):
        assert gateway.ask(GET).content == b"fine"
    assert server.connections == 2


@pytest.mark.parametrize(("end", "chatters"), ENDS)
def test_connection_of_an_ended_tunnel_is_never_used_again(
    serve: Serve, upstream: Load, end: Callable[[Gateway, Client], None], chatters: bool
) -> None:
    session = Session(chatters=chatters)
    with scripted(session, keep_answering(), tcp=True) as server:
        gateway = serve(upstream(server.address, keep_alive_seconds=60.0))
        client = open_tunnel(gateway)
        end(gateway, client)
        wait_until(lambda: len(gateway.records) == 1, "the tunnel has ended")
        wait_until(session.has_ended.is_set, "the server hears of it")
        expect_next_is_answered_elsewhere(gateway, server)
    assert session.typed == b""


def test_connection_of_a_tunnel_whose_client_ended_first_is_not_used_again(
    serve: Serve, upstream: Load
) -> None:
    """Both half-closes are passed on; the server then ends its side too."""

    def script(peer: Peer) -> None:
        peer.answer(SWITCHED)
        peer.wait_for_end()
        peer.send(b"last")

    with scripted(script, keep_answering()) as server:
        gateway = serve(upstream(server.address, keep_alive_seconds=60.0))
        client = open_tunnel(gateway)
        client.end()
        assert client._read_length(4) == b"last"
        client.expect_end()
        expect_next_is_answered_elsewhere(gateway, server)


def test_connection_of_a_tunnel_that_was_cut_within_its_head_is_not_used_again(
    serve: Serve, upstream: Load
) -> None:
    """The client has left before its 101 could be sent."""
    may_switch = threading.Event()
    session = Session()

    def script(peer: Peer) -> None:
        assert may_switch.wait(WAIT_SECONDS)
        session(peer)

    with scripted(script, keep_answering()) as server:
        gateway = serve(upstream(server.address, keep_alive_seconds=60.0))
        client = gateway.connect()
        client.send(UPGRADE)
        wait_until(lambda: server.connections, "the server is asked")
        gateway.connection.wire._socket.shutdown(socket.SHUT_WR)  # so that sending the 101 fails
        may_switch.set()
        wait_until(session.has_ended.is_set, "the server hears of it")
        expect_next_is_answered_elsewhere(gateway, server)
    assert session.typed == b""


def test_connection_that_has_switched_unasked_is_not_used_again(
    serve: Serve, upstream: Load
) -> None:
    session = Session()
    with scripted(session, keep_answering()) as server:
        gateway = serve(upstream(server.address, keep_alive_seconds=60.0))
        assert gateway.ask(GET).status == 502
        wait_until(session.has_ended.is_set, "the server hears of it")
        expect_next_is_answered_elsewhere(gateway, server)
    assert session.typed == b""


def test_session_of_a_worker_that_is_killed_ends(tmp_path: Path) -> None:
    session = Session()
    with scripted(session, keep_answering()) as server:
        running = Running(tmp_path, f'  /: {{upstream: "{server.address}"}}\n')
        try:
            with running.connect() as client:
                client.sendall(UPGRADE)
                assert client.recv(65536).startswith(b"HTTP/1.1 101 ")
                [worker] = running.children()
                running_worker = Path(f"/proc/{worker}")
                os.kill(worker, signal.SIGKILL)
                wait_for(session.has_ended.is_set, "the server hears of it")
                wait_for(lambda: not running_worker.exists(), "it is replaced")
            assert wait_for(lambda: answer_of(running), "it is served again").endswith(b"fine")
        finally:
            running.end()
    assert session.typed == b""


def answer_of(running: Running) -> bytes:
    try:
        answer = running.ask()
    except OSError:
        return b""
    return answer if answer.startswith(b"HTTP/1.1 200 ") else b""


# --- what comes behind an answer ------------------------------------------------------------------


def test_connection_is_not_used_again_after_a_head_request(serve: Serve, upstream: Load) -> None:
    """Some servers send content all the same, and it can look like an answer."""
    with scripted(
        lambda peer: (peer.answer(OK.removesuffix(b"fine")), peer.wait_for_end()),
        keep_answering(),
    ) as server:
        client = serve(upstream(server.address, keep_alive_seconds=60.0)).connect()
        assert client.ask(HEAD, method="HEAD").status == 200
        assert client.ask(GET).content == b"fine"
        assert client.ask(GET).content == b"fine"
        assert server.connections == 2


@pytest.mark.parametrize("request_", [GET, GET.replace(b"GET", b"POST", 1)])
def test_bytes_that_nobody_has_read_yet_are_not_the_next_answer(
    serve: Serve, upstream: Load, request_: bytes
) -> None:
    """They lie in the kernel: the event loop has not turned since they came."""
    has_spoken = threading.Event()
    may_speak = threading.Event()

    def script(peer: Peer) -> None:
        peer.answer()
        assert may_speak.wait(WAIT_SECONDS)
        peer.send(EVIL)
        has_spoken.set()
        peer.wait_for_end()

    with scripted(script, keep_answering()) as server:
        app: Upstream = upstream(server.address, keep_alive_seconds=60.0)

        def app_after_a_pause(environ: Any, start_response: Any) -> Any:
            may_speak.set()
            if server.connections:  # without giving the loop a turn
                assert has_spoken.wait(WAIT_SECONDS)
            return app(environ, start_response)

        gateway = serve({"/": app, "/second": app_after_a_pause})
        client = gateway.connect()
        assert client.ask(GET).content == b"fine"
        second = request_.replace(b" / ", b" /second ").replace(
            b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n"
        )
        assert client.ask(second).content == b"fine"
        assert server.connections == 2


def test_connection_that_was_read_ahead_is_watched_while_it_is_idle() -> None:
    """The last of an answer came while nobody waited for it, as its client was slow."""
    address, (ours, theirs) = Address("unix:/unused"), _socket.socketpair()
    ours.setblocking(False)
    link = Link(ours)
    theirs.send(b"the last of an answer")
    wait_until(lambda: link._received, "it is read ahead")
    assert link.receive() == b"the last of an answer"
    address.give_back(link)
    assert not link.is_closed
    theirs.send(EVIL)
    wait_until(lambda: link.is_closed, "the connection is closed")
    theirs.close()


def test_connection_that_took_no_request_is_not_kept() -> None:
    """Its server has closed; what it had sent before looks like an answer."""
    address, (ours, theirs) = Address("unix:/unused"), _socket.socketpair()
    ours.setblocking(False)
    link = Link(ours)
    theirs.send(OK)
    theirs.close()
    assert link.offer(GET) == b""
    assert not link.is_reusable
    address.give_back(link)
    assert link.is_closed


@pytest.mark.parametrize("is_torn", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK,
    ],
)
def test_surplus_is_never_the_next_answer(
    serve: Serve, upstream: Load, answer: bytes, is_torn: bool
) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        whole = answer + EVIL
        with suppress(BrokenPipeError):  # closed already
            peer.send(*([whole[:-40], whole[-40:]] if is_torn else [whole]))
        peer.wait_for_end()

    with scripted(script, keep_answering()) as server:
        client = serve(upstream(server.address, keep_alive_seconds=60.0)).connect()
        assert client.ask(GET).status in (200, 204, 304)
        wait_until(lambda: server.connections == 1 and has_closed(server), "it is closed")
        assert client.ask(GET).content == b"fine"
        assert server.connections == 2


def has_closed(server: Scripted) -> bool:
    return not server._threads[1].is_alive()


# --- what was not sent whole ----------------------------------------------------------------------


@pytest.mark.parametrize("framing", [b"Content-Length: 900000", b"Transfer-Encoding: chunked"])
def test_connection_whose_request_was_not_sent_whole_is_not_used_again(
    serve: Serve, upstream: Load, framing: bytes
) -> None:
    """The server has answered early and promises to keep the connection."""
    with scripted(lambda peer: (peer.answer(), peer.wait_for_end()), keep_answering()) as server:
        streams = MountLimits(request_buffering="off")
        gateway = serve(upstream(server.address, keep_alive_seconds=60.0), mount_limits=streams)
        client = gateway.connect()
        client.send(b"PUT / HTTP/1.1\r\nHost: a.example\r\n" + framing + b"\r\n\r\n")
        assert client.read_answer().content == b"fine"
        client.close()
        expect_next_is_answered_elsewhere(gateway, server)


def test_connection_whose_client_left_is_not_used_again(serve: Serve, upstream: Load) -> None:
    may_answer = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_head()
        assert may_answer.wait(WAIT_SECONDS)
        peer.wait_for_end()

    with scripted(script, keep_answering()) as server:
        gateway = serve(upstream(server.address, keep_alive_seconds=60.0))
        client = gateway.connect()
        client.send(GET)
        wait_until(lambda: server.connections, "the server is asked")
        client.close()
        wait_until(lambda: len(gateway.records) == 1, "the request has ended")
        may_answer.set()
        expect_next_is_answered_elsewhere(gateway, server)


def test_connection_whose_answer_nobody_read_to_its_end_is_not_used_again(
    serve: Serve, upstream: Load
) -> None:
    def script(peer: Peer) -> None:
        peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 90000000\r\n\r\n" + b"x" * 65536)
        peer.wait_for_end()

    with scripted(script, keep_answering()) as server:
        gateway = serve(upstream(server.address, keep_alive_seconds=60.0))
        client = gateway.connect()
        client.send(GET)
        client._read_head()
        reset(client)
        wait_until(lambda: len(gateway.records) == 1, "the request has ended")
        expect_next_is_answered_elsewhere(gateway, server)


# --- checks ---------------------------------------------------------------------------------------


def test_connection_of_a_health_check_is_not_used_for_requests(
    serve: Serve, upstream: Load
) -> None:
    """It was asked to be closed (RFC 9112 §9.6), even where the server does not do so."""
    has_closed = threading.Event()

    def script(peer: Peer) -> None:
        assert "Connection: close" in peer.answer()
        peer.wait_for_end()
        has_closed.set()

    with scripted(script, keep_answering()) as server:
        app = upstream(
            server.address, health="/", health_interval_seconds=60.0, keep_alive_seconds=60.0
        )
        wait_until(has_closed.is_set, "the connection is closed")
        expect_next_is_answered_elsewhere(serve(app), server)
        app.close()
