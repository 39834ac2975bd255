"""The ``start_response`` contract and the framing of what an app answers.

Refuses to know the socket (it gives bytes to a sink) and the request's content. Source: PEP 3333
"The start_response() Callable" and following; RFC 9110 §6.4, §15; RFC 9112 §6, §7.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from html import escape
from io import FileIO
from typing import Any, Protocol

from gateway.errors import AppError
from gateway.http.names import CACHE_ENTRIES
from gateway.http.parser import RequestHead
from gateway.wsgi import HEAD_NOW, ExcInfo, FileWrapper, Takeover, Write

# beyond this, head and body go out as two pieces of one system call instead of being joined
COPY_BYTES = 16 * 1024

_STATUS = re.compile(r"[1-9][0-9]{2}(?: [\t\x20-\x7e\x80-\xff]*)?", re.ASCII)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)
_DIGITS = re.compile(r"[0-9]{1,18}", re.ASCII)
# the charset of a field (RFC 9110 §5.5) is latin-1 here, as of every string of PEP 3333
_UNSENDABLE = re.compile(r"[^\x01-\x09\x0b\x0c\x0e-\xff]")
# RFC 9110 §7.6.1, RFC 2616 §13.5.1: PEP 3333 forbids these to an app
_HOP_BY_HOP = frozenset(
    (
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization"),
        *("proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
    )
)
# lines, code, whether there is a body, its Content-Length or -1, whether there is a Date
KnownHead = tuple[str, int, bool, int, bool]
# what was checked once: status to its line and code, (name, value) to its line, and both to all
# that is known of a head; bounded
_known_statuses: dict[str, tuple[str, int, bool]] = {}
_known_lines: dict[tuple[str, str], str] = {}
_known_heads: dict[tuple[Any, ...], KnownHead] = {}
_LONGEST_KNOWN_HEAD = 512
_LONGEST_KNOWN_LINE = 128
# two have a meaning beside their line; a cookie is somebody's
_NEVER_KNOWN = frozenset(("content-length", "date", "set-cookie"))


class Sink(Protocol):
    """Where a response goes. Each call may switch greenlets and raises ClientDisconnected."""

    def send(self, data: bytes, /) -> None: ...
    def send_pieces(self, pieces: list[bytes], /) -> None: ...
    def send_file(self, head: bytes, file_descriptor: int, offset: int, size: int, /) -> None: ...


class Response:
    """One response: what the app said, how it is framed, how much has gone out.

    ``persistent`` is whether the connection may serve another request; it can only turn false.
    ``remaining`` counts the bytes that a Content-Length still promises, -1 where none does.
    """

    code = 0
    head_sent = False
    remaining = -1
    _head_text = ""
    _has_body = True
    _has_date = False
    _is_chunked = False

    def __init__(self, sink: Sink, request: RequestHead, persistent: bool, date_line: str) -> None:
        self._sink = sink
        self._request = request
        self._is_plain = request.is_http11 and request.method != "HEAD"
        self._date_line = date_line
        self.persistent = persistent

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None, /
    ) -> Write:
        """PEP 3333. Raises AppError for what may not be sent; ``exc_info``'s own exception where
        the head has gone out already."""
        if exc_info is not None:
            try:
                if self.head_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
                self.restart()
            finally:
                exc_info = None  # no reference cycle through the traceback
        elif self._head_text:
            raise AppError("start_response was called a second time without exc_info")
        key = (status, *headers)
        try:
            known = _known_heads.get(key) or self._read_head(key)
        except TypeError as error:
            raise _not_headers(headers) from error
        self._head_text, self.code, self._has_body, self.remaining, self._has_date = known
        return self.write

    def _read_head(self, key: tuple[Any, ...]) -> KnownHead:
        """Check a status and headers, and remember them, within a bound."""
        status, *headers = key
        try:
            text, code, has_body = _known_statuses.get(status) or _check_status(status)
            for pair in headers:
                text += _known_lines.get(pair) or self._read_field(pair)
            known = text, code, has_body, self.remaining, self._has_date
        except ValueError as error:
            raise _not_headers(headers) from error
        finally:
            self.restart()
        if len(text) <= _LONGEST_KNOWN_HEAD and "\r\nset-cookie:" not in text.lower():
            if len(_known_heads) >= CACHE_ENTRIES:
                _known_heads.clear()
            _known_heads[key] = known
        return known

    def _read_field(self, pair: tuple[str, str]) -> str:
        name, value = pair
        if isinstance(name, str) and isinstance(value, str):
            lower = name.lower()
            if lower == "content-length":
                if self.remaining >= 0 or not _DIGITS.fullmatch(value):
                    raise AppError(f"Content-Length is repeated or no number: {value!r:.80}")
                self.remaining = int(value)
                return ""  # the head is given its own
            if lower == "date":
                self._has_date = True
        return _check_field(name, value)

    def write(self, data: bytes, /) -> None:
        """Send ``data`` now. Raises AppError, ClientDisconnected. May switch greenlets."""
        self._write(data, False)

    def _write(self, data: bytes, is_whole: bool) -> None:
        if not isinstance(data, bytes):
            raise AppError(f"the app gave {type(data).__name__} instead of bytes")
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
            self._sink.send(self._within_length(data))

    def send_result(self, result: Iterable[bytes]) -> None:
        """Send what the app returned, to its end. Raises AppError, ClientDisconnected and whatever
        the iterable raises. May switch greenlets."""
        if result.__class__ is list:
            if len(result) == 1 and not self.head_sent:
                data: bytes = result[0]
                if data.__class__ is bytes and self._send_whole(data):
                    return
        elif isinstance(result, FileWrapper) and not self.head_sent and self._send_file(result):
            return
        elif isinstance(result, Takeover):
            self.take_over(result)
            return
        for data in result:
            if self._is_chunked and data.__class__ is bytes and 0 < len(data) <= COPY_BYTES:
                self._sink.send(b"%x\r\n%b\r\n" % (len(data), data))
            else:
                self._write(data, not self.head_sent and _has_one_piece(result))
        self.finish()

    def _send_whole(self, data: bytes) -> bool:
        """The shortest way, for most responses: one piece, nothing special asked."""
        length = len(data)
        if (
            not self._has_body
            or not self._is_plain
            or length > COPY_BYTES
            or (self.remaining != length and self.remaining >= 0)
            or not self._head_text
        ):
            return False
        self.head_sent = True
        self.remaining = 0
        close = "" if self.persistent else "Connection: close\r\n"
        date_line = "\r\n" if self._has_date else self._date_line
        head = f"{self._head_text}Content-Length: {length}\r\n{close}{date_line}"
        self._sink.send(head.encode("latin-1") + data)
        return True

    def finish(self) -> None:
        """End the response. Raises AppError where the app promised more than it gave."""
        if not self.head_sent:
            self._send_first(b"", 0)
        if self._is_bodiless:
            return
        if self.remaining > 0:
            self.persistent = False
            raise AppError(f"the body is {self.remaining} bytes shorter than its Content-Length")
        self.remaining = 0  # a late write would be read as the next response
        if self._is_chunked:
            self._is_chunked = False
            self._sink.send(b"0\r\n\r\n")

    def take_over(self, taker: Takeover) -> None:
        """Send a 101 and leave the connection to ``taker``; afterwards it cannot be used again."""
        self.code = 101
        self.head_sent = True
        self.remaining = 0
        self.persistent = False
        self._sink.send(taker.head)
        taker.run(self._sink)

    def send_early_hints(self, headers: list[tuple[str, str]]) -> None:
        """``wsgi.early_hints``: a 103 with ``headers`` (RFC 8297), where the client can read it."""
        if not self.head_sent and self._request.is_http11:
            lines = "".join(_check_field(name, value) for name, value in headers)
            self._sink.send(f"HTTP/1.1 103 Early Hints\r\n{lines}\r\n".encode("latin-1"))

    def restart(self) -> None:
        """Forget what the app began, so that an error can be answered; only before the head."""
        self._head_text = ""
        self.code = 0
        self._has_body = True
        self._has_date = self._is_chunked = False
        self.remaining = -1

    @property
    def is_complete(self) -> bool:
        """Whether all that the head promised has gone out."""
        return self.head_sent and (self._is_bodiless or self.remaining == 0)

    @property
    def _is_bodiless(self) -> bool:
        # RFC 9110 §6.4.1
        return not self._has_body or self._request.method == "HEAD"

    def _send_first(self, data: bytes, length: int | None) -> None:
        """Head and first piece; ``length`` is that of the whole body where it is known."""
        head = self._build_head(length)
        self.head_sent = True
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
        """RFC 9112 §7.1: size in hexadecimal, data, each with its line end."""
        if len(data) <= COPY_BYTES:
            self._sink.send(b"%b%x\r\n%b\r\n" % (before, len(data), data))
        else:
            self._sink.send_pieces([b"%b%x\r\n" % (before, len(data)), data, b"\r\n"])

    def _build_head(self, length: int | None) -> bytes:
        text = self._head_text
        if not text:
            raise AppError("the app gave a body or ended without calling start_response")
        if self.code < 200:
            raise AppError(f"{self.code} is no final status")
        if self.remaining >= 0:
            if length is not None and length < self.remaining and not self._is_bodiless:
                raise AppError(
                    f"the body has {length} bytes, its Content-Length says {self.remaining}"
                )
        elif self.code != 204 and self.code != 304:
            text += self._decide_framing(length)
        if self.remaining >= 0 and self.code != 204:  # RFC 9110 §8.6
            text += f"Content-Length: {self.remaining}\r\n"
        if not self.persistent:
            text += "Connection: close\r\n"
        elif not self._request.is_http11:
            text += "Connection: keep-alive\r\n"
        text += "\r\n" if self._has_date else self._date_line
        return text.encode("latin-1")

    def _decide_framing(self, length: int | None) -> str:
        """RFC 9112 §6.3, where the app gave no length; the field that says it, if one does."""
        is_head = self._request.method == "HEAD"
        # a HEAD's empty body tells nothing of the length that GET would have (RFC 9110 §8.6)
        if length or (length == 0 and not is_head):
            self.remaining = length
        elif self._request.is_http11:
            self._is_chunked = not is_head
            return "Transfer-Encoding: chunked\r\n"
        elif not is_head:
            self.persistent = False  # the end of the body is the close
        return ""

    def _within_length(self, data: bytes) -> bytes:
        if self.remaining < 0:
            return data
        if len(data) <= self.remaining:
            self.remaining -= len(data)
            return data
        # the surplus would be read as the next response
        cut, self.remaining = data[: self.remaining], 0
        if cut:
            self._sink.send(cut)
        raise AppError("the body is longer than its Content-Length; the surplus was cut")

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


def build_error_page(status: str, detail: str, request_id: str, traceback: str = "") -> bytes:
    """A small page for what the gateway itself answers; all four are shown, as text."""
    shown = f'<pre style="overflow:auto">{escape(traceback)}</pre>' if traceback else ""
    reference = f"<p><small>Request {escape(request_id)}</small></p>" if request_id else ""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" '
        f'content="light dark"><title>{escape(status)}</title><style>body{{font:1rem/1.5 system-ui,'
        "sans-serif;max-width:34rem;margin:15vh auto;padding:0 1rem}small{opacity:.6}</style>"
        f"<h1>{escape(status)}</h1><p>{escape(detail)}</p>{shown}{reference}</html>\n"
    ).encode()


def _has_one_piece(result: Any) -> bool:
    # PEP 3333 "Handling the Content-Length Header"
    with suppress(TypeError):
        return len(result) == 1
    return False


def _not_headers(headers: object) -> AppError:
    return AppError(f"headers are not a list of (str, str): {headers!r:.200}")


def _check_status(status: str) -> tuple[str, int, bool]:
    """The line of a status, its code, and whether such a response has a body."""
    if not isinstance(status, str) or not _STATUS.fullmatch(status):
        raise AppError(f"status is not a code, a space and a reason: {status!r:.80}")
    line = f"HTTP/1.1 {status if ' ' in status else status + ' '}\r\n"
    code = int(status[:3])
    known = line, code, code >= 200 and code not in (204, 304)
    if len(_known_statuses) < CACHE_ENTRIES:
        _known_statuses[status] = known
    return known


def _check_field(name: str, value: str) -> str:
    """The line of a field that an app may send. Raises AppError for one it may not."""
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise AppError(f"header name is no token: {name!r:.80}")
    lower = name.lower()
    if lower in _HOP_BY_HOP:
        raise AppError(f"{name} is the server's to send, not an app's (PEP 3333)")
    if not isinstance(value, str) or _UNSENDABLE.search(value):
        raise AppError(f"{name} has no latin-1 string without line breaks and NUL: {value!r:.80}")
    line = f"{name}: {value}\r\n"
    if len(line) <= _LONGEST_KNOWN_LINE and lower not in _NEVER_KNOWN:
        if len(_known_lines) >= CACHE_ENTRIES:
            _known_lines.clear()
        _known_lines[name, value] = line
    return line
