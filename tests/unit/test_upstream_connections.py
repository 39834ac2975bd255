"""Which connection and which address a request takes: reuse, retries, balance, health."""

import _socket
import logging
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from harness import GET, Gateway, wait_until
from scripted import OK, WAIT_SECONDS, Peer, Script, keep_answering, scripted

from gateway.errors import ClientDisconnected
from gateway.limits import MountLimits
from gateway.upstream import address
from gateway.upstream.address import Address
from gateway.upstream.balance import Balance
from gateway.upstream.hop import Hop, NotSentError
from gateway.upstream.link import Link

Serve = Callable[..., Gateway]
Load = Callable[..., Any]
STREAMS = MountLimits(request_buffering="off")
HOST = b" / HTTP/1.1\r\nHost: a.example\r\n"
NOBODY = "unix:/nonexistent/socket"


def close_at_the_next(peer: Peer) -> None:
    """A script: the second request on a connection is met by its close."""
    peer.answer()
    peer.read_head()


# --- reuse ----------------------------------------------------------------------------------------


def test_connection_is_used_again(serve: Serve, upstream: Load) -> None:
    with scripted(keep_answering()) as server:
        client = serve(upstream(server.address)).connect()
        for _ in range(3):
            assert client.ask(GET).content == b"fine"
        assert server.connections == 1


def test_connection_is_used_for_so_many_requests_and_then_for_none(
    serve: Serve, upstream: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(address, "MAX_USES", 3)
    with scripted(*[keep_answering()] * 3) as server:
        client = serve(upstream(server.address)).connect()
        used = []
        for _ in range(7):
            assert client.ask(GET).content == b"fine"
            used.append(server.connections)
        assert used == [1, 1, 1, 2, 2, 2, 3]


def test_connection_that_was_used_last_comes_first(serve: Serve, upstream: Load) -> None:
    both = threading.Barrier(2)
    order: list[str] = []

    def script(name: str) -> Script:
        def run(peer: Peer) -> None:
            peer.read_head()
            both.wait(WAIT_SECONDS)
            if name == "second":
                assert has_first.wait(WAIT_SECONDS)
            peer.send(OK)
            while True:
                peer.answer()
                order.append(name)

        return run

    has_first = threading.Event()
    with scripted(script("first"), script("second")) as server:
        gateway = serve(upstream(server.address))
        clients = [gateway.connect(), gateway.connect()]
        for client in clients:
            client.send(GET)
        wait_until(lambda: server.connections == 2)
        clients[0].read_answer()
        has_first.set()
        clients[1].read_answer()
        clients[0].ask(GET)
    assert order == ["second"]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\nfine",
        b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nfine",
        OK + b"surplus",
        b"HTTP/1.1 204 No Content\r\n\r\nsurplus",
    ],
)
def test_connection_is_not_used_again_where_its_end_is_not_sure(
    serve: Serve, upstream: Load, answer: bytes
) -> None:
    with scripted(lambda peer: (peer.answer(answer), peer.wait_for_end())) as server:
        client = serve(upstream(server.address)).connect()
        for _ in range(2):
            assert client.ask(GET).status in (200, 204)
        assert server.connections == 2


def test_connection_with_content_still_to_be_sent_is_not_used_again(
    serve: Serve, upstream: Load
) -> None:
    def script(peer: Peer) -> None:
        peer.answer()
        peer.wait_for_end()

    with scripted(script) as server:
        gateway = serve(upstream(server.address), mount_limits=STREAMS)
        early = b"PUT" + HOST + b"Content-Length: 100000\r\n\r\nbegin"
        client = gateway.connect()
        assert client.ask(early).content == b"fine"
        assert client.ask(b"x" * 99995 + GET).content == b"fine"
        assert server.connections == 2


def test_what_comes_on_an_idle_connection_is_nobodys_answer(serve: Serve, upstream: Load) -> None:
    def script(peer: Peer) -> None:
        peer.answer()
        assert is_idle.wait(WAIT_SECONDS)
        peer.send(OK.replace(b"fine", b"evil"))
        peer.wait_for_end()
        closed.set()

    is_idle, closed = threading.Event(), threading.Event()
    with scripted(script, keep_answering()) as server:
        client = serve(upstream(server.address, keep_alive_seconds=60.0)).connect()
        assert client.ask(GET).content == b"fine"
        is_idle.set()
        wait_until(closed.is_set, "the connection is closed")
        assert client.ask(GET).content == b"fine"
        assert server.connections == 2


def test_idle_connection_is_closed_in_time(serve: Serve, upstream: Load) -> None:
    closed = threading.Event()

    def script(peer: Peer) -> None:
        peer.answer()
        peer.wait_for_end()
        closed.set()

    with scripted(script) as server:
        client = serve(upstream(server.address, keep_alive_seconds=0.1)).connect()
        client.ask(GET)
        wait_until(closed.is_set, "the connection is closed")


def test_connection_is_not_kept_where_the_table_says_so(serve: Serve, upstream: Load) -> None:
    with scripted(lambda peer: (peer.answer(), peer.wait_for_end())) as server:
        client = serve(upstream(server.address, keep_alive_seconds=0)).connect()
        for _ in range(2):
            client.ask(GET)
        assert server.connections == 2


def test_request_in_flight_goes_on_where_its_mount_is_closed(serve: Serve, upstream: Load) -> None:
    go_on, closed = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.read_head()
        assert go_on.wait(WAIT_SECONDS)
        peer.send(OK)
        peer.wait_for_end()
        closed.set()

    with scripted(script) as server:
        app = upstream(server.address, keep_alive_seconds=60.0)
        client = serve(app).connect()
        client.send(GET)
        wait_until(lambda: server.connections, "the server is asked")
        app.close()
        go_on.set()
        assert client.read_answer().content == b"fine"
        wait_until(closed.is_set, "the connection is not kept")


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_connection_with_a_fault_to_be_told_is_not_kept(is_interrupted: bool) -> None:
    address, (ours, theirs) = Address("unix:/unused"), _socket.socketpair()
    ours.setblocking(False)
    link = Link(ours)
    if is_interrupted:
        link.interrupt(ClientDisconnected("an earlier request's"))
    address.give_back(link)
    assert link.is_closed is is_interrupted
    assert (address.take(False) is None) is is_interrupted
    link.close()
    theirs.close()


# --- asked again ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"PROPFIND"])
@pytest.mark.parametrize("content", [b"", b"content"])
def test_request_that_may_be_repeated_is_asked_once_more(
    serve: Serve, upstream: Load, method: bytes, content: bytes
) -> None:
    request = method + HOST + b"Content-Length: %d\r\n\r\n" % len(content) + content
    answer = OK.removesuffix(b"fine") if method == b"HEAD" else OK
    got: list[bytes] = []

    def script(peer: Peer) -> None:
        peer.read_head()
        got.append(peer.read(len(content)))
        peer.send(answer)

    with scripted(lambda peer: (peer.answer(), peer.read_head()), script) as server:
        client = serve(upstream(server.address)).connect()
        assert client.ask(GET).status == 200
        assert client.ask(request, method=method.decode()).status == 200
        assert server.connections == 2
    assert got == [content]


@pytest.mark.parametrize("method", [b"POST", b"PATCH"])
def test_request_that_may_not_be_repeated_is_502(
    serve: Serve, upstream: Load, method: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    request = method + HOST + b"Content-Length: 0\r\n\r\n"
    with scripted(close_at_the_next, keep_answering()) as server:
        gateway = serve(upstream(server.address))
        client = gateway.connect()
        assert client.ask(GET).status == 200
        assert client.ask(request).status == 502
        assert server.connections == 1
        assert gateway.records[1]["error"] == (
            f"upstream {server.address}: closed without an answer"
        )


def test_request_whose_content_is_gone_is_502(serve: Serve, upstream: Load) -> None:
    request = b"PUT" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
    with scripted(close_at_the_next, keep_answering()) as server:
        client = serve(upstream(server.address), mount_limits=STREAMS).connect()
        assert client.ask(GET).status == 200
        assert client.ask(request).status == 502
        assert server.connections == 1


def test_request_is_asked_no_third_time(serve: Serve, upstream: Load) -> None:
    with scripted(close_at_the_next, lambda peer: peer.read_head(), keep_answering()) as server:
        client = serve(upstream(server.address)).connect()
        assert client.ask(GET).status == 200
        assert client.ask(GET).status == 502
        assert server.connections == 2


def test_request_whose_new_connection_breaks_is_not_asked_again(
    serve: Serve, upstream: Load
) -> None:
    """It was not closed for being idle, so the request may be what has ended the server."""
    with scripted(lambda peer: peer.read_head(), keep_answering()) as server:
        assert serve(upstream(server.address)).ask().status == 502
        assert server.connections == 1


def test_request_is_not_asked_again_once_an_answer_has_begun(serve: Serve, upstream: Load) -> None:
    with scripted(lambda peer: peer.answer(b"H")) as server:
        assert serve(upstream(server.address)).ask().status == 502
        assert server.connections == 1


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_request_of_which_nothing_was_sent_is_asked_anew_of_a_pool(
    serve: Serve, upstream: Load, method: bytes
) -> None:
    """A kept connection to a pool's worker is not looked at before it is used."""
    request = method + HOST + b"Content-Length: 7\r\n\r\ncontent"
    got: list[bytes] = []

    def script(peer: Peer) -> None:
        peer.read_head()
        got.append(peer.read(7))
        peer.send(OK)

    close = threading.Event()
    with scripted(lambda peer: (peer.answer(), close.wait(WAIT_SECONDS)), script) as server:
        app = upstream(server.address, is_own=True)
        client = serve(app).connect()
        assert client.ask(GET).status == 200
        [link] = app._balance.addresses[0]._idle
        link._watch(False)  # as if the loop had not turned since the server has closed
        close.set()
        wait_until(link.has_input, "it is closed")
        assert client.ask(request).status == 200
        assert server.connections == 2
    assert got == [b"content"]


def test_a_kept_connection_that_is_closed_takes_no_request() -> None:
    address, (ours, theirs) = Address("unix:/unused", is_own=True), _socket.socketpair()
    ours.setblocking(False)
    address.give_back(Link(ours))
    theirs.close()
    link = address.take(must_live=True)
    assert link is not None
    hop = Hop(address, link)
    with pytest.raises(NotSentError):
        hop.send(GET, b"", 0, None)
    hop.end()
    assert link.is_closed


@pytest.mark.parametrize("must_live", [False, True])
def test_what_may_not_be_repeated_takes_no_connection_that_is_closed(must_live: bool) -> None:
    """The server's close lies in the kernel, unseen: the loop has not turned since."""
    address, (ours, theirs) = Address("unix:/unused"), _socket.socketpair()
    ours.setblocking(False)
    link = Link(ours)
    address.give_back(link)
    theirs.close()
    assert (address.take(must_live) is None) is must_live
    link.close()


# --- several addresses ----------------------------------------------------------------------------


def test_requests_take_turns(serve: Serve, upstream: Load) -> None:
    answers = [OK.replace(b"fine", name) for name in (b"no 1", b"no 2", b"no 3")]
    with (
        scripted(keep_answering(answers[0])) as one,
        scripted(keep_answering(answers[1])) as two,
        scripted(keep_answering(answers[2]), tcp=True) as three,
    ):
        client = serve(upstream(one.address, two.address, three.address)).connect()
        got = [client.ask(GET).content for _ in range(6)]
    assert got == [b"no 1", b"no 2", b"no 3"] * 2


def test_address_with_fewer_requests_in_flight_is_asked(serve: Serve, upstream: Load) -> None:
    go_on = threading.Event()

    def slow(peer: Peer) -> None:
        peer.read_head()
        assert go_on.wait(WAIT_SECONDS)
        peer.send(OK.replace(b"fine", b"slow"))

    with scripted(slow) as one, scripted(keep_answering()) as two:
        gateway = serve(upstream(one.address, two.address))
        waiting, client = gateway.connect(), gateway.connect()
        waiting.send(GET)
        wait_until(lambda: one.connections)
        assert [client.ask(GET).content for _ in range(3)] == [b"fine"] * 3
        go_on.set()
        assert waiting.read_answer().content == b"slow"


def test_address_where_nobody_listens_is_passed_over(serve: Serve, upstream: Load) -> None:
    with scripted(keep_answering()) as server:
        app = upstream(NOBODY, server.address)
        client = serve(app).connect()
        assert [client.ask(GET).content for _ in range(3)] == [b"fine"] * 3
        down, up = app._balance.addresses
        assert down.down_until > up.down_until == 0


def test_address_that_was_down_comes_after_the_others() -> None:
    down, up = Address(NOBODY), Address("unix:/another")
    with pytest.raises(FileNotFoundError):
        down.connect(1.0)
    balance = Balance([down, up])
    up.in_flight = 5
    assert [balance.choose([], {}) for _ in range(3)] == [up] * 3
    assert balance.choose([up], {}) is down
    assert balance.choose([up, down], {}) is None
    down.down_until = 0.0
    assert balance.choose([], {}) is down


def test_nobody_listens_is_503_to_be_tried_again_later(
    serve: Serve, upstream: Load, caplog: pytest.LogCaptureFixture
) -> None:
    with scripted(keep_answering(), tcp=True) as server:
        server.refuse()
        gateway = serve(upstream(NOBODY, server.address))
        with caplog.at_level(logging.ERROR):
            got = gateway.ask(b"POST" + HOST + b"Content-Length: 3\r\n\r\nabc")
    assert got.status == 503
    assert got["retry-after"] == "5"
    [record] = gateway.records
    assert record["error"] == f"upstream {NOBODY}, {server.address}: [Errno 111] Connection refused"
    assert record["error"] in caplog.text


def test_name_that_is_none_is_503(serve: Serve, upstream: Load) -> None:
    assert serve(upstream("http://name.invalid:80")).ask().status == 503


@pytest.mark.parametrize("tcp", [False, True])
def test_address_that_takes_no_connection_is_504(
    serve: Serve, upstream: Load, tmp_path: Path, tcp: bool
) -> None:
    if tcp:
        listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        address = f"unix:{tmp_path}/s"
    with ExitStack() as stack:
        stack.enter_context(listener)
        for _ in range(4):  # more than the kernel queues
            filler = stack.enter_context(socket.socket(listener.family))
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        gateway = serve(upstream(address, connect_timeout_seconds=0.1))
        assert gateway.ask().status == 504
        [record] = gateway.records
        assert record["error"] == f"upstream {address}: no connection in time"


# --- health ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "host", "scheme"),
    [
        ({}, "", "https"),
        ({"health_host": "shop.example.com"}, "shop.example.com", "https"),
        ({"host": "inner.example.com"}, "inner.example.com", "https"),
        (
            {"host": "inner.example.com", "health_host": "a.example", "health_scheme": "http"},
            "a.example",
            "http",
        ),
    ],
)
def test_health_is_asked_with_a_host_and_a_scheme(
    upstream: Load,
    caplog: pytest.LogCaptureFixture,
    settings: dict[str, str],
    host: str,
    scheme: str,
) -> None:
    heads: list[str] = []

    def script(peer: Peer) -> None:
        heads.append(peer.read_head())
        peer.send(b"HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n")

    with scripted(script, tcp=True) as server, caplog.at_level(logging.INFO, "gateway"):
        app = upstream(server.address, health="/healthz", health_interval_seconds=0.2, **settings)
        wait_until(lambda: "is left out" in caplog.text, "it is left out")
        app.close()
    host = host or server.address.removeprefix("http://")
    assert f"Host: {host}\r\n" in heads[0]
    assert f"X-Forwarded-Proto: {scheme}\r\n" in heads[0]
    assert f"(asked with Host: {host}; for another one: health_host: ...)" in caplog.text


def test_address_that_is_not_well_is_left_out_until_it_is(
    serve: Serve, upstream: Load, caplog: pytest.LogCaptureFixture
) -> None:
    status = [b"200 OK"]
    hosts: set[str] = set()

    def script(peer: Peer) -> None:
        while True:
            head = peer.read_head()
            if head.startswith("GET /healthz "):
                hosts.add(head.partition("Host: ")[2].partition("\r\n")[0])
                peer.send(b"HTTP/1.1 " + status[0] + b"\r\nContent-Length: 0\r\n\r\n")
                return
            peer.send(OK)

    with scripted(script, tcp=True) as server, caplog.at_level(logging.INFO, "gateway"):
        app = upstream(server.address, health="/healthz", health_interval_seconds=0.2)
        [address] = app._balance.addresses
        gateway = serve(app)
        wait_until(lambda: hosts, "it is asked for its health")
        assert gateway.ask().status == 200
        status[0] = b"500 No"
        wait_until(lambda: not address.is_healthy)
        got = gateway.ask()
        assert (got.status, got["retry-after"]) == (503, "5")
        status[0] = b"302 Found"
        wait_until(lambda: address.is_healthy)
        assert gateway.ask().status == 200
        app.close()
    assert hosts == {server.address.removeprefix("http://")}
    assert "is left out: /healthz was answered 500 No" in caplog.text
    assert "is well again" in caplog.text
