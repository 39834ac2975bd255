"""The fallback responder: answers 503 on a pool's socket while the pool has no workers.

The socket belongs to the supervisor and stays open, so without an answer a request would wait until
its mount's timeout, and at the front forever.
"""

import asyncio
import contextlib
import socket
import time
from math import ceil

from gateway.logs import lifecycle
from gateway.protocol.error_page import build_error_page
from gateway.supervisor.tasks import start

STATUS = "503 Service Unavailable"
# to read what the client is still sending: closing with unread input would reset the connection
LINGER_SECONDS = 2.0
MAX_AT_A_TIME = 100
PAUSE_SECONDS = 1.0


class FallbackResponder:
    """Answers every connection on ``listener`` between ``open`` and ``close``, including those that
    it has accepted before ``close``."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._page = b""
        self._retry = 0.0
        self._socket: socket.socket | None = None
        self._is_short = False
        self._refusing: set[asyncio.Task[None]] = set()

    def open(self, cause: str, retry_seconds: float) -> None:
        """Answer 503 from now on, with ``cause`` as text on the page, and with the time until
        ``retry_seconds`` from now are over as Retry-After (RFC 9110 §10.2.3)."""
        self._page = build_error_page(STATUS, cause, "")
        self._retry = time.monotonic() + retry_seconds
        if self._socket is None:
            # a descriptor of its own: a sleeping pool watches the other one
            try:
                sock = self._listener.dup()
            except OSError as error:  # no descriptor is left; the next change tries again
                self._note_shortage(error)
                return
            sock.setblocking(False)  # as workers have it, which share it
            asyncio.get_running_loop().add_reader(sock, self._accept, sock)
            self._socket = sock

    def close(self) -> None:
        """Leave the socket to workers; safe to call twice."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(MAX_AT_A_TIME):
            try:
                connection, _ = sock.accept()
            except BlockingIOError:
                return  # none is left
            except OSError as error:
                self._pause(sock, error)
                return
            self._is_short = False
            connection.setblocking(False)
            task = start(self._refuse(connection))
            self._refusing.add(task)
            task.add_done_callback(self._refusing.discard)

    def _pause(self, sock: socket.socket, error: OSError) -> None:
        """No descriptor or memory is left, and the connection stays in the queue: stop accepting
        for a while, as asyncio's servers do, else the event loop would spin."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(sock)
        loop.call_later(PAUSE_SECONDS, self._go_on, sock)
        self._note_shortage(error)

    def _note_shortage(self, error: OSError) -> None:
        if not self._is_short:
            self._is_short = True
            lifecycle.error("requests cannot be answered 503, and wait: %s", error)

    def _go_on(self, sock: socket.socket) -> None:
        if self._socket is sock:
            asyncio.get_running_loop().add_reader(sock, self._accept, sock)

    def _build_answer(self) -> bytes:
        seconds = max(1, ceil(self._retry - time.monotonic()))
        head = (
            f"HTTP/1.1 {STATUS}\r\nContent-Type: text/html; charset=utf-8\r\n"
            f"Cache-Control: no-store\r\nRetry-After: {seconds}\r\n"
            f"Content-Length: {len(self._page)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode("latin-1") + self._page

    async def _refuse(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with connection, contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                await loop.sock_sendall(connection, self._build_answer())
                connection.shutdown(socket.SHUT_WR)
                while await loop.sock_recv(connection, 65536):
                    pass
