"""How a row's client speaks: a plain request, a WebSocket, or Socket.IO by one of its transports.

Each is called with a gateway and the target, whose query has the row's parameters, and gives the
status, and the content or the message that came.
"""

import re
import socket
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

import socketio
import websocket
from running import Running
from services import WAIT_SECONDS

SWITCHED = 101


class OnPort(Running):
    """A gateway on a port of loopback: clients of these protocols know no Unix sockets."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        super().__init__(*arguments, option=f"--listen=127.0.0.1:{self.port}", **more)

    def connect(self, name: str = "listen.sock") -> socket.socket:
        if name != "listen.sock":
            return super().connect(name)
        return socket.create_connection(("127.0.0.1", self.port), WAIT_SECONDS)


def ask(gateway: OnPort, target: str) -> tuple[int, str]:
    head, _, content = gateway.ask(target).partition(b"\r\n\r\n")
    return int(head.split()[1]), _join_chunks(content).decode()


def _join_chunks(content: bytes) -> bytes:
    """The content without chunk lines, where it has them."""
    if not re.match(rb"[0-9a-f]+\r\n", content):
        return content
    pieces = content.split(b"\r\n")
    return b"".join(pieces[1::2])


def talk(gateway: OnPort, target: str) -> tuple[int, str]:
    """Send what is to be waited for; the message that comes of it."""
    connected = websocket.create_connection(
        f"ws://127.0.0.1:{gateway.port}{target}", timeout=WAIT_SECONDS
    )
    try:
        connected.send(_read_path(target))
        return connected.status, str(connected.recv())
    finally:
        connected.close()


def call(*transports: str) -> Callable[[OnPort, str], tuple[int, str]]:
    """Socket.IO that is to end up with the last of ``transports``."""
    return partial(_call, transports)


def _call(transports: tuple[str, ...], gateway: OnPort, target: str) -> tuple[int, str]:
    with socketio.SimpleClient(reconnection=False) as client:
        client.connect(
            f"http://127.0.0.1:{gateway.port}",
            transports=list(transports),
            socketio_path=f"{urlsplit(target).path}/socket.io",
            wait_timeout=WAIT_SECONDS,
        )
        told = client.call("wait", _read_path(target), timeout=WAIT_SECONDS)
        assert client.client.transport() == transports[-1]
        return SWITCHED if transports[-1] == "websocket" else 200, str(told)


def _read_path(target: str) -> str:
    return parse_qs(urlsplit(target).query)["path"][0]
