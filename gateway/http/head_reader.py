"""Bytes to the next head, to the error that refuses it, or to "more must come". Without I/O.

Source: RFC 9112 §2.2 (empty lines, bare LF).
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.errors import HeaderFieldsTooLarge, MalformedRequest, UriTooLong
from gateway.limits import Limits
from gateway.logs import hide_unprintable
from gateway.protocol.request import RequestHead


class HeadReader:
    """Stateless: one for all connections of a worker. ``parse`` gets a complete head, and whether
    its peer is trusted; it raises a RequestError."""

    def __init__(self, limits: Limits, parse: Callable[[bytes, bool], RequestHead]) -> None:
        self._limits = limits
        self._parse = parse

    def read(self, data: bytes, trusts_peer: bool) -> tuple[RequestHead | None, bytes]:
        """The head that ``data`` begins with, and the bytes after it; None, and the bytes to keep,
        if the head is incomplete. Raises a RequestError, also for an incomplete head that can only
        be refused."""
        if data and data[0] == 13:  # CR
            data = _without_empty_lines(data)
        end = data.find(b"\r\n\r\n") + 4
        if end >= 4:
            return self._parse(data[:end], trusts_peer), data[end:]
        limits = self._limits
        line_length = data.find(b"\n") - 1 if b"\n" in data else len(data) - 1
        if line_length > limits.max_request_line_bytes:
            raise UriTooLong(f"a request line of more than {limits.max_request_line_bytes} bytes")
        if len(data) > limits.max_head_bytes:
            raise HeaderFieldsTooLarge(f"more than {limits.max_head_bytes} bytes of head")
        if data.count(b"\n") != data.count(b"\r\n"):
            raise MalformedRequest("a line ends without CR")
        if data and not 0x20 < data[0] < 0x7F and data[:1] != b"\r":
            raise MalformedRequest("this is not HTTP/1.1 (TLS on a plain port?)")
        return None, data


def _without_empty_lines(data: bytes) -> bytes:
    # RFC 9112 §2.2: at least one before a request is ignored; some clients send one after content
    start = 0
    while data.startswith(b"\r\n", start):
        start += 2
    return data[start:]


def build_unreadable_head(data: bytes) -> RequestHead:
    """Represents a refused head in its response and access record. It has method and target if
    ``data`` begins with a request line."""
    head = RequestHead()
    words = _without_empty_lines(data).partition(b"\r\n")[0].decode("latin-1").split(" ")
    is_line = len(words) == 3 and words[2].startswith("HTTP/")
    head.method, head.target = map(hide_unprintable, words[:2]) if is_line else ("", "")
    head.path = head.query = ""
    head.fields = {}
    head.is_http11 = True
    head.persistent = False
    return head
