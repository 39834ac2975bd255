"""The ``start_response`` contract and the framing of responses.

Source: PEP 3333 "The start_response() Callable" and following; RFC 9110 §6.4, §15; RFC 9112 §6, §7.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sized
from io import FileIO
from typing import Any

from gateway.errors import AppError
from gateway.http.advice import (
    NO_START,
    SECOND_START,
    WHOLE_LENGTH,
    describe_no_result,
    describe_piece,
    describe_result,
)
from gateway.http.response_head import CheckedHead, check_field, known_heads, not_headers, read_head
from gateway.http.wire.wire import Wire
from gateway.protocol.names import CACHE_ENTRIES
from gateway.protocol.request import RequestHead
from gateway.wsgi import HEAD_NOW, ExcInfo, Fields, FileWrapper, Takeover, Write

# above this, head and body are sent as two pieces by one system call instead of being joined
COPY_BYTES = 16 * 1024
_get_known_head = known_heads.get

# lengths from 1 to COPY_BYTES to the line before such a chunk
_known_chunk_lines: dict[int, bytes] = {}


def _iterate(result: Iterable[bytes]) -> Iterator[bytes]:
    try:
        return iter(result)
    except TypeError as error:
        made = getattr(result, "held", result)
        if hasattr(type(made), "__iter__"):
            raise  # it is iterable, and failed
        raise AppError(describe_no_result(made)) from error


class Response:
    """One response: status and headers of the app, the framing, and what has been sent.

    ``persistent`` is whether the connection may be reused; it can only become false.
    ``remaining`` is the number of bytes still to be sent by Content-Length, -1 without one.
    """

    # without them CPython 3.11 gives some objects a dict, depending on which was the first to have
    # an attribute
    __slots__ = (
        *("_date_line", "_has_body", "_has_date", "_head_text", "_is_chunked", "_request"),
        *("_simple_head", "_sink", "code", "head_sent", "persistent", "remaining"),
    )

    def __init__(self, sink: Wire, request: RequestHead, persistent: bool, date_line: str) -> None:
        self.begin(sink, request, persistent, date_line.encode("latin-1"))

    def begin(self, sink: Wire, request: RequestHead, persistent: bool, date_line: bytes) -> None:
        """As ``__init__``, which is slower, since Python calls it through C."""
        self._sink = sink
        self._request = request
        self._date_line = date_line
        self.persistent = persistent
        self.head_sent = self._is_chunked = False
        self.code = 0
        # start_response sets the other attributes
        self._head_text = ""
        self._simple_head = b""

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None, /
    ) -> Write:
        """PEP 3333. Raises AppError for what must not be sent, and the exception of ``exc_info`` if
        the head has been sent already."""
        if exc_info is not None:
            try:
                if self.head_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
                self.restart()
            finally:
                exc_info = None  # no reference cycle through the traceback
        elif self._head_text:
            raise AppError(SECOND_START)
        try:
            key = status, tuple(headers)
            known = _get_known_head(key) or self._read_head(key)
        except (TypeError, ValueError) as error:
            raise not_headers(headers) from error
        (self._head_text, self.code, self.remaining, self._simple_head,
         self._has_body, self._has_date) = known  # fmt: skip
        return self

    def _read_head(self, key: tuple[str, Fields]) -> CheckedHead:
        return read_head(key)

    def __call__(self, data: bytes, /) -> None:
        """PEP 3333's ``write()``; not a separate object, since it is hardly ever used. Raises
        AppError and ClientDisconnected. May switch greenlets."""
        self._write(data, False)

    def _write(self, data: bytes, is_whole: bool) -> None:
        if not isinstance(data, bytes):
            raise AppError(describe_piece(data))
        if not data:
            if data is HEAD_NOW and not self.head_sent:
                self._send_first(b"", None)
            return
        if not self.head_sent:
            self._send_first(data, len(data) if is_whole else None)
        elif self._is_bodiless:
            pass
        elif self._is_chunked:
            self._send_chunk(b"", data)
        else:
            data = self._within_length(data)
            is_part = self.remaining and len(data) <= COPY_BYTES
            send = self._sink.send_part if is_part else self._sink.send
            send(data)

    def send_result(self, result: Iterable[bytes]) -> None:
        """Send what the app returned. Raises AppError, ClientDisconnected and what the iterable
        raises. May switch greenlets."""
        if type(result) is list:
            if len(result) == 1 and self._send_whole(result[0], True):
                return
        elif isinstance(result, FileWrapper) and not self.head_sent and self._send_file(result):
            return
        elif isinstance(result, Takeover):
            self.take_over(result)
            return
        pieces = _iterate(result)
        for data in pieces:
            if self._send_whole(data, False):
                continue
            if not isinstance(data, bytes):
                raise AppError(describe_result(result, data))
            # PEP 3333 "Handling the Content-Length Header"
            is_only = not self.head_sent and isinstance(result, Sized) and len(result) == 1
            self._write(data, is_only)
            if self._is_chunked:
                self._send_chunks(pieces)
        self.finish()

    def _send_whole(self, data: bytes, is_only: bool) -> bool:
        """The shortest way, for most responses: the head and, in one piece, the whole body, which
        is as long as its Content-Length says or the only piece. False where it is not that."""
        head = self._simple_head
        if not head or type(data) is not bytes or not self._request.takes_simple_head:
            return False
        length, remaining = len(data), self.remaining
        if length > COPY_BYTES or (length != remaining and not (is_only and remaining < 0)):
            return False
        if remaining < 0:
            head += b"Content-Length: %d\r\n" % length
        if not self.persistent:
            head += b"Connection: close\r\n"
        self.head_sent = True
        self._simple_head = b""
        self.remaining = 0
        self._sink.send(head + self._date_line + data)
        return True

    def _send_chunks(self, pieces: Iterator[bytes]) -> None:
        """The rest of a body whose first chunk has been sent, each piece as the app gives it."""
        send, join, get_line = self._sink.send_part, b"".join, _known_chunk_lines.get
        for data in pieces:
            if type(data) is bytes and (line := get_line(len(data))) is not None:
                send(join((line, data, b"\r\n")))
            else:
                self._write(data, False)

    def finish(self) -> None:
        """End the response. Raises AppError if the body is shorter than its Content-Length."""
        if not self.head_sent:
            self._send_first(b"", 0)
        if self._is_bodiless:
            return
        if self.remaining > 0:
            self.persistent = False
            raise AppError(
                f"the body is {self.remaining} bytes shorter than its Content-Length: "
                f"{WHOLE_LENGTH}"
            )
        self.remaining = 0  # a late write would be parsed as the next response
        if self._is_chunked:
            self._is_chunked = False
            self._sink.send(b"0\r\n\r\n")

    @property
    def is_cut(self) -> bool:
        """Whether closing the connection would look like the end of an incomplete body: one without
        a length, for an HTTP/1.0 client (RFC 9112 §8)."""
        is_open = self.head_sent and not self._is_bodiless and not self._is_chunked
        return is_open and self.remaining < 0

    def take_over(self, taker: Takeover) -> None:
        """Send a 101 and leave the connection to ``taker``; afterwards it cannot be used again."""
        self._be_taken_by(taker)
        self.code = 101
        self.head_sent = self._has_body = True
        self.remaining = 0
        self.persistent = False
        self._sink.send(taker.head)
        taker.run(self._sink)

    def leave_to(self, taker: Takeover) -> None:
        """The app has the connection: what goes out is what it writes, and until it has written a
        status, the status is that of an answer which was none."""
        self._be_taken_by(taker)
        self.code = 502
        self.head_sent = self._has_body = True
        self.remaining = -1
        self.persistent = False

    def _be_taken_by(self, taker: Takeover) -> None:
        """For subclasses."""

    def send_early_hints(self, headers: list[tuple[str, str]]) -> None:
        """``wsgi.early_hints``: a 103 with ``headers`` (RFC 8297), for HTTP/1.1 clients."""
        if not self.head_sent and self._request.is_http11:
            lines = "".join(check_field(name, value) for name, value in headers)
            self._sink.send(f"HTTP/1.1 103 Early Hints\r\n{lines}\r\n".encode("latin-1"))

    def restart(self) -> None:
        """Discard status and headers, so that an error can be sent; only before the head."""
        self._head_text = ""
        self._simple_head = b""
        self.code = 0
        self._has_body = True
        self._has_date = self._is_chunked = False
        self.remaining = -1

    @property
    def is_complete(self) -> bool:
        """Whether the complete response has been sent."""
        return self.head_sent and (self._is_bodiless or self.remaining == 0)

    @property
    def is_for_get(self) -> bool:
        return self._request.method == "GET"

    @property
    def _is_bodiless(self) -> bool:
        # RFC 9110 §6.4.1
        return not self._has_body or self._request.method == "HEAD"

    def _send_first(self, data: bytes, length: int | None) -> None:
        """Send head and first piece; ``length`` is that of the complete body, if it is known."""
        head = self._build_head(length)
        self.head_sent = True
        self._simple_head = b""
        if not data or self._is_bodiless:
            self._sink.send(head)
        elif self._is_chunked:
            self._send_chunk(head, data)
        elif 0 <= self.remaining < len(data):
            self._sink.send(head)
            self._within_length(data)
        else:
            if self.remaining > 0:
                self.remaining -= len(data)
            if len(data) > COPY_BYTES:
                self._sink.send_pieces([head, data])
            else:
                self._sink.send(head + data)

    def _send_chunk(self, before: bytes, data: bytes) -> None:
        """RFC 9112 §7.1: size in hexadecimal, data, each with CRLF."""
        if len(data) <= COPY_BYTES:
            line = b"%x\r\n" % len(data)
            if len(_known_chunk_lines) >= CACHE_ENTRIES:
                _known_chunk_lines.clear()
            _known_chunk_lines[len(data)] = line
            send = self._sink.send if before else self._sink.send_part
            send(b"%b%b%b\r\n" % (before, line, data))
        else:
            self._sink.send_pieces([b"%b%x\r\n" % (before, len(data)), data, b"\r\n"])

    def _build_head(self, length: int | None) -> bytes:
        text = self._head_text
        if not text:
            raise AppError(NO_START)
        if self.code < 200:
            raise AppError(f"{self.code} is not a final status: write for example 200")
        if self.remaining >= 0:
            if length is not None and length < self.remaining and not self._is_bodiless:
                raise AppError(
                    f"the body has {length} bytes, its Content-Length says {self.remaining}: "
                    f"{WHOLE_LENGTH}"
                )
        elif self.code != 204 and self.code != 304:
            text += self._decide_framing(length)
        if self.remaining >= 0 and self.code != 204:  # RFC 9110 §8.6
            text += f"Content-Length: {self.remaining}\r\n"
        if not self.persistent:
            text += "Connection: close\r\n"
        elif not self._request.is_http11:
            text += "Connection: keep-alive\r\n"
        return text.encode("latin-1") + (b"\r\n" if self._has_date else self._date_line)

    def _decide_framing(self, length: int | None) -> str:
        """RFC 9112 §6.3, without a Content-Length of the app; the line of a field, "" for none."""
        is_head = self._request.method == "HEAD"
        # an empty body for HEAD does not show the length that GET would have (RFC 9110 §8.6)
        if length or (length == 0 and not is_head):
            self.remaining = length
        elif self._request.is_http11:
            self._is_chunked = not is_head
            return "Transfer-Encoding: chunked\r\n"
        elif not is_head:
            self.persistent = False  # closing ends the body
        return ""

    def _within_length(self, data: bytes) -> bytes:
        if self.remaining < 0:
            return data
        if len(data) <= self.remaining:
            self.remaining -= len(data)
            return data
        # surplus bytes would be parsed as the next response
        cut, self.remaining = data[: self.remaining], 0
        if cut:
            self._sink.send(cut)
        raise AppError(
            f"the body is longer than its Content-Length; the surplus was cut: {WHOLE_LENGTH}"
        )

    def _send_file(self, wrapper: FileWrapper) -> bool:
        """Send a regular file from its position by sendfile; False where it is something else."""
        file: Any = wrapper.file
        # a descriptor of another kind, such as gzip's, holds other bytes than its read() gives
        if not isinstance(getattr(file, "raw", file), FileIO):
            return False
        try:
            descriptor, offset = file.fileno(), file.tell()
            size = max(0, os.fstat(descriptor).st_size - offset)
        except (OSError, ValueError):
            return False
        if not size or not self._head_text:
            return False
        head = self._build_head(size)
        self.head_sent = True
        if self._is_bodiless:
            self._sink.send(head)
            return True
        size = min(size, self.remaining)
        self._sink.send_file(head, descriptor, offset, size)
        self.remaining -= size
        self.finish()
        return True
