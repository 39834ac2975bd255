"""Bytes to request head, and the framing decision (RFC 9112 §2 to §6).

Refuses to know sockets and WSGI. llhttp checks the grammar of the fields; what it lets pass and a
hop beside us might read otherwise is refused here.
"""

import re
from contextlib import suppress
from typing import Any, Optional, TypeVar

from httptools import HttpParserError, HttpParserUpgrade
from httptools import HttpRequestParser as FieldParser

from gateway.errors import (
    ExpectationFailed,
    HeaderFieldsTooLarge,
    MalformedRequest,
    NotImplementedMethod,
    RequestError,
    UnsupportedTransferCoding,
    UriTooLong,
    VersionNotSupported,
)
from gateway.http.head import CHUNKED, KnownHead, RequestHead
from gateway.http.names import (
    CACHE_ENTRIES,
    DROPPED,
    METHODS,
    REQUEST_KEY,
    CgiNames,
    parse_host,
)
from gateway.limits import Limits

_DIGITS = re.compile(r"[0-9]{1,18}", re.ASCII)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)
_VISIBLE = re.compile(r"[!-~]+", re.ASCII)
_VERSION = re.compile(r"HTTP/[0-9]\.[0-9]", re.ASCII)
_IS_HTTP11 = {"HTTP/1.1": True, "HTTP/1.0": False}
_ABSOLUTE_FORM = re.compile(r"(https?)://([^/?#]*)([^#]*)", re.ASCII | re.IGNORECASE)
# one hop would read the first, another the last; RFC 9112 §3.2 demands 400 for Host
_SINGLETONS = frozenset({"HTTP_HOST", "CONTENT_LENGTH", "CONTENT_TYPE"})
# method, target, path, query, whether it is HTTP/1.1
RequestLine = tuple[str, str, str, str, bool]
_LONGEST_KNOWN_LINE = 256
# fields, host, and whether a Connection field keeps the connection (None where there is none)
KnownFields = tuple[dict[str, str], str, Optional[bool]]
_Kept = TypeVar("_Kept")
_LONGEST_KNOWN_FIELDS = 1024
_MAX_KNOWN = 256
LONGEST_KNOWN_HEAD = _LONGEST_KNOWN_LINE + _LONGEST_KNOWN_FIELDS
_KEEP_ALIVE = {None: None, "keep-alive": True, "close": False}
# looked at each time; proofs of who someone is; what a trusted proxy says of one request
_NEVER_KNOWN = frozenset(
    {
        *("CONTENT_LENGTH", "HTTP_EXPECT", "HTTP_TRANSFER_ENCODING"),
        *("HTTP_AUTHORIZATION", "HTTP_COOKIE"),
        *("HTTP_FORWARDED", "HTTP_X_FORWARDED_FOR", "HTTP_X_REQUEST_ID", REQUEST_KEY),
    }
)
# without these a request has no content and its version decides whether it is kept alive
_DECIDING_FIELDS = frozenset(
    {"CONTENT_LENGTH", "HTTP_CONNECTION", "HTTP_EXPECT", "HTTP_TRANSFER_ENCODING"}
)

# RFC 9112 §5: blanks around a value are not part of it; llhttp refuses these
_BLANK_AFTER_CHUNKED = re.compile(
    rb"(\r\ntransfer-encoding:[ \t]*chunked)[ \t]+(?=\r\n)", re.IGNORECASE
)


class HeadParser:
    """Parses whole request heads, one after the other, for all connections of a worker.

    ``trusts_peer``: forwarding fields are kept. ``known_heads``: what came lately;
    ``known_told_heads``, from trusted peers. ``takes_statements``: they are front workers."""

    def __init__(self, limits: Limits, *, takes_statements: bool = False) -> None:
        self._max_line = limits.max_request_line_bytes
        self._max_head = limits.max_head_bytes
        self._max_lines = limits.max_fields + 2  # request line and the empty one
        self._known_lines: dict[bytes, RequestLine] = {}
        # by whether the peer is trusted
        self._known_fields: tuple[dict[bytes, KnownFields], ...] = {}, {}
        self.known_heads: dict[bytes, KnownHead] = {}
        self.known_told_heads: dict[bytes, KnownHead] = {}
        # a line and fields that were met apart are within the limit together
        half = limits.max_head_bytes // 2
        self._longest_line = min(_LONGEST_KNOWN_LINE, half)
        self._longest_fields = min(_LONGEST_KNOWN_FIELDS, half)
        self._raw_fields: dict[bytes, bytes] = {}
        self._trusted_names = CgiNames(trusts_peer=True, takes_statements=takes_statements)
        self._untrusted_names = CgiNames(trusts_peer=False)
        self._renew()

    def _renew(self) -> None:
        """Have llhttp expect a head: it expects content, or nothing, after some requests."""
        # a C method as callback: llhttp fills the dict without a Python frame for each field
        self._llhttp = FieldParser(_Collector(self._raw_fields.setdefault))
        # the next head is another connection's
        self._llhttp.set_dangerous_leniencies(lenient_keep_alive=True)

    def parse(self, raw: bytes, trusts_peer: bool) -> RequestHead:
        """The head in ``raw``, which ends with the first empty line.

        Raises a RequestError of the kind and status that the fault asks for.
        """
        known_heads = self.known_told_heads if trusts_peer else self.known_heads
        if (head := known_heads.get(raw)) is not None:
            return head
        line_end = raw.find(b"\r\n")
        line = raw[:line_end]
        known = self._known_lines.get(line)
        if known is not None:
            known_fields = self._known_fields[trusts_peer].get(raw[line_end:])
            if known_fields is not None:
                joined = _join(line, known, known_fields)
                return _keep(known_heads, raw, joined)
        return self._parse_anew(raw, line, trusts_peer)

    def _parse_anew(self, raw: bytes, line: bytes, trusts_peer: bool) -> RequestHead:
        known = self._known_lines.get(line) or self._read_request_line(line)
        if len(raw) > self._max_head:
            raise HeaderFieldsTooLarge(f"more than {self._max_head} bytes of head")
        line_count = raw.count(b"\n")
        if line_count > self._max_lines:
            raise HeaderFieldsTooLarge(
                f"{line_count - 2} fields; at most {self._max_lines - 2} are read"
            )
        head = RequestHead()
        head.line = line
        head.method, head.target, head.path, head.query, head.is_http11 = known
        head.takes_simple_head = head.is_http11 and head.method != "HEAD"
        try:
            fields = head.fields = self._read_fields(raw, line_count - 2, trusts_peer)
            host = fields.get("HTTP_HOST")
            if host is not None:
                head.host = parse_host(host)
            elif head.is_http11:
                raise MalformedRequest("no Host field")  # RFC 9112 §3.2
            if not head.path:
                self._decide_target(head)
            if _DECIDING_FIELDS.isdisjoint(fields):
                head.persistent = head.is_http11
            else:
                self._decide_framing(head)
            if known[2]:  # another form of target has changed the host
                self._remember(head, line, known, raw, trusts_peer)
        except RequestError:
            self._renew()
            raise
        return head

    def _remember(
        self, head: RequestHead, line: bytes, known: RequestLine, raw: bytes, trusts_peer: bool
    ) -> None:
        """Both parts of a head that was accepted as a whole, each within a bound."""
        if len(line) <= self._longest_line and line not in self._known_lines:
            _keep(self._known_lines, line, known, CACHE_ENTRIES)
        block, fields = raw[len(line) :], head.fields
        if not head.host or len(block) > self._longest_fields:
            return
        connection = fields.get("HTTP_CONNECTION")
        if _NEVER_KNOWN.isdisjoint(fields) and connection in _KEEP_ALIVE:
            known_fields = self._known_fields[trusts_peer]
            _keep(known_fields, block, (fields, head.host, _KEEP_ALIVE[connection]))

    def _read_request_line(self, line: bytes) -> RequestLine:
        if len(line) > self._max_line:
            raise UriTooLong(
                f"request line of {len(line)} bytes; at most {self._max_line} are read"
            )
        # RFC 9112 §3: exactly one space between three parts; the lenient reading is refused
        parts = line.decode("latin-1").split(" ")
        if len(parts) != 3:
            raise MalformedRequest("request line is not: method SP target SP version")
        method, target, version = parts
        if version not in _IS_HTTP11:
            if _VERSION.fullmatch(version):
                raise VersionNotSupported(f"{version} is not spoken here")
            raise MalformedRequest("request line does not end with an HTTP version")
        if method not in METHODS:
            if _TOKEN.fullmatch(method):
                raise NotImplementedMethod(f"{method[:32]} is not a method known here")
            raise MalformedRequest("request line does not begin with a method")
        if not _VISIBLE.fullmatch(target):
            # among them a bare LF, at which llhttp would end the line
            raise MalformedRequest("request target has characters that are not part of a URL")
        path = query = ""
        if target[:1] == "/" and "#" not in target:
            path, _, query = target.partition("?")
        return method, target, path, query, _IS_HTTP11[version]

    def _read_fields(self, raw: bytes, count: int, trusts_peer: bool) -> dict[str, str]:
        raw_fields = self._raw_fields
        raw_fields.clear()
        try:
            self._llhttp.feed_data(raw)
        except HttpParserUpgrade:
            self._renew()
        except HttpParserError as error:
            trimmed = _BLANK_AFTER_CHUNKED.sub(rb"\1", raw)
            if trimmed == raw:
                raise _refusal(error) from error
            self._renew()
            return self._read_fields(trimmed, count, trusts_peer)
        names = self._trusted_names if trusts_peer else self._untrusted_names
        if len(raw_fields) == count:
            # RFC 9112 §5: optional white space around the value is not part of it
            fields = {
                names[name]: value.decode("latin-1").rstrip(" \t")
                for name, value in raw_fields.items()
            }
            if len(fields) == count:
                fields.pop(DROPPED, None)
                return fields
        return _read_awkward_fields(raw, names)

    def _decide_target(self, head: RequestHead) -> None:
        """RFC 9112 §3.2: the three forms beside the usual one."""
        target = head.target
        if target == "*" and head.method == "OPTIONS":
            head.path = "*"
            return
        absolute = _ABSOLUTE_FORM.fullmatch(target)
        if absolute is None:
            raise MalformedRequest("request target is neither a path, a URL without fragment nor *")
        # RFC 9112 §3.2.2: the host of an absolute target takes the place of the Host field
        head.fields["HTTP_HOST"] = absolute[2]
        head.host = parse_host(absolute[2])
        path, _, head.query = absolute[3].partition("?")
        head.path = path or "/"

    def _decide_framing(self, head: RequestHead) -> None:
        """RFC 9112 §6.3 and §9.3; llhttp has refused both fields together and repeated lengths."""
        fields = head.fields
        if "HTTP_TRANSFER_ENCODING" in fields:
            self._decide_coding(head, fields["HTTP_TRANSFER_ENCODING"])
        elif "CONTENT_LENGTH" in fields:
            length = fields["CONTENT_LENGTH"]
            if not _DIGITS.fullmatch(length):
                raise MalformedRequest("Content-Length is no number of bytes")
            head.content_length = int(length)
        connection = fields.get("HTTP_CONNECTION")
        if connection is None:
            head.persistent = head.is_http11
        elif connection == "keep-alive":
            head.persistent = True
        else:
            options = {option.strip(" \t") for option in connection.lower().split(",")}
            head.persistent = "close" not in options and (head.is_http11 or "keep-alive" in options)
        if head.content_length:
            self._renew()
        expect = fields.get("HTTP_EXPECT")
        if expect is not None:
            if expect.lower() != "100-continue":
                raise ExpectationFailed("only 100-continue can be expected")
            # RFC 9110 §10.1.1: ignored from an HTTP/1.0 client, which could not read a 100
            head.expects_continue = head.is_http11 and head.content_length != 0

    def _decide_coding(self, head: RequestHead, coding: str) -> None:
        if not head.is_http11:
            # RFC 9112 §6.1: its framing is faulty, whatever it says
            raise MalformedRequest("Transfer-Encoding in an HTTP/1.0 request")
        if "CONTENT_LENGTH" in head.fields:
            raise MalformedRequest("both Content-Length and Transfer-Encoding")
        if coding.lower() != "chunked":
            raise UnsupportedTransferCoding("chunked is the only transfer coding known here")
        head.content_length = CHUNKED


def _keep(known: dict[bytes, _Kept], raw: bytes, value: _Kept, most: int = _MAX_KNOWN) -> _Kept:
    if len(known) >= most:
        known.clear()
    known[raw] = value
    return value


def _join(line: bytes, known: RequestLine, fields: KnownFields) -> KnownHead:
    """The head of two parts that were met before."""
    head = KnownHead()
    head.line, (head.method, head.target, head.path, head.query, head.is_http11) = line, known
    head.fields, head.host, keep_alive = fields
    head.persistent = head.is_http11 if keep_alive is None else keep_alive
    head.takes_simple_head = head.is_http11 and head.method != "HEAD"
    # attributes of the class take longer to find
    head.content_length, head.prepared = 0, None
    return head


class _Collector:
    def __init__(self, on_header: Any) -> None:
        self.on_header = on_header


def _read_awkward_fields(raw: bytes, names: CgiNames) -> dict[str, str]:
    """The fields of a head that llhttp has accepted, where some are repeated or dropped."""
    pairs: list[tuple[bytes, bytes]] = []
    parser = FieldParser(_Collector(lambda name, value: pairs.append((name, value))))
    with suppress(HttpParserUpgrade):
        parser.feed_data(raw)
    fields: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        name = names[raw_name]
        value = raw_value.decode("latin-1").rstrip(" \t")
        fields[name] = _joined(name, fields[name], value) if name in fields else value
    fields.pop(DROPPED, None)
    return fields


def _joined(name: str, first: str, second: str) -> str:
    """RFC 9110 §5.3: repeated fields are one list; RFC 6265 §5.4 gives cookies their own joint."""
    if name in _SINGLETONS:
        raise MalformedRequest(
            f"{name.removeprefix('HTTP_').title().replace('_', '-')} is repeated"
        )
    return f"{first}{'; ' if name == 'HTTP_COOKIE' else ', '}{second}"


def _refusal(error: HttpParserError) -> RequestError:
    if "Transfer-Encoding" in str(error) and "Content-Length" not in str(error):
        return UnsupportedTransferCoding("chunked is the only transfer coding known here")
    return MalformedRequest(str(error))
