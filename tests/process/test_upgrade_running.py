"""WebSockets in apps of a whole gateway: every kind of worker, over the hop, drain, records."""

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from peer import Peer
from running import Running, wait_until
from wsproto.events import Message, Ping, Pong

APP = """
import sys
from simple_websocket import ConnectionClosed, Server

def app(environ, start_response):
    if environ["PATH_INFO"] == "/offer":
        start_response("200 OK", [])
        return [b"offered" if "werkzeug.socket" in environ else b"ignored"]
    websocket = Server.accept(environ)
    try:
        while True:
            message = websocket.receive()
            if message == "where?":
                patched = "gevent.monkey" in sys.modules and socket_is_patched()
                websocket.send("greenlets" if patched else "threads")
            elif message == "end":
                break
            else:
                websocket.send(message)
        websocket.close(4001, "as you wish")
    except ConnectionClosed:
        pass
    start_response("200 OK", [])
    return [b""]

def socket_is_patched():
    from gevent.monkey import is_module_patched
    return is_module_patched("socket")
"""
MOUNTS = """\
  /main: talk:app
  /pool: {app: "talk:app", pool: greenlets}
  /threads: {app: "talk:app", pool: threads, timeout: 1s}
pools:
  greenlets: {}
  threads: {concurrency: threads, threads: 4}
"""
KINDS = {"/main": "greenlets", "/pool": "greenlets", "/threads": "threads"}
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: Any) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("gateway"), MOUNTS, "  drain_timeout: 1s\n", talk=APP)
    yield running
    running.end()


def talk(gateway: Running, target: str) -> Peer:
    peer = Peer(gateway.connect(), target)
    assert peer.accepted
    return peer


def record_of(gateway: Running, target: str) -> dict[str, Any]:
    def find() -> Any:
        return [record for record in gateway.records if record["target"] == target]

    [record] = wait_until(find, f"the record of {target}")
    return record


@pytest.mark.parametrize("mount", KINDS)
def test_a_websocket_of_every_kind_of_worker(gateway: Running, mount: str) -> None:
    peer = talk(gateway, f"{mount}/talk")
    assert peer.ask("where?") == KINDS[mount]
    peer.send(Message("grüße", message_finished=False))
    peer.send(Ping(b"?"))
    assert peer.next() == Pong(b"?")
    peer.send(Message(" an alle"))
    assert peer.message() == "grüße an alle"
    peer.send(Message(os.urandom(256) * (MIB // 256)))
    assert len(peer.message()) == MIB
    peer.send(Message("end"))
    closed = peer.next()
    assert (closed.code, closed.reason) == (4001, "as you wish")
    peer.expect_end()
    record = record_of(gateway, f"{mount}/talk")
    assert (record["status"], record["mount"], record.get("error")) == (101, mount, None)
    assert record["bytes_in"] > MIB
    assert record["bytes_out"] > MIB


@pytest.mark.parametrize(("version", "seen"), [("1.0", b"ignored"), ("1.1", b"offered")])
@pytest.mark.parametrize("mount", KINDS)
def test_an_upgrade_in_http_1_0_is_ignored(
    gateway: Running, mount: str, version: str, seen: bytes
) -> None:
    """RFC 9110 §7.8."""
    with gateway.connect() as client:
        client.sendall(
            f"GET {mount}/offer HTTP/{version}\r\nHost: a.example\r\n"
            "Connection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert seen in answer


@pytest.mark.parametrize("mount", KINDS)
def test_a_client_that_leaves_ends_its_websocket(gateway: Running, mount: str) -> None:
    peer = talk(gateway, f"{mount}/left")
    assert peer.ask("hello") == "hello"
    peer.socket.close()
    assert record_of(gateway, f"{mount}/left")["status"] == 101


@pytest.mark.parametrize("mount", KINDS)
def test_many_at_a_time(gateway: Running, mount: str) -> None:
    peers = [talk(gateway, f"{mount}/many") for _ in range(4)]
    for number, peer in enumerate(peers):
        peer.send(Message(str(number)))
    assert [peer.message() for peer in reversed(peers)] == ["3", "2", "1", "0"]
    for peer in peers:
        peer.close()


@pytest.mark.parametrize("mount", KINDS)
def test_what_is_in_flight_is_shown(gateway: Running, mount: str) -> None:
    pool = {"/main": "main", "/pool": "greenlets", "/threads": "threads"}[mount]

    def count() -> int:
        workers = [
            worker
            for generation in gateway.control("status")["generations"]
            if generation["pool"] == pool
            for worker in generation["workers"]
        ]
        return sum(worker["in_flight"] for worker in workers)

    wait_until(lambda: count() == 0, "those of before have ended")
    peer = talk(gateway, f"{mount}/shown")
    assert peer.ask("hello") == "hello"
    assert count() == 1
    peer.close()
    wait_until(lambda: count() == 0, "it is shown no more")


def test_a_reload_leaves_a_websocket_its_time(start: Callable[..., Running]) -> None:
    gateway = start(MOUNTS, "  drain_timeout: 1s\n  reload_on_edit: false\n", talk=APP)
    peers = {mount: talk(gateway, f"{mount}/kept") for mount in KINDS}
    gateway.write("talk.py", APP.replace('"end"', '"over"'))
    assert "generation" in gateway.control("reload")
    for peer in peers.values():
        assert peer.ask("still here?") == "still here?"
    new = talk(gateway, "/main/new")
    new.send(Message("over"))
    assert new.next().code == 4001
    new.expect_end()
    assert gateway.end() == 0
    for mount, peer in peers.items():
        assert peer.socket.recv(65536) == b""
        peer.socket.close()
        assert record_of(gateway, f"{mount}/kept")["status"] == 101


@pytest.mark.parametrize("mount", KINDS)
def test_a_websocket_whose_worker_is_killed_has_its_record(
    start: Callable[..., Running], mount: str
) -> None:
    gateway = start(MOUNTS, talk=APP)
    peer = talk(gateway, f"{mount}/killed")
    assert peer.ask("hello") == "hello"
    pool = {"/main": "main", "/pool": "greenlets", "/threads": "threads"}[mount]
    [generation] = [g for g in gateway.control("status")["generations"] if g["pool"] == pool]
    [worker] = generation["workers"]
    os.kill(worker["pid"], signal.SIGKILL)
    peer.expect_end()
    record = record_of(gateway, f"{mount}/killed")
    assert (record["mount"], record["protocol"]) == (mount, "HTTP/1.1")
    if mount == "/main":  # nobody is left who knows what had been answered
        assert (record["status"], record["error"][-8:]) == (502, " SIGKILL")
    else:  # the front worker's
        assert record["status"] == 101
        assert min(record["bytes_in"], record["bytes_out"]) > 0
