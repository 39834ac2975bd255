"""Connections that are upgraded: bytes both ways, half-closes, deadlines, drain, records."""

import threading
from collections.abc import Callable, Iterable
from typing import Any

import gevent
import pytest
from harness import GET, Client, Gateway, wait_until
from scripted import OK, Peer, scripted

from gateway.limits import MountLimits
from gateway.wsgi import Takeover

Serve = Callable[..., Gateway]
Load = Callable[..., Any]
UPGRADE = (
    b"GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n\r\n"
)
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: BBBB\r\n\r\n"
)
MIB = 1024 * 1024


def echo(peer: Peer) -> None:
    """A script: switch, send back what comes, and end after the client has."""
    peer.answer(SWITCHED)
    while data := peer.socket.recv(65536):
        peer.send(data)


def read_head(client: Client) -> str:
    """A 101 without the rules of a final answer."""
    lines = []
    while not lines or lines[-1]:
        lines.append(client._read_line().decode())
    return "\n".join(lines)


def test_upgrade_makes_a_tunnel(serve: Serve, upstream: Load) -> None:
    heads: list[str] = []

    def script(peer: Peer) -> None:
        heads.append(peer.answer(SWITCHED + b"first"))
        assert peer.read(4) == b"ping"
        peer.send(b"pong")
        assert peer.wait_for_end() == b""

    with scripted(script) as server:
        gateway = serve(upstream(server.address))
        client = gateway.connect()
        client.send(UPGRADE)
        assert read_head(client).splitlines() == [
            "HTTP/1.1 101 Switching Protocols",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Accept: BBBB",
        ]
        assert client._read_length(5) == b"first"
        client.send(b"ping")
        assert client._read_length(4) == b"pong"
        client.end()
        client.expect_end()
        wait_until(lambda: gateway.records, "the record is written")
        [record] = gateway.records
        assert (record["status"], record["bytes_in"]) == (101, 4)
        assert record["bytes_out"] > len(b"firstpong")
        assert "error" not in record
    lines = heads[0].split("\r\n")
    assert "Connection: Upgrade" in lines
    assert "Upgrade: websocket" in lines
    assert "Sec-Websocket-Key: AAAA" in lines


def test_what_came_with_the_head_is_not_lost(serve: Serve, upstream: Load) -> None:
    with scripted(echo) as server:
        client = serve(upstream(server.address)).connect()
        client.send(UPGRADE + b"eager")
        read_head(client)
        assert client._read_length(5) == b"eager"


def test_much_goes_both_ways_at_once(serve: Serve, upstream: Load) -> None:
    with scripted(echo) as server:
        client = serve(upstream(server.address)).connect()
        client.send(UPGRADE)
        read_head(client)
        sent = bytes(range(256)) * 4096
        sending = gevent.spawn(client.send, *[sent[i : i + 65536] for i in range(0, MIB, 65536)])
        assert client._read_length(MIB) == sent
        sending.join()


def test_server_that_ends_may_still_read(serve: Serve, upstream: Load) -> None:
    got: list[bytes] = []

    def script(peer: Peer) -> None:
        peer.answer(SWITCHED + b"last")
        peer.socket.shutdown(1)
        got.append(peer.wait_for_end())

    with scripted(script) as server:
        client = serve(upstream(server.address)).connect()
        client.send(UPGRADE)
        read_head(client)
        assert client._read_length(4) == b"last"
        client.expect_end()
        client.send(b"late")
        client.end()
        wait_until(lambda: got == [b"late"], "the server has read the rest")


def test_client_that_ends_may_still_read(serve: Serve, upstream: Load) -> None:
    def script(peer: Peer) -> None:
        peer.answer(SWITCHED)
        peer.send(b"got " + peer.wait_for_end())

    with scripted(script) as server:
        client = serve(upstream(server.address)).connect()
        client.send(UPGRADE)
        read_head(client)
        client.send(b"it")
        client.end()
        assert client._read_length(6) == b"got it"
        client.expect_end()


def test_client_that_vanishes_ends_the_tunnel(serve: Serve, upstream: Load) -> None:
    ended = threading.Event()

    def script(peer: Peer) -> None:
        peer.answer(SWITCHED)
        peer.wait_for_end()
        ended.set()

    with scripted(script) as server:
        gateway = serve(upstream(server.address))
        client = gateway.connect()
        client.send(UPGRADE)
        read_head(client)
        client.close()
        wait_until(ended.is_set, "the server hears of it")
        wait_until(lambda: gateway.records, "the record is written")


def test_silent_tunnel_ends_after_its_own_time(serve: Serve, upstream: Load) -> None:
    def script(peer: Peer) -> None:
        peer.answer(SWITCHED)
        peer.wait_for_end()

    with scripted(script) as server:
        app = upstream(server.address)
        limits = MountLimits(timeout_seconds=1.0, tunnel_timeout_seconds=60.0)
        gateway = serve(app, mount_limits=limits)
        client = gateway.connect()
        client.send(UPGRADE)
        read_head(client)
        gateway.pass_time(0)
        gateway.pass_time(59)
        client.expect_open()
        gateway.pass_time(61)
        client.expect_end()
        [record] = gateway.records
        assert (record["status"], record["error"]) == (101, "no byte moved for 60 s")


def test_drain_ends_a_tunnel_after_its_time(serve: Serve, upstream: Load) -> None:
    with scripted(echo) as server:
        gateway = serve(upstream(server.address))
        client = gateway.connect()
        client.send(UPGRADE)
        read_head(client)
        client.send(b"ping")
        assert client._read_length(4) == b"ping"
        assert gateway.server.drain(0.05) == 1
        client.expect_end()
        [record] = gateway.records
        assert (record["status"], record["bytes_in"]) == (101, 4)
        assert record["error"] == "cut: drain_timeout has passed"


# --- no tunnel ------------------------------------------------------------------------------------


def test_upgrade_that_the_server_declines_is_an_ordinary_answer(
    serve: Serve, upstream: Load
) -> None:
    with scripted(lambda peer: peer.answer(OK)) as server:
        client = serve(upstream(server.address)).connect()
        assert client.ask(UPGRADE).content == b"fine"
        client.expect_open()


@pytest.mark.parametrize(
    "request_",
    [
        UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0"),
        UPGRADE.replace(b"keep-alive, Upgrade", b"keep-alive"),
        UPGRADE.replace(b": websocket", b": h2c"),
        UPGRADE.replace(b": websocket", b": websocket, h2c"),
        UPGRADE.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\n\r\nx"),
    ],
)
def test_upgrade_is_not_passed_on(serve: Serve, upstream: Load, request_: bytes) -> None:
    heads: list[str] = []

    def script(peer: Peer) -> None:
        head = peer.read_head()
        heads.append(head)
        if "Content-Length: 1" in head:
            peer.read(1)
        peer.send(OK)

    with scripted(script) as server:
        assert serve(upstream(server.address)).ask(request_).status == 200
    assert "upgrade" not in heads[0].lower()


def test_switch_that_nobody_asked_for_is_502(serve: Serve, upstream: Load) -> None:
    with scripted(lambda peer: peer.answer(SWITCHED)) as server:
        assert serve(upstream(server.address)).ask().status == 502


def test_app_cannot_switch_protocols(serve: Serve) -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("101 Switching Protocols", [])
        return [b""]

    assert serve(app).ask(UPGRADE).status == 500


def test_a_tunnel_that_fails_is_recorded_and_its_connection_closed(serve: Serve) -> None:
    class Failing(Takeover):
        head = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"

        def run(self, connection: Any) -> None:
            raise RuntimeError("broken")

    gateway = serve(lambda *_: Failing())
    client = gateway.connect()
    client.send(GET)
    assert read_head(client).startswith("HTTP/1.1 101 ")
    client.expect_end()
    [record] = gateway.records
    assert (record["status"], record["error"]) == (101, "RuntimeError: broken")
