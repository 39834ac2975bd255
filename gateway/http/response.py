"""The ``start_response`` contract and the framing of what an app answers.

Refuses to know the socket (it gives bytes to a sink) and the request's content. Source: PEP 3333
"The start_response() Callable" and following; RFC 9110 §6.4, §15; RFC 9112 §6, §7.
"""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from html import escape
from io import FileIO
from typing import Any, Protocol

from gateway.errors import AppError
from gateway.http.parser import CACHE_ENTRIES, RequestHead
from gateway.wsgi import ExcInfo, FileWrapper, Write

# beyond this, head and body go out as two pieces of one system call instead of being joined
COPY_BYTES = 16 * 1024

_STATUS = re.compile(r"[1-9][0-9]{2}(?: [\t\x20-\x7e\x80-\xff]*)?", re.ASCII)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)
_DIGITS = re.compile(r"[0-9]{1,18}", re.ASCII)
_LENGTH_LINE = re.compile(r"^content-length:[^\n]*\n", re.IGNORECASE | re.MULTILINE)
# RFC 9110 §7.6.1, RFC 2616 §13.5.1: PEP 3333 forbids these to an app
_HOP_BY_HOP = frozenset(
    (
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization"),
        *("proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
    )
)
_ORDINARY, _LENGTH, _DATE = 1, 2, 3
_field_kinds: dict[str, int] = {}
_status_lines: dict[str, str] = {}


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

    __slots__ = (
        "_date_line",
        "_has_date",
        "_head_text",
        "_is_chunked",
        "_is_head",
        "_is_http11",
        "_sink",
        "code",
        "head_sent",
        "persistent",
        "remaining",
    )

    def __init__(self, sink: Sink, request: RequestHead, persistent: bool, date_line: str) -> None:
        self._sink = sink
        self._is_head = request.method == "HEAD"
        self._is_http11 = request.is_http11
        self._date_line = date_line
        self._head_text = ""
        self._has_date = False
        self._is_chunked = False
        self.persistent = persistent
        self.code = 0
        self.head_sent = False
        self.remaining = -1

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None, /
    ) -> Write:
        """PEP 3333. Raises AppError for what may not be sent; ``exc_info``'s own exception where
        the head has gone out already."""
        if exc_info is not None:
            try:
                if self.head_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # no reference cycle through the traceback
        elif self._head_text:
            raise AppError("start_response was called a second time without exc_info")
        self.remaining = -1
        self._has_date = False
        text = _status_lines.get(status) or _build_status_line(status)
        try:
            for name, value in headers:
                kind = _field_kinds.get(name) or _learn_field(name)
                if kind != _ORDINARY:
                    self._note_field(kind, name, value)
                text += name + ": " + value + "\r\n"
        except (TypeError, ValueError) as error:
            raise AppError(f"headers are not a list of (str, str): {headers!r:.200}") from error
        lines = len(headers) + 1
        if text.count("\n") != lines or text.count("\r") != lines or "\0" in text:
            raise AppError(f"a line break or NUL in status or headers: {text!r:.400}")
        self.code = int(text[9:12])
        self._head_text = text
        return self.write

    def _note_field(self, kind: int, name: str, value: str) -> None:
        if kind == _DATE:
            self._has_date = True
            return
        if self.remaining >= 0 or not _DIGITS.fullmatch(value):
            raise AppError(f"Content-Length is repeated or no number of bytes: {value!r:.80}")
        self.remaining = int(value)

    def write(self, data: bytes, /) -> None:
        """Send ``data`` now. Raises AppError, ClientDisconnected. May switch greenlets."""
        self._write(data, False)

    def _write(self, data: bytes, is_whole: bool) -> None:
        if not isinstance(data, bytes):
            raise AppError(f"the app gave {type(data).__name__} instead of bytes")
        if not data:
            return
        if not self.head_sent:
            self._send_first(data, len(data) if is_whole else None)
        elif self._is_bodiless:
            pass
        elif self._is_chunked:
            self._sink.send_pieces([b"%x\r\n" % len(data), data, b"\r\n"])
        else:
            self._sink.send(self._within_length(data))

    def send_result(self, result: Iterable[bytes]) -> None:
        """Send what the app returned, to its end. Raises AppError, ClientDisconnected and whatever
        the iterable raises. May switch greenlets."""
        if not self.head_sent:
            kind = type(result)
            if (kind is list or kind is tuple) and len(result) == 1:  # type: ignore[arg-type]
                data = result[0]  # type: ignore[index]
                if data.__class__ is bytes and self._head_text:
                    self._send_first(data, len(data))
                    self.finish()
                    return
            elif isinstance(result, FileWrapper) and self._send_file(result):
                return
        for data in result:
            self._write(data, not self.head_sent and _has_one_piece(result))
        self.finish()

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

    def send_early_hints(self, headers: list[tuple[str, str]]) -> None:
        """``wsgi.early_hints``: a 103 with ``headers`` (RFC 8297), where the client can read it."""
        if self.head_sent or not self._is_http11:
            return
        text = "".join(f"{name}: {value}\r\n" for name, value in headers if _learn_field(name))
        if text.count("\n") != len(headers) or text.count("\r") != len(headers) or "\0" in text:
            raise AppError(f"a line break or NUL in early hints: {text!r:.400}")
        self._sink.send(f"HTTP/1.1 103 Early Hints\r\n{text}\r\n".encode("latin-1"))

    def restart(self) -> None:
        """Forget what the app began, so that an error can be answered; only before the head."""
        self._head_text = ""
        self._is_chunked = False
        self.remaining = -1

    @property
    def is_complete(self) -> bool:
        """Whether all that the head promised has gone out."""
        return self.head_sent and (self._is_bodiless or self.remaining == 0)

    @property
    def _is_bodiless(self) -> bool:
        # RFC 9110 §6.4.1
        return self._is_head or self.code == 204 or self.code == 304

    def _send_first(self, data: bytes, length: int | None) -> None:
        """Head and first piece; ``length`` is that of the whole body where it is known."""
        head = self._build_head(length)
        self.head_sent = True
        if self._is_head or not data or self.code == 204 or self.code == 304:
            self._sink.send(head)
        elif self._is_chunked:
            self._sink.send_pieces([head, b"%x\r\n" % len(data), data, b"\r\n"])
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

    def _build_head(self, length: int | None) -> bytes:
        text = self._head_text
        if not text:
            raise AppError("the app gave a body or ended without calling start_response")
        if self.code < 200:
            raise AppError(f"{self.code} is no final status")
        if self.code == 204:
            text = _LENGTH_LINE.sub("", text)  # RFC 9110 §8.6
        elif self.remaining < 0 and self.code != 304:
            # a HEAD's empty body tells nothing of the length that GET would have (RFC 9110 §8.6)
            if length or (length == 0 and not self._is_head):
                text += f"Content-Length: {length}\r\n"
                self.remaining = length
            elif self._is_http11:
                text += "Transfer-Encoding: chunked\r\n"
                self._is_chunked = True
            elif not self._is_head:
                self.persistent = False  # RFC 9112 §6.3: the end of the body is the close
        elif length is not None and length < self.remaining and not self._is_bodiless:
            raise AppError(f"the body has {length} bytes, its Content-Length says {self.remaining}")
        if not self.persistent:
            text += "Connection: close\r\n"
        elif not self._is_http11:
            text += "Connection: keep-alive\r\n"
        text += "\r\n" if self._has_date else self._date_line
        try:
            return text.encode("latin-1")
        except UnicodeEncodeError as error:
            raise AppError(f"status or headers are not latin-1: {error}") from error

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


def build_error_page(status: str, detail: str, request_id: str) -> bytes:
    """A small page for what the gateway itself answers; all three are shown."""
    reference = f"<p><small>Request {escape(request_id)}</small></p>" if request_id else ""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" '
        f'content="light dark"><title>{escape(status)}</title><style>body{{font:1rem/1.5 system-ui,'
        "sans-serif;max-width:34rem;margin:15vh auto;padding:0 1rem}small{opacity:.6}</style>"
        f"<h1>{escape(status)}</h1><p>{escape(detail)}</p>{reference}</html>\n"
    ).encode()


def _has_one_piece(result: Any) -> bool:
    # PEP 3333 "Handling the Content-Length Header"
    with suppress(TypeError):
        return len(result) == 1
    return False


def _build_status_line(status: str) -> str:
    if not isinstance(status, str) or not _STATUS.fullmatch(status):
        raise AppError(f"status is not a code, a space and a reason: {status!r:.80}")
    line = f"HTTP/1.1 {status if ' ' in status else status + ' '}\r\n"
    if len(_status_lines) < CACHE_ENTRIES:
        _status_lines[status] = line
    return line


def _learn_field(name: str) -> int:
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise AppError(f"header name is no token: {name!r:.80}")
    lower = name.lower()
    if lower in _HOP_BY_HOP:
        raise AppError(f"{name} is the server's to send, not an app's (PEP 3333)")
    kind = {"content-length": _LENGTH, "date": _DATE}.get(lower, _ORDINARY)
    if len(_field_kinds) < CACHE_ENTRIES:
        _field_kinds[name] = kind
    return kind
