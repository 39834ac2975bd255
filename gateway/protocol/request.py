"""Parses request heads and decides the framing of the content (RFC 9112 §2 to §6).

Strict: what another hop might read differently is refused. Knows neither sockets nor WSGI.
"""

from __future__ import annotations

import re

from gateway.errors import (
    ExpectationFailed,
    HeaderFieldsTooLarge,
    MalformedMessage,
    MalformedRequest,
    NotImplementedMethod,
    UnknownCoding,
    UnsupportedTransferCoding,
    UriTooLong,
    VersionNotSupported,
)
from gateway.limits import Limits
from gateway.protocol.fields import TOKEN, FieldLines
from gateway.protocol.framing import is_persistent, read_length, split_list
from gateway.protocol.names import METHODS, parse_host

_VERSION = re.compile(r"HTTP/[0-9]\.[0-9]", re.ASCII)
_IS_HTTP11 = {"HTTP/1.1": True, "HTTP/1.0": False}
_ABSOLUTE_FORM = re.compile(r"(https?)://([^/?#]*)([^#]*)", re.ASCII | re.IGNORECASE)


class RequestHead:
    """A valid request line and fields.

    ``line`` is the request line as received; ``target`` is its request target, ``path`` (still
    encoded) and ``query`` the parts of that.
    ``fields`` maps CGI names (RFC 3875 §4.1.18: ``HTTP_ACCEPT``, ``CONTENT_TYPE``) to latin-1
    strings. ``host`` is lower-case without port, "" if there is none (HTTP/1.0).
    ``content_length`` is in bytes, or CHUNKED. ``takes_simple_head``: the framing of the response
    is the usual one, since the request is HTTP/1.1 and not HEAD. ``mount`` names the mount that a
    front worker has chosen, "" where this worker has to choose.
    """

    content_length: int = 0
    line: bytes = b""
    expects_continue: bool = False
    fields: dict[str, str]
    host: str = ""
    is_http11: bool
    method: str
    mount: str = ""
    path: str
    persistent: bool
    query: str
    takes_simple_head: bool = False
    target: str


class HeadParser:
    """Parses complete request heads, for all connections of a worker."""

    def __init__(self, limits: Limits) -> None:
        self._max_line = limits.max_request_line_bytes
        self._max_head = limits.max_head_bytes
        self._max_fields = limits.max_fields
        # by whether the peer is trusted
        self.field_lines = FieldLines(trusts_peer=False), FieldLines(trusts_peer=True)

    def parse(self, raw: bytes, trusts_peer: bool) -> RequestHead:
        """The head in ``raw``, which ends with its empty line. Forwarding fields are dropped unless
        the peer is trusted.

        Raises a RequestError with the status of the response.
        """
        lines = raw.removesuffix(b"\r\n\r\n").decode("latin-1").split("\r\n")
        line = lines.pop(0)
        head = self._read_request_line(line)
        head.line = raw[: len(line)]
        if len(raw) > self._max_head:
            raise HeaderFieldsTooLarge(f"more than {self._max_head} bytes of head")
        if len(lines) > self._max_fields:
            raise HeaderFieldsTooLarge(f"{len(lines)} fields; at most {self._max_fields} are read")
        try:
            fields = head.fields = self.field_lines[trusts_peer].read(lines)
            if "CONTENT_LENGTH" in fields or "HTTP_TRANSFER_ENCODING" in fields:
                length, coding = fields.get("CONTENT_LENGTH"), fields.get("HTTP_TRANSFER_ENCODING")
                head.content_length = read_length(length, coding, is_http11=head.is_http11)
        except UnknownCoding as error:
            raise UnsupportedTransferCoding(error.args[0]) from None
        except MalformedMessage as error:
            raise MalformedRequest(error.args[0]) from None
        host = fields.get("HTTP_HOST")
        if host is not None:
            head.host = parse_host(host)
        elif head.is_http11:
            raise MalformedRequest("no Host field")  # RFC 9112 §3.2
        if not head.path:
            decide_target(head)
        connection = fields.get("HTTP_CONNECTION")
        if connection is not None and connection != "keep-alive":
            head.persistent = is_persistent(split_list(connection), is_http11=head.is_http11)
        elif connection is not None:
            head.persistent = True
        if "HTTP_EXPECT" in fields:
            _decide_expectation(head)
        return head

    def _read_request_line(self, line: str) -> RequestHead:
        if len(line) > self._max_line:
            raise UriTooLong(
                f"request line of {len(line)} bytes; at most {self._max_line} are read"
            )
        # RFC 9112 §3: three parts with single spaces; the lenient form is refused
        parts = line.split(" ")
        if len(parts) != 3:
            raise MalformedRequest("request line is not: method SP target SP version")
        method, target, version = parts
        if version not in _IS_HTTP11:
            if _VERSION.fullmatch(version):
                raise VersionNotSupported(f"{version} is not spoken here")
            raise MalformedRequest("request line does not end with an HTTP version")
        if method not in METHODS:
            if TOKEN.fullmatch(method):
                raise NotImplementedMethod(f"{method[:32]} is not a method known here")
            raise MalformedRequest("request line does not begin with a method")
        if not (target and target.isascii() and target.isprintable()):
            raise MalformedRequest("request target has characters that are not part of a URL")
        head = RequestHead()
        head.method = method
        head.target = target
        head.persistent = head.is_http11 = _IS_HTTP11[version]
        head.takes_simple_head = head.is_http11 and method != "HEAD"
        if target[0] == "/" and "#" not in target:
            head.path, _, head.query = target.partition("?")
        else:
            head.path = head.query = ""
        return head


def decide_target(head: RequestHead) -> None:
    """RFC 9112 §3.2: forms other than the origin-form."""
    target = head.target
    if target == "*" and head.method == "OPTIONS":
        head.path = "*"
        return
    absolute = _ABSOLUTE_FORM.fullmatch(target)
    if absolute is None:
        raise MalformedRequest("request target is neither a path, a URL without fragment nor *")
    # RFC 9112 §3.2.2: the host of an absolute-form target replaces the Host field
    head.fields["HTTP_HOST"] = absolute[2]
    head.host = parse_host(absolute[2])
    path, _, head.query = absolute[3].partition("?")
    head.path = path or "/"


def _decide_expectation(head: RequestHead) -> None:
    """RFC 9110 §10.1.1."""
    if head.fields["HTTP_EXPECT"].lower() != "100-continue":
        raise ExpectationFailed("only 100-continue can be expected")
    # ignored from HTTP/1.0 clients, which do not expect a 100
    head.expects_continue = head.is_http11 and head.content_length != 0
