"""Mounts that another server answers: what crosses, framing, streaming, early answers, failures.

The gateway is the real one, the servers scripted ones on real sockets.
"""

import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from harness import GET, WAIT_SECONDS, Cut, Gateway, wait_until
from scripted import OK, Peer, keep_answering, scripted

from gateway.limits import MountLimits

Serve = Callable[..., Gateway]
Load = Callable[..., Any]
MIB = 1024 * 1024
STREAMS = MountLimits(request_buffering="off")
POST = b"POST / HTTP/1.1\r\nHost: a.example\r\n"


def answer_once(answer: bytes) -> Callable[[Peer], object]:
    """A script: one answer, then the server closes."""
    return lambda peer: peer.answer(answer)


# --- the answer -----------------------------------------------------------------------------------

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "framing", "content"),
    [
        (OK, "length", b"fine"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "length", b""),
        (CHUNKED + b"4\r\nfine\r\n0\r\n\r\n", "length", b"fine"),
        (CHUNKED + b"2;x=y\r\nfi\r\n2\r\nne\r\n0\r\nA-Trailer: x\r\n\r\n", "length", b"fine"),
        (CHUNKED + b"0\r\n\r\n", "length", b""),
        (b"HTTP/1.1 200 OK\r\n\r\nfine", "chunked", b"fine"),
        (b"HTTP/1.0 200 OK\r\n\r\nfine", "chunked", b"fine"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nfine", "length", b"fine"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "none", b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n", "none", b""),
        (b"HTTP/1.1 404\r\nContent-Length: 4\r\n\r\nfine", "length", b"fine"),
        (b"HTTP/1.1 200 OK\r\nContent-Length : 4\r\n\r\nfine", "length", b"fine"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + OK, "length", b"fine"),
    ],
)
@pytest.mark.parametrize("is_torn", [False, True])
def test_answer_arrives(
    serve: Serve, upstream: Load, answer: bytes, framing: str, content: bytes, is_torn: bool
) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(*([answer[i : i + 1] for i in range(len(answer))] if is_torn else [answer]))

    with scripted(script) as server:
        got = serve(upstream(server.address)).ask()
        assert got.content == content
        assert got.framing == framing or (is_torn and got.framing == "chunked")


@pytest.mark.parametrize("answer", [OK.removesuffix(b"fine"), CHUNKED])
def test_head_has_no_content_and_keeps_the_connection_to_the_client(
    serve: Serve, upstream: Load, answer: bytes
) -> None:
    head = b"HEAD / HTTP/1.1\r\nHost: a.example\r\n\r\n"
    with scripted(keep_answering(answer)) as server:
        client = serve(upstream(server.address)).connect()
        for _ in range(2):
            got = client.ask(head, method="HEAD")
            assert got.status == 200


def test_fields_arrive_but_for_those_between_two_hops(serve: Serve, upstream: Load) -> None:
    answer = (
        b"HTTP/1.1 299 Odd \xe9\r\nServer: other\r\nDate: Sat, 21 Nov 2026 03:00:00 GMT\r\n"
        b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Latin: caf\xe9\r\nX-Blank: \t a b \r\nX-None:\r\n"
        b"Connection: keep-alive, X-Named\r\nX-Named: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2\r\n"
        b"Proxy-Authenticate: Basic\r\nTrailer: A\r\nTE: x\r\nContent-Length: 0\r\n\r\n"
    )
    with scripted(answer_once(answer)) as server:
        got = serve(upstream(server.address)).ask()
    assert (got.status, got.reason) == (299, "Odd \xe9")
    assert got.fields == [
        ("server", "other"),
        ("date", "Sat, 21 Nov 2026 03:00:00 GMT"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("x-latin", "caf\xe9"),
        ("x-blank", "a b"),
        ("x-none", ""),
        ("content-length", "0"),
    ]


def test_early_hints_arrive_before_the_answer(serve: Serve, upstream: Load) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x\r\n\r\n"
    with scripted(answer_once(hints + OK)) as server:
        got = serve(upstream(server.address)).ask()
    [interim] = got.interim
    assert (interim.status, interim.fields) == (103, [("link", "</a.css>; rel=preload")])
    assert got.content == b"fine"


def test_pieces_arrive_as_they_are_sent(serve: Serve, upstream: Load) -> None:
    has_seen = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(CHUNKED, b"3\r\none\r\n")
        assert has_seen.wait(WAIT_SECONDS)
        peer.send(b"3\r\ntwo\r\n0\r\n\r\n")

    with scripted(script) as server:
        client = serve(upstream(server.address)).connect()
        client.send(GET)
        client._read_head()
        assert client._read_line() == b"3"
        assert client._read_length(5) == b"one\r\n"
        client.expect_open()
        has_seen.set()
        assert client._read_chunks() == b"two"


@pytest.mark.parametrize(
    "answer",
    [
        b"",  # nothing at all, twice
        b"\x16\x03\x01\x00\x01",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b"HTTP/1.1 200 OK\r\nNo field\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: 1\r\n folded\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: \0\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: \rContent-Length: 5\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nfine!",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\n\r\nfine",
        b"HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\nfine",
        b"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nfine",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        CHUNKED + b"x\r\n",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"4\nfine\n0\n\n",
        CHUNKED + b"2\r\nfine\r\n0\r\n\r\n",
        CHUNKED + b"1" * 300,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20000,
    ],
)
def test_what_is_no_answer_is_502(
    serve: Serve, upstream: Load, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(answer)

    with scripted(script) as server:
        gateway = serve(upstream(server.address))
        with caplog.at_level(logging.ERROR):
            got = gateway.ask()
    assert got.status == 502
    [record] = gateway.records
    assert record["error"].startswith(f"upstream {server.address}: ")
    [line] = caplog.messages
    assert line.startswith(f"/: {record['error'][:80]}")
    assert record["request_id"] in line


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        CHUNKED + b"9\r\nhalf",
        CHUNKED + b"4\r\nhalf\r\n",
        CHUNKED + b"4\r\nhalf\r\n0\r\n",
        CHUNKED + b"4\r\nhalf\r\nbad\r\n",
    ],
)
@pytest.mark.parametrize("tcp", [False, True])
def test_server_that_leaves_within_its_answer_is_a_cut(
    serve: Serve, upstream: Load, answer: bytes, tcp: bool
) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        head, _, content = answer.partition(b"\r\n\r\n")
        peer.send(head + b"\r\n\r\n" + content[:4])
        peer.send(content[4:])
        if tcp:
            peer.reset()

    with scripted(script, tcp=tcp) as server:
        gateway = serve(upstream(server.address))
        client = gateway.connect()
        client.send(GET)
        try:
            got = client.read_answer()
            assert got.status == 502  # seen before the head had gone out
        except Cut:
            pass
        client.expect_end()
        [record] = gateway.records
        assert record["error"]


# --- content of requests --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 3 * MIB])
def test_content_with_a_length_arrives(serve: Serve, upstream: Load, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    got: list[bytes] = []

    def script(peer: Peer) -> None:
        head = peer.read_head()
        assert f"Content-Length: {size}" in head.split("\r\n")
        got.append(peer.read(size))
        peer.send(OK)

    with scripted(script) as server:
        client = serve(upstream(server.address)).connect()
        client.send(POST + b"Content-Length: %d\r\n\r\n" % size + content[:size])
        assert client.read_answer().content == b"fine"
    assert got == [content[:size]]


def test_content_in_chunks_arrives_as_it_comes(serve: Serve, upstream: Load) -> None:
    got: list[bytes] = []

    def script(peer: Peer) -> None:
        head = peer.read_head()
        assert "Transfer-Encoding: chunked" in head.split("\r\n")
        assert "Content-Length" not in head
        got.append(peer.read_until(b"one\r\n"))
        got.append(peer.read_until(b"0\r\n\r\n"))
        peer.send(OK)

    with scripted(script) as server:
        client = serve(upstream(server.address), mount_limits=STREAMS).connect()
        client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        wait_until(lambda: got == [b"3\r\none\r\n"], "the first chunk has arrived")
        client.send(b"3;x\r\ntwo\r\n0\r\nTrailer: x\r\n\r\n")
        assert client.read_answer().content == b"fine"
    assert got[1] == b"3\r\ntwo\r\n0\r\n\r\n"


def test_client_that_waits_for_a_100_gets_it(serve: Serve, upstream: Load) -> None:
    def script(peer: Peer) -> None:
        assert "expect" not in peer.read_head().lower()
        peer.send(OK.replace(b"fine", peer.read(4)))

    with scripted(script) as server:
        client = serve(upstream(server.address)).connect()
        client.send(POST + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        assert client._read_head().status == 100
        assert client.ask(b"here").content == b"here"


def test_client_that_waits_for_a_100_is_spared_its_content_where_nobody_listens(
    serve: Serve, upstream: Load
) -> None:
    with scripted(keep_answering()) as server:
        server.refuse()
        client = serve(upstream(server.address)).connect()
        client.send(POST + b"Expect: 100-continue\r\nContent-Length: 400000\r\n\r\n")
        got = client.read_answer()
        assert (got.status, got.interim) == (503, [])


def test_answer_before_the_content_has_come_arrives(serve: Serve, upstream: Load) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfine")

    with scripted(script) as server:
        client = serve(upstream(server.address), mount_limits=STREAMS).connect()
        client.send(POST + b"Content-Length: 9000000\r\n\r\nbegin")
        got = client.read_answer()
        assert (got.status, got.content) == (413, b"fine")
        assert got.is_last


@pytest.mark.parametrize("rest", [b"fine", b""], ids=["whole", "head-alone"])
@pytest.mark.parametrize("ends", [False, True])
def test_answer_to_unread_content_waits_for_what_the_client_sends(
    serve: Serve, upstream: Load, rest: bytes, ends: bool
) -> None:
    """The server reads none of it, and answers at once, wholly or in part, and may leave."""

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\n" + rest)
        assert goes_on.wait(WAIT_SECONDS)
        peer.send(*[b"fine"] * (not rest))
        if not ends:  # were it to read all after all, the connection could be kept
            peer.wait_for_close()

    goes_on = threading.Event()
    content = b"x" * 3 * MIB
    with scripted(script, keep_answering()) as server:
        client = serve(upstream(server.address)).connect()
        client.send(POST + b"Content-Length: %d\r\n\r\n" % len(content), content[:-1])
        client.expect_open()  # nothing yet
        goes_on.set()
        got = client.ask(content[-1:])
        assert (got.status, got.content, got.is_last) == (413, b"fine", False)
        assert client.ask(GET).content == b"fine"


@pytest.mark.parametrize("size", [70_000, 300_000, 1_000_000])
def test_server_that_answers_while_it_reads_gets_all_content(
    serve: Serve, upstream: Load, size: int
) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(OK.replace(b": 4", b": %d" % size).replace(b"fine", b""))
        left = size
        while left:
            piece = peer.read(min(left, 1000))
            peer.send(piece)
            left -= len(piece)

    content = os.urandom(size)
    with scripted(script, keep_answering()) as server:
        client = serve(upstream(server.address)).connect()
        client.send(POST + b"Content-Length: %d\r\n\r\n" % size, content[:-1])
        client.expect_open()
        assert client.ask(content[-1:]).content == content
        assert client.ask(GET).content == b"fine"


def test_both_sides_may_stream_at_once(serve: Serve, upstream: Load) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(CHUNKED)
        for _ in range(3):
            peer.send(peer.read_until(b"\r\n") + peer.read_until(b"\r\n"))
        assert peer.read_until(b"\r\n\r\n") == b"0\r\n\r\n"
        peer.send(b"0\r\n\r\n")

    with scripted(script) as server:
        client = serve(upstream(server.address), mount_limits=STREAMS).connect()
        client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        assert client._read_head().status == 200
        for piece in (b"one", b"two", b"six"):
            client.send(b"3\r\n" + piece + b"\r\n")
            assert client._read_length(8) == b"3\r\n" + piece + b"\r\n"
        client.send(b"0\r\n\r\n")
        assert client._read_chunks() == b""
        client.expect_end()  # as announced: how much would follow the head was not known


def test_malformed_content_is_the_clients_fault(serve: Serve, upstream: Load) -> None:
    ends: list[bytes] = []

    def script(peer: Peer) -> None:
        peer.read_head()
        ends.append(peer.wait_for_end())

    with scripted(script) as server:
        gateway = serve(upstream(server.address), mount_limits=STREAMS)
        got = gateway.ask(POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\nnone\r\n")
        assert got.status == 400
        wait_until(lambda: ends == [b"3\r\none\r\n"], "it ends, and never as content does")


def test_content_above_the_limit_is_413(serve: Serve, upstream: Load) -> None:
    with scripted(lambda peer: peer.wait_for_end()) as server:
        limits = MountLimits(max_body_bytes=4, request_buffering="off")
        gateway = serve(upstream(server.address), mount_limits=limits)
        assert gateway.ask(POST + b"Content-Length: 5\r\n\r\nlarge").status == 413
        assert server.connections == 0
        chunks = POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nlarge\r\n0\r\n\r\n"
        assert gateway.ask(chunks).status == 413
        wait_until(lambda: server.connections == 1, "of chunks nobody knows before")


# --- the ends -------------------------------------------------------------------------------------


def test_client_that_leaves_ends_the_request(serve: Serve, upstream: Load) -> None:
    ended: list[str] = []

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.wait_for_end()
        ended.append("waiting")

    with scripted(script) as server:
        gateway = serve(upstream(server.address))
        client = gateway.connect()
        client.send(GET)
        wait_until(lambda: server.connections, "the server is asked")
        client.close()
        wait_until(lambda: ended == ["waiting"], "the server is left alone")
        wait_until(lambda: gateway.records, "the record is written")
        [record] = gateway.records
        assert (record["status"], record["error"]) == (499, "the client left")


def test_client_that_leaves_within_a_stream_ends_it(serve: Serve, upstream: Load) -> None:
    ended: list[bool] = []

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(CHUNKED, b"3\r\none\r\n")
        peer.wait_for_end()
        ended.append(True)

    with scripted(script) as server:
        client = serve(upstream(server.address)).connect()
        client.send(GET)
        client._read_head()
        client.close()
        wait_until(lambda: ended, "the server is left alone")


def test_client_that_leaves_within_its_content_ends_the_request(
    serve: Serve, upstream: Load
) -> None:
    ended: list[bytes] = []

    def script(peer: Peer) -> None:
        peer.read_head()
        ended.append(peer.wait_for_end())

    with scripted(script) as server:
        gateway = serve(upstream(server.address))
        client = gateway.connect()
        client.send(POST + b"Content-Length: 99999\r\n\r\nbegin")
        wait_until(lambda: server.connections, "the server is asked")
        client.close()
        wait_until(lambda: ended == [b"begin"], "the server is left alone")


def test_silence_is_504(serve: Serve, upstream: Load, caplog: pytest.LogCaptureFixture) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.wait_for_end()

    with scripted(script) as server:
        gateway = serve(upstream(server.address), mount_limits=MountLimits(timeout_seconds=0.2))
        got = gateway.ask()
    assert got.status == 504
    assert f"upstream {server.address}: no byte moved for 0.2 s" in caplog.text


def test_stream_lives_as_long_as_it_sends(serve: Serve, upstream: Load) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(CHUNKED)
        for _ in range(4):
            peer.socket.settimeout(0.15)
            with pytest.raises(TimeoutError):
                peer.socket.recv(1)
            peer.send(b"1\r\nx\r\n")
        peer.send(b"0\r\n\r\n")

    with scripted(script) as server:
        gateway = serve(upstream(server.address), mount_limits=MountLimits(timeout_seconds=0.4))
        assert gateway.ask().content == b"xxxx"
