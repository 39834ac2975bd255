"""Field lines: checks for requests and upstream responses; those of requests to CGI variables.

Strict. A repeated line is parsed once. Source: RFC 9112 §5 (field syntax), RFC 9110 §5.5 (values),
RFC 3875 §4.1.18 (CGI names).
"""

from __future__ import annotations

import re

from gateway.errors import MalformedMessage
from gateway.protocol.framing import HOP_BY_HOP
from gateway.protocol.memory import Memory

DROPPED = ""
# the names of lines that front workers send to pools (``http.statement``); dropped as fields from
# all peers, trusted proxies included
_STATEMENT_KEYS = ("HTTP_GATEWAY_STATEMENT", "HTTP_GATEWAY_REQUEST")
# CGI names of the fields of one hop (RFC 9110 §7.6.1; RFC 7540 §3.2.1; Expect is answered here)
HOP_KEYS = frozenset((
    *(f"HTTP_{name.upper().replace('-', '_')}" for name in HOP_BY_HOP),
    "HTTP_HTTP2_SETTINGS", "HTTP_EXPECT",
))  # fmt: skip
MAX_NAMES = 1024
LONGEST_NAME = 64
# enough for the usual lines of thousands of clients; some 3 MiB at most
MAX_LINES = 4096
LONGEST_LINE = 256
# for trusted proxies only (RFC 7239 §8.1); dropped from other peers
_FORWARDED_NAME = re.compile(r"x-forwarded-.*|x-real-ip|x-request-id", re.IGNORECASE)
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)
# RFC 9110 §5.5: values consist of visible characters, obs-text, spaces and tabs
INVALID_IN_VALUE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")
# one hop could read the first, another the last; RFC 9112 §3.2 requires 400 for Host
_SINGLETONS = frozenset({"HTTP_HOST", "CONTENT_LENGTH", "CONTENT_TYPE"})
# credentials, and what differs in each request
_NEVER_KEPT = frozenset({
    "HTTP_AUTHORIZATION", "HTTP_COOKIE", "HTTP_PROXY_AUTHORIZATION", "HTTP_X_API_KEY",
    "HTTP_X_AUTH_TOKEN", "HTTP_X_CSRF_TOKEN", "HTTP_X_CSRFTOKEN", "HTTP_X_XSRF_TOKEN",
    "CONTENT_LENGTH", "HTTP_IF_MODIFIED_SINCE", "HTTP_IF_NONE_MATCH",
    "HTTP_REFERER", "HTTP_SEC_WEBSOCKET_KEY", "HTTP_TRACEPARENT", "HTTP_X_FORWARDED_FOR",
    "HTTP_X_REAL_IP", "HTTP_X_REQUEST_ID",
})  # fmt: skip

Field = tuple[str, str]


class FieldNames(Memory[str]):
    """Field names as sent to CGI names, DROPPED for fields that are dropped."""

    def __init__(self, *, trusts_peer: bool) -> None:
        super().__init__(MAX_NAMES, LONGEST_NAME)
        self._trusts_peer = trusts_peer

    def __missing__(self, raw_name: str) -> str:
        name = cgi_name(raw_name)
        if not self._trusts_peer and _FORWARDED_NAME.fullmatch(raw_name):
            name = DROPPED
        if name in _STATEMENT_KEYS:
            name = DROPPED
        self.keep(raw_name, name)
        return name


class FieldLines(Memory[Field]):
    """Field lines, without CRLF, to CGI name and value.

    ``trusts_peer`` keeps forwarding fields."""

    def __init__(self, *, trusts_peer: bool) -> None:
        super().__init__(MAX_LINES, LONGEST_LINE)
        self._names = FieldNames(trusts_peer=trusts_peer)

    def __missing__(self, line: str) -> Field:
        raw_name, colon, value = line.partition(":")
        name = self._names[raw_name]
        if not (colon and value.isascii() and value.isprintable()):
            check_value(line, colon, value)
        # RFC 9112 §5: optional whitespace around the value is not part of it
        field = name, value.strip(" \t")
        if name not in _NEVER_KEPT:
            self.keep(line, field)
        return field

    def read(self, lines: list[str]) -> dict[str, str]:
        """The fields of a head with these ``lines``. Raises MalformedMessage."""
        # C code alone if all lines are known
        fields = dict(map(self.__getitem__, lines))
        if len(fields) != len(lines):
            fields = self._read_repeated(lines)
        fields.pop(DROPPED, None)
        return fields

    def _read_repeated(self, lines: list[str]) -> dict[str, str]:
        """RFC 9110 §5.3: repeated fields form one list; RFC 6265 §5.4: cookies have another
        separator."""
        fields: dict[str, str] = {}
        for line in lines:
            name, value = self[line]
            if name not in fields:
                fields[name] = value
            elif name in _SINGLETONS:
                shown = name.replace("HTTP_", "").replace("_", "-").title()
                raise MalformedMessage(f"{shown} is repeated")
            else:
                separator = "; " if name == "HTTP_COOKIE" else ", "
                # RFC 9110 §5.5: no trailing space, even if the last value is empty
                fields[name] = f"{fields[name]}{separator}{value}".rstrip(" ")
        return fields


def is_field(key: str) -> bool:
    """Whether a key of an environ is the CGI name of a field."""
    return key.startswith("HTTP_") or key in ("CONTENT_TYPE", "CONTENT_LENGTH")


def cgi_name(raw_name: str) -> str:
    """RFC 3875 §4.1.18: ``User-Agent`` is ``HTTP_USER_AGENT``; DROPPED for fields that are dropped.
    Raises MalformedMessage for an invalid name.

    A name with ``_`` is dropped, as by nginx, since its variable is that of the name with ``-``;
    ``Proxy`` would become HTTP_PROXY, which HTTP clients obey (CVE-2016-5385). ``Forwarded`` (RFC
    7239) is not read, and most proxies pass it on as their client sent it.
    """
    check_name(raw_name)
    if "_" in raw_name:
        return DROPPED
    name = raw_name.upper().replace("-", "_")
    if name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        return name
    return DROPPED if name in ("FORWARDED", "PROXY") else f"HTTP_{name}"


def check_field_line(line: str) -> None:
    """Raises MalformedMessage for an invalid field line (without CRLF)."""
    raw_name, colon, value = line.partition(":")
    check_name(raw_name)
    check_value(line, colon, value)


def check_name(raw_name: str) -> None:
    """Raises MalformedMessage for an invalid field name."""
    if TOKEN.fullmatch(raw_name):
        return
    what = "a character that names do not have"
    if raw_name[:1] in (" ", "\t"):
        what = "it begins with white space (folding is obsolete)"  # RFC 9112 §5.2
    elif raw_name.rstrip(" \t") != raw_name:
        what = "white space before the colon"  # RFC 9112 §5.1
    raise MalformedMessage(f"invalid field line: {what}", raw_name[:60])


def check_value(line: str, colon: str, value: str) -> None:
    """Raises MalformedMessage if a line has no ``colon``, or an invalid ``value`` after it."""
    if "\r" in line or "\n" in line:
        raise MalformedMessage("invalid field line: a bare CR or LF", line[:60])
    if not colon:
        raise MalformedMessage("invalid field line: no colon", line[:60])
    if INVALID_IN_VALUE.search(value):
        raise MalformedMessage("invalid field line: control characters in the value", line[:60])
