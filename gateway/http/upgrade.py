"""Apps that take over a request's connection to speak another protocol, such as WebSocket.

Owns the objects in the environ of such an app, and relays bytes between its socket and the client's
connection. Source: RFC 9110 §7.8 (Upgrade); the keys of the environ
are those of Werkzeug and Gunicorn, which simple-websocket looks for, and of gevent-websocket.
"""

from __future__ import annotations

import _socket
import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import suppress
from socket import SHUT_RD, SHUT_RDWR, SHUT_WR
from threading import Lock
from typing import Any

from gevent import get_hub
from gevent import socket as gevent_socket
from gevent.lock import RLock
from greenlet import GreenletExit, getcurrent, greenlet

from gateway.errors import AppError, ClientDisconnected
from gateway.http.gevent_websocket import OfferedWebSocket, open_websocket
from gateway.http.response import Response
from gateway.http.wire.wire import READ, WRITE, Wire, wait_for
from gateway.protocol.framing import split_list
from gateway.protocol.request import RequestHead
from gateway.wsgi import Environ, ExcInfo, FileWrapper, StartResponse, Takeover, Write, WSGIApp

READ_BYTES = 64 * 1024
# where simple-websocket (flask-sock, Flask-SocketIO) looks for the connection
SOCKET_KEYS = ("werkzeug.socket", "gunicorn.socket")
# simple-websocket wakes its app before another thread has answered the client's close
GRACE_SECONDS = 0.5
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})[ \r]")
_STATUS_BYTES = 13
# raised by simple-websocket at the end of a connection, as for Gunicorn and Werkzeug
_ENDS = (StopIteration, ConnectionError)


def asks_to_upgrade(head: RequestHead) -> bool:
    """Whether a request with an Upgrade field may switch protocols (RFC 9110 §7.8). Never to h2c:
    see ``upstream.request``."""
    fields = head.fields
    if not head.is_http11 or head.content_length:
        return False
    options = split_list(fields.get("HTTP_CONNECTION", ""))
    return "upgrade" in options and "h2c" not in fields["HTTP_UPGRADE"].lower()


class OfferedSocket:
    """Represents the connection in an environ; its first use takes over the connection.

    ``take`` returns the descriptor of the app's end, once, and ``make`` a socket for it. Inspecting
    or printing this object does not count as use.
    """

    def __init__(
        self, take: Callable[[], int], make: Callable[[int], Any], peer: tuple[str, str]
    ) -> None:
        self.take = take
        self._make = make
        self.peer = peer
        self._lock = Lock()
        self._taken: Any = None

    def getpeername(self) -> tuple[str, int]:
        """The client, as in the environ."""
        host, port = self.peer
        return host, int(port or 0)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # looked up by copy, pickle and others
            raise AttributeError(name)
        with self._lock:
            if self._taken is None:
                self._taken = self._make(self.take())
        return getattr(self._taken, name)

    def __enter__(self) -> OfferedSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.__getattr__("close")()


class _Socket(gevent_socket.socket):
    """A socket whose ``send`` sends everything, for one greenlet at a time, like that of a blocking
    socket: simple-websocket relies on it."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(fileno=descriptor)
        self.settimeout(None)  # whatever the process's default is
        self._sending = RLock()

    def send(self, data: Any, *how: Any, **more: Any) -> int:
        if self.gettimeout() is not None:
            return super().send(data, *how, **more)
        view = memoryview(data).cast("B")
        with self._sending:
            sent = super().send(view, *how)
            while sent < len(view):
                sent += super().send(view[sent:], *how)
        return len(view)

    def sendall(self, data: Any, flags: int = 0) -> None:
        if self.gettimeout() is not None:
            super().sendall(data, flags)
        else:
            self.send(data, flags)


class Upgradable:
    """``app`` for one request, whose environ offers the connection.

    Once the app has taken it over, the client only gets what the app writes to its socket, not its
    return value, and no 500. The connection is closed when the app has ended.
    """

    def __init__(self, app: WSGIApp, wire: Wire, response: Response) -> None:
        self._app = app
        self._wire = wire
        self._response = response
        self._tunnel: AppTunnel | None = None
        self._socket: OfferedSocket
        self._start: StartResponse
        self._is_over = False
        self._websocket: OfferedWebSocket | None = None

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        self._start = start_response
        peer = environ["REMOTE_ADDR"], environ["REMOTE_PORT"]
        self._socket = OfferedSocket(self._take, _Socket, peer)
        environ.update(dict.fromkeys(SOCKET_KEYS, self._socket))
        self._websocket = open_websocket(environ, self._socket)
        try:
            result = self._app(environ, self._start_response)
        except BaseException as error:  # noqa: BLE001  raised again where it is a fault
            self.end(error)
            return ()
        if self._tunnel is None and isinstance(result, (Sized, FileWrapper, Takeover)):
            self._is_over = True  # the app does not run while this is sent
            return result
        return _Result(result, self)

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None, /
    ) -> Write:
        if self._tunnel is not None:
            return len  # discards what the app writes
        return self._start(status, headers, exc_info)

    def _take(self) -> int:
        """The descriptor of the app's end. In the hub's thread; does not switch greenlets."""
        if self._is_over or self._tunnel is not None:
            raise OSError(errno.EBADF, "the request has ended")
        if self._response.head_sent:
            raise RuntimeError("the response has begun: its connection cannot be taken over")
        ours, theirs = _socket.socketpair()
        self._tunnel = AppTunnel(self._wire, self._response, ours)
        return theirs.detach()

    @property
    def is_taken(self) -> bool:
        """Whether the app has taken over the connection."""
        return self._tunnel is not None

    def end(self, error: BaseException | None = None) -> None:
        """The app has returned or raised ``error``, which is raised again unless it is the normal
        end of a WebSocket. May switch greenlets."""
        tunnel, is_over, self._is_over = self._tunnel, self._is_over, True
        if tunnel is not None and not is_over:
            is_cut = isinstance(error, ClientDisconnected) or not isinstance(error, Exception)
            if error is not None and is_cut:
                tunnel.stop()
            else:
                if self._websocket is not None:
                    self._websocket.say_goodbye()
                tunnel.finish()
            self._close_socket()
            if isinstance(error, _ENDS):
                error = None
            if error is None and not tunnel.has_sent and not self._wire.has_ended:
                error = AppError("the app took the connection over and sent nothing")
        if error is not None:
            raise error

    def _close_socket(self) -> None:
        # a socket of a native thread is left to that thread, which may still read from it
        taken = self._socket._taken
        if isinstance(taken, gevent_socket.socket):
            taken.close()


class _Result:
    """The result of an app that may still take over the connection while it is iterated."""

    def __init__(self, result: Iterable[bytes], upgradable: Upgradable) -> None:
        self._result = result
        self._pieces = iter(()) if upgradable.is_taken else iter(result)
        self._upgradable = upgradable

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            for piece in self._pieces:
                if not self._upgradable.is_taken:
                    return piece
        except BaseException as error:  # noqa: BLE001  raised again where it is a fault
            self._upgradable.end(error)
        else:
            self._upgradable.end()
        raise StopIteration

    def close(self) -> None:
        """See PEP 3333."""
        try:
            close = getattr(self._result, "close", None)
            if close is not None:
                close()
        finally:
            self._upgradable.end()


class AppTunnel(Takeover):
    """Relays between a client's connection and ``ours``, whose other end the app has, with a
    greenlet for each direction. If one side closes, the other may still send."""

    def __init__(self, wire: Wire, response: Response, ours: Any) -> None:
        ours.setblocking(False)
        self._wire = wire
        self._response = response
        self._ours = ours
        self._client, begun = wire.hand_over()
        # its own descriptor: the connection may be closed while a greenlet waits for it
        self._reading = _socket.socket(fileno=os.dup(self._client.fileno()))
        self._start = b""  # the first bytes that the app has sent
        self._waiting: Any = None
        self._hub: Any = get_hub()
        response.leave_to(self)
        self._to_client = greenlet(self._run_to_client, self._hub)
        self._to_app = greenlet(self._run_to_app, self._hub)
        run_callback = self._hub.loop.run_callback
        self._begins = (
            run_callback(self._to_client.switch),
            run_callback(self._to_app.switch, begun),
        )

    @property
    def has_sent(self) -> bool:
        """Whether the app has sent anything."""
        return bool(self._start)

    def _run_to_client(self) -> None:
        try:
            while data := _receive(self._ours):
                self._note_status(data)
                self._wire.send(data)
            _shut(self._client, SHUT_WR)
        except ClientDisconnected:
            self._wire.has_ended = True
            _shut(self._ours, SHUT_RDWR)
        except (OSError, GreenletExit):
            pass
        self._hub.loop.run_callback(self._wake)

    def _note_status(self, data: bytes) -> None:
        if len(self._start) < _STATUS_BYTES:
            self._start += data[:_STATUS_BYTES]
            found = _STATUS.match(self._start)
            if found is not None:
                self._response.code = int(found[1])

    def _run_to_app(self, begun: bytes) -> None:
        with suppress(GreenletExit):
            data = begun or self._receive_from_client()
            while data:
                self.received_bytes += len(data)
                if not _send(self._ours, data):
                    return  # the app has closed
                data = self._receive_from_client()
            self._wire.has_ended = True
            _shut(self._ours, SHUT_WR)

    def _receive_from_client(self) -> bytes:
        try:
            return _receive(self._reading)
        except OSError:
            return b""

    def _wake(self) -> None:
        if self._waiting is not None:
            self._waiting.switch()

    def finish(self) -> None:
        """Send what the app has written, then ``stop``. May switch greenlets."""
        self._waiting = getcurrent()
        grace = self._hub.loop.timer(GRACE_SECONDS)
        # then the app can no longer write; what it has written can still be read
        grace.start(_shut, self._ours, SHUT_RD)
        try:
            while not self._to_client.dead:
                self._hub.switch()
        finally:
            self._waiting = None
            grace.close()
            self.stop()

    def stop(self) -> None:
        """Stop relaying."""
        for begin, running in zip(self._begins, (self._to_client, self._to_app)):
            begin.stop()
            if not running.dead:
                running.parent = getcurrent()
                running.throw()
        self._reading.close()
        self._ours.close()


def _receive(source: Any) -> bytes:
    """Received bytes, b"" at the end. Raises OSError. Always yields to the loop, so that a fast
    sender does not block others."""
    while True:
        wait_for(source, READ)
        with suppress(BlockingIOError):
            return source.recv(READ_BYTES)  # type: ignore[no-any-return]


def _send(to: Any, data: bytes) -> bool:
    """Send all of ``data``; returns whether that was possible. May switch greenlets."""
    view = memoryview(data)
    while view:
        try:
            view = view[to.send(view) :]
        except BlockingIOError:
            wait_for(to, WRITE)
        except OSError:
            return False
    return True


def _shut(connected: Any, how: int) -> None:
    with suppress(OSError):  # it has ended already
        connected.shutdown(how)
