"""Answers of servers are read strictly: what is incomplete, unasked or endless is no answer."""

from collections.abc import Callable
from contextlib import suppress
from threading import Event
from typing import Any

import pytest
from harness import GET, Cut, Gateway
from running import Running, wait_until
from scripted import OK, Peer, keep_answering, scripted

from gateway.errors import AppError
from gateway.http.response_head import read_head
from gateway.limits import MountLimits
from gateway.upstream.hop import MAX_INTERIM

Serve = Callable[..., Gateway]
Load = Callable[..., Any]
Start = Callable[..., Running]
UPGRADE = b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


@pytest.mark.parametrize("framing", [b"", b"Content-Length: 9\r\n"])
def test_a_reset_is_not_the_end_of_an_answer(serve: Serve, upstream: Load, framing: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n"
    done = []

    def script(peer: Peer) -> None:
        peer.answer(head + b"half")
        wait_until(lambda: done, "the client has what was sent")
        peer.reset()

    with scripted(script, tcp=True) as server:
        gateway = serve(upstream(server.address))
        client = gateway.connect()
        client.send(GET)
        while b"half" not in client._received:
            client._more()
        done.append(True)
        with pytest.raises(Cut):
            client.read_answer()


def test_an_orderly_end_is_the_end_of_an_answer(serve: Serve, upstream: Load) -> None:
    with scripted(lambda peer: peer.answer(b"HTTP/1.1 200 OK\r\n\r\nwhole"), tcp=True) as server:
        assert serve(upstream(server.address)).ask().content == b"whole"


@pytest.mark.parametrize("switched", [b"Upgrade: h2c\r\n", b"Upgrade: websocket, x\r\n", b""])
def test_a_switch_to_what_nobody_asked_for_is_502(
    serve: Serve, upstream: Load, switched: bytes
) -> None:
    answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n" + switched + b"\r\n"
    with scripted(lambda peer: peer.answer(answer)) as server:
        assert serve(upstream(server.address)).ask(UPGRADE).status == 502


def test_a_switch_to_what_was_asked_for_is_passed_on(serve: Serve, upstream: Load) -> None:
    answer = (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n"
    )
    with scripted(lambda peer: peer.answer(answer)) as server:
        gateway = serve(upstream(server.address))
        client = gateway.connect()
        client.send(UPGRADE)
        while b"\r\n\r\n" not in client._received:
            client._more()
        assert client._received.startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize("count", [MAX_INTERIM, MAX_INTERIM + 1])
def test_interim_answers_are_bounded(serve: Serve, upstream: Load, count: int) -> None:
    with scripted(keep_answering(HINT * count + OK)) as server:
        answer = serve(upstream(server.address, keep_alive_seconds=0.0)).ask()
    assert answer.status == (200 if count == MAX_INTERIM else 502)


@pytest.mark.parametrize("began", [HINT, OK[:-2]])
def test_interim_answers_give_no_more_time(serve: Serve, upstream: Load, began: bytes) -> None:
    go_on = Event()

    def script(peer: Peer) -> None:
        peer.answer(began)
        go_on.wait(10)
        with suppress(BrokenPipeError):  # nobody waits for it any more
            peer.send((began + OK)[-2:])

    with scripted(script) as server:
        gateway = serve(upstream(server.address), mount_limits=MountLimits(timeout_seconds=30))
        client = gateway.connect()
        client.send(GET)
        while began[-2:] not in client._received:
            client._more()
        gateway.pass_time(20)
        gateway.pass_time(40)
        go_on.set()
        got = client.read_answer()
    assert (got.status, len(got.interim)) == ((504, 1) if began == HINT else (200, 0))


@pytest.mark.parametrize("byte", [*range(0x20), 0x7F])
def test_control_characters_are_sent_by_no_app_and_no_server(
    serve: Serve, upstream: Load, byte: int
) -> None:
    value = f"a{chr(byte)}b"
    answer = OK.replace(b"\r\n\r\n", b"\r\nX-A: " + value.encode() + b"\r\n\r\n")
    with scripted(lambda peer: peer.answer(answer)) as server:
        status = serve(upstream(server.address)).ask().status
    if byte == 0x09:
        assert "X-A: a\tb\r\n" in read_head(("200 OK", (("X-A", value),)))[0]
        assert status == 200
        return
    with pytest.raises(AppError, match="X-A"):
        read_head(("200 OK", (("X-A", value),)))
    assert status == 502 or byte in b"\r\n"


# --- pools ------------------------------------------------------------------------------------

SEEN = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    names = ("SERVER_PROTOCOL", "HTTP_HOST")
    return [" ".join(environ.get(name, "-") for name in names).encode()]
"""
POOLS = "pools:\n  g: {}\n  t: {concurrency: threads}\n"
MOUNTS = "  /: good:app\n  /m: seen:app\n" + "".join(
    f"  /{name}: {{app: 'seen:app', pool: {name}}}\n" for name in "gt"
)


def ask_raw(gateway: Running, request: str) -> bytes:
    with gateway.connect() as connection:
        connection.sendall(request.encode())
        with connection.makefile("rb") as answer:
            return answer.read()


def test_apps_see_the_version_and_the_host_of_the_client_in_pools_too(start: Start) -> None:
    gateway = start(MOUNTS, POOLS, seen=SEEN)
    for mount in "mgt":
        wait_until(lambda m=mount: b" 200 " in gateway.ask(f"/{m}")[:20], "the mount answers")
        for ask, seen in {
            "GET /{} HTTP/1.0\r\n\r\n": b"HTTP/1.0 -",
            "GET /{} HTTP/1.0\r\nHost: a\r\n\r\n": b"HTTP/1.0 a",
            "GET /{} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n": b"HTTP/1.1 a",
        }.items():
            answer = ask_raw(gateway, ask.format(mount))
            assert answer.rpartition(b"\r\n\r\n")[2] == seen, (mount, ask)


@pytest.mark.parametrize("mount", ["m", "g", "t"])
def test_a_head_within_the_limits_is_within_those_of_a_pool(start: Start, mount: str) -> None:
    gateway = start(MOUNTS, POOLS, seen=SEEN)
    wait_until(lambda: b" 200 " in gateway.ask(f"/{mount}")[:20], "the mount answers")
    many = "".join(f"X-{i}: {'x' * 300}\r\n" for i in range(98))
    head = f"GET /{mount}?{'q' * 1000} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{many}\r\n"
    assert b" 200 " in ask_raw(gateway, head)[:20]
    one_more = head.replace("X-0:", "X: 1\r\nX-0:")
    assert b" 431 " in ask_raw(gateway, one_more)[:20]
