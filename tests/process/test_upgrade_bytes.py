"""What a WebSocket client sends arrives byte for byte, in every kind of worker and over the hop:
valid frames of each length, compressed ones, and those that only an app may judge."""

import random
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from running import Running
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Message, Ping, Request
from wsproto.extensions import PerMessageDeflate

APP = """
HEAD = "HTTP/1.1 101 Switching Protocols\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n" \\
    "Sec-WebSocket-Accept: %s\\r\\nSec-WebSocket-Extensions: %s\\r\\n\\r\\n"

def app(environ, start_response):
    from wsproto.utilities import generate_accept_token
    accept = generate_accept_token(environ["HTTP_SEC_WEBSOCKET_KEY"].encode()).decode()
    connection = environ["werkzeug.socket"]
    connection.sendall((HEAD % (accept, environ["HTTP_SEC_WEBSOCKET_EXTENSIONS"])).encode())
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.close()
    return []
"""
MOUNTS = """\
  /shared: back:app
  /greenlets: {app: "back:app", pool: greenlets}
  /threads: {app: "back:app", pool: threads}
pools:
  greenlets: {}
  threads: {concurrency: threads, threads: 4}
"""
KINDS = ("/shared", "/greenlets", "/threads")
LENGTHS = (0, 1, 125, 126, 127, 65535, 65536, 1024 * 1024 + 1)
# reserved bits and opcodes, text that is not UTF-8, closes that no endpoint may send, a length that
# never comes (RFC 6455 §5.2, §7.4): nobody but the app may mind
WRONG = bytes.fromhex("f180 8300 8b85 8181c3 8801ff 880203ed 8802ffff 82ff7fffffffffffffff")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: Any) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("gateway"), MOUNTS, "  drain_timeout: 1s\n", back=APP)
    yield running
    running.end()


def open_websocket(gateway: Running, target: str) -> tuple[socket.socket, WSConnection]:
    """With compression agreed on."""
    connected = gateway.connect()
    speaker = WSConnection(ConnectionType.CLIENT)
    asked = Request(host="a.example", target=target, extensions=[PerMessageDeflate()])
    connected.sendall(speaker.send(asked))
    speaker.receive_data(read(connected, b"\r\n\r\n"))
    accepted = next(speaker.events())
    assert isinstance(accepted, AcceptConnection)
    assert [each.name for each in accepted.extensions] == ["permessage-deflate"]
    return connected, speaker


def read(connected: socket.socket, end: bytes) -> bytes:
    """All up to ``end``."""
    found = b""
    while not found.endswith(end):
        found += connected.recv(1)
        assert found
    return found


def read_length(connected: socket.socket, length: int) -> bytes:
    with connected.makefile("rb") as file:
        return file.read(length)


@pytest.mark.parametrize("kind", KINDS)
def test_frames_of_every_length_arrive_as_they_were_sent(gateway: Running, kind: str) -> None:
    connected, speaker = open_websocket(gateway, kind)
    source = random.Random(6455)
    with connected:
        for length in LENGTHS:
            content = source.randbytes(length // 2) + bytes(length - length // 2)
            sent = speaker.send(Message(content[:1], message_finished=False))
            sent += speaker.send(Ping(b"between")) + speaker.send(Message(content[1:]))
            assert sent[0] & 0x40  # it is compressed
            sending = threading.Thread(target=connected.sendall, args=(sent,))
            sending.start()  # nobody takes so much before some of it is read
            assert read_length(connected, len(sent)) == sent
            sending.join()
        connected.shutdown(socket.SHUT_WR)
        assert connected.recv(1) == b""


@pytest.mark.parametrize("kind", KINDS)
def test_frames_that_come_byte_by_byte_and_wrong_ones_arrive_too(
    gateway: Running, kind: str
) -> None:
    connected, speaker = open_websocket(gateway, kind)
    sent = speaker.send(Message("grüße")) + WRONG
    with connected:
        for byte in sent:
            connected.sendall(bytes([byte]))
        assert read_length(connected, len(sent)) == sent
        for byte in sent:
            connected.sendall(bytes([byte]))
            assert connected.recv(2) == bytes([byte])
        connected.shutdown(socket.SHUT_WR)
        assert connected.recv(1) == b""
