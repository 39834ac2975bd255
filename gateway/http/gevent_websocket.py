"""``environ["wsgi.websocket"]`` for apps that use gevent-websocket, if that package is installed:
an object of its class; the app takes over the connection when it first uses it.

Source: RFC 6455 §4.2.2 (the server's handshake) and the handler of gevent-websocket 0.10.
"""

from __future__ import annotations

import binascii
import logging
from base64 import b64decode, b64encode
from contextlib import suppress
from functools import cache
from hashlib import sha1
from importlib import import_module
from socket import SHUT_RDWR
from types import SimpleNamespace
from typing import Any

from gateway.wsgi import Environ

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_VERSIONS = ("13", "8", "7")


def open_websocket(environ: Environ, connected: Any) -> OfferedWebSocket | None:
    """Put the object into ``environ``. None if the request is not a WebSocket handshake, or the
    package is not installed. ``connected`` is not used before the app uses the object."""
    key = environ.get("HTTP_SEC_WEBSOCKET_KEY", "").strip()
    version = environ.get("HTTP_SEC_WEBSOCKET_VERSION")
    is_one = environ["REQUEST_METHOD"] == "GET" and environ["HTTP_UPGRADE"].lower() == "websocket"
    if not is_one or version not in _VERSIONS or not _is_key(key):
        return None
    if (kind := _find_class()) is None:
        return None
    stream = Stream(connected, key.encode("latin-1"))
    websocket = environ["wsgi.websocket"] = kind(environ, stream, _HANDLER)
    environ["wsgi.websocket_version"] = version
    return OfferedWebSocket(websocket, stream)


def _is_key(key: str) -> bool:
    try:
        return len(b64decode(key)) == 16
    except (binascii.Error, ValueError):
        return False


@cache
def _find_class() -> Any:
    try:
        base: Any = import_module("geventwebsocket.websocket").WebSocket
    except ImportError:
        return None

    class Quiet(base):  # type: ignore[misc]
        """Logs nothing when it is deleted unused."""

        __slots__ = ()

        def __del__(self) -> None:
            pass

    return Quiet


class OfferedWebSocket:
    """``websocket`` and its ``stream``, which ``websocket.close()`` removes from it."""

    def __init__(self, websocket: Any, stream: Stream) -> None:
        self._websocket = websocket
        self._stream = stream

    def say_goodbye(self) -> None:
        """Close the WebSocket, if the app has left it open, and the connection, as the server of
        gevent-websocket does; nothing if it was never used. May block."""
        if self._stream.is_open:
            if self._websocket.stream is not None:
                self._websocket.close()
            self._stream.end()


class Stream:
    """The object's stream, as in gevent-websocket; the first use sends the handshake."""

    def __init__(self, connected: Any, key: bytes) -> None:
        self._connected = connected
        self._key = key
        self._file: Any = None
        self._has_ended = False

    @property
    def is_open(self) -> bool:
        """Whether the handshake has been sent."""
        return self._file is not None

    def end(self) -> None:
        """Close the stream and the connection."""
        self._has_ended = True
        with suppress(OSError):
            self._connected.shutdown(SHUT_RDWR)  # ends a read of another greenlet
        with suppress(RuntimeError):  # while another greenlet reads, which then closes it
            self._file.close()
        self._connected.close()

    def read(self, size: int) -> bytes:
        """``size`` bytes, fewer at the end. Raises OSError."""
        self._shake_hands()
        try:
            return self._file.read(size)  # type: ignore[no-any-return]
        finally:
            if self._has_ended:
                self._file.close()

    def write(self, data: bytes) -> None:
        """Raises OSError."""
        self._shake_hands()
        self._connected.sendall(data)

    def _shake_hands(self) -> None:
        if self._file is None:
            self._file = self._connected.makefile("rb")
            accept = b64encode(sha1(self._key + _GUID).digest())
            self._connected.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n" % accept
            )


# the attributes of the handler that the object uses
_HANDLER = SimpleNamespace(
    logger=logging.getLogger("geventwebsocket"), server=SimpleNamespace(application=None)
)
