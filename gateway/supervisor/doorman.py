"""Answers at a pool's socket in its workers' stead, while there are none.

Knows nothing of pools. The socket is the supervisor's and stays open, so without an answer a
request would wait for as long as its mount lets it.
"""

import asyncio
import contextlib
import socket

from gateway.http.error_page import build_error_page

STATUS = "503 Service Unavailable"
# to take in what the client is still sending: a close with unread input would reset the connection
LINGER_SECONDS = 2.0


class Doorman:
    """Refuses every connection on ``listener`` between ``open`` and ``close``."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._server: asyncio.AbstractServer | None = None
        self._answer = b""
        self._is_wanted = False

    async def open(self, cause: str, retry_seconds: int) -> None:
        """Answer 503 from now on, with ``cause`` for a person and Retry-After."""
        page = build_error_page(STATUS, cause, "")
        head = (
            f"HTTP/1.1 {STATUS}\r\nContent-Type: text/html; charset=utf-8\r\n"
            f"Cache-Control: no-store\r\nRetry-After: {retry_seconds}\r\n"
            f"Content-Length: {len(page)}\r\nConnection: close\r\n\r\n"
        )
        self._answer, self._is_wanted = head.encode("latin-1") + page, True
        if self._server is None:
            # A copy: the end of the server closes what it was given. Not start_unix_server, whose
            # servers remove the socket's path at their end since Python 3.13.
            self._server = await asyncio.start_server(
                self._refuse, sock=self._listener.dup(), backlog=socket.SOMAXCONN
            )
            if not self._is_wanted:
                self.close()

    def close(self) -> None:
        """Leave the socket to workers."""
        self._is_wanted = False
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            writer.write(self._answer)
            await writer.drain()
            writer.write_eof()
            async with asyncio.timeout(LINGER_SECONDS):
                while await reader.read(65536):
                    pass
        writer.close()
