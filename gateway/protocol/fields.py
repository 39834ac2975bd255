"""Field lines: what is one, on both sides of the hop; those of requests to CGI names and values.

Strict, and each line that comes again is read once. Refuses to know what a field means. Source:
RFC 9112 §5 (field syntax), RFC 9110 §5.5 (values), RFC 3875 §4.1.18 (CGI names).
"""

from __future__ import annotations

import re

from gateway.errors import MalformedMessage
from gateway.protocol.memory import Memory

DROPPED = ""
# What front workers alone say, to pools alone; dropped whoever else says it, proxies too.
STATEMENT_KEY, REQUEST_KEY = "HTTP_GATEWAY_STATEMENT", "HTTP_GATEWAY_REQUEST"
MAX_NAMES = 1024
LONGEST_NAME = 64
# what thousands of clients send again and again; at most some 3 MiB
MAX_LINES = 4096
LONGEST_LINE = 256
# what only a trusted proxy may say (RFC 7239 §8.1); dropped when anyone else says it
_FORWARDED_NAME = re.compile(r"forwarded|x-forwarded-.*|x-real-ip|x-request-id", re.IGNORECASE)
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)
# RFC 9110 §5.5: a value has visible characters, obs-text, and blanks between them
INVALID_IN_VALUE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")
# one hop would read the first, another the last; RFC 9112 §3.2 demands 400 for Host
_SINGLETONS = frozenset({"HTTP_HOST", "CONTENT_LENGTH", "CONTENT_TYPE"})
# proofs of who someone is, and what differs in each request
_NEVER_KEPT = frozenset({
    "HTTP_AUTHORIZATION", "HTTP_COOKIE", "HTTP_PROXY_AUTHORIZATION", "HTTP_X_API_KEY",
    "HTTP_X_AUTH_TOKEN", "HTTP_X_CSRF_TOKEN", "HTTP_X_CSRFTOKEN", "HTTP_X_XSRF_TOKEN",
    "CONTENT_LENGTH", "HTTP_FORWARDED", "HTTP_IF_MODIFIED_SINCE", "HTTP_IF_NONE_MATCH",
    "HTTP_REFERER", "HTTP_SEC_WEBSOCKET_KEY", "HTTP_TRACEPARENT", "HTTP_X_FORWARDED_FOR",
    "HTTP_X_REAL_IP", "HTTP_X_REQUEST_ID", REQUEST_KEY,
})  # fmt: skip

Field = tuple[str, str]


class FieldNames(Memory[str]):
    """Field names as sent to CGI names, DROPPED for those that are not let in."""

    def __init__(self, *, trusts_peer: bool, takes_statements: bool = False) -> None:
        super().__init__(MAX_NAMES, LONGEST_NAME)
        self._trusts_peer = trusts_peer
        self._takes_statements = takes_statements

    def __missing__(self, raw_name: str) -> str:
        name = cgi_name(raw_name)
        if not self._trusts_peer and _FORWARDED_NAME.fullmatch(raw_name):
            name = DROPPED
        if name in (STATEMENT_KEY, REQUEST_KEY) and not self._takes_statements:
            name = DROPPED
        self.keep(raw_name, name)
        return name


class FieldLines(Memory[Field]):
    """Field lines, without their ends, to CGI name and value.

    ``trusts_peer``: forwarding fields are kept. ``takes_statements``: so are those of front
    workers."""

    def __init__(self, *, trusts_peer: bool, takes_statements: bool = False) -> None:
        super().__init__(MAX_LINES, LONGEST_LINE)
        self._names = FieldNames(trusts_peer=trusts_peer, takes_statements=takes_statements)

    def __missing__(self, line: str) -> Field:
        raw_name, colon, value = line.partition(":")
        name = self._names[raw_name]
        if not (colon and value.isascii() and value.isprintable()):
            check_value(line, colon, value)
        # RFC 9112 §5: optional white space around the value is not part of it
        field = name, value.strip(" \t")
        if name not in _NEVER_KEPT:
            self.keep(line, field)
        return field

    def read(self, lines: list[str]) -> dict[str, str]:
        """The fields of a head, which are ``lines``. Raises MalformedMessage."""
        # made of C throughout where each line is known
        fields = dict(map(self.__getitem__, lines))
        if len(fields) != len(lines):
            fields = self._read_repeated(lines)
        fields.pop(DROPPED, None)
        return fields

    def _read_repeated(self, lines: list[str]) -> dict[str, str]:
        """RFC 9110 §5.3: repeated fields are one list; RFC 6265 §5.4 gives cookies their own
        joint."""
        fields: dict[str, str] = {}
        for line in lines:
            name, value = self[line]
            if name not in fields:
                fields[name] = value
            elif name in _SINGLETONS:
                shown = name.replace("HTTP_", "").replace("_", "-").title()
                raise MalformedMessage(f"{shown} is repeated")
            else:
                joint = "; " if name == "HTTP_COOKIE" else ", "
                # RFC 9110 §5.5: a value has no blank at its end, where the last one is empty either
                fields[name] = f"{fields[name]}{joint}{value}".rstrip(" ")
        return fields


def cgi_name(raw_name: str) -> str:
    """RFC 3875 §4.1.18: ``User-Agent`` is ``HTTP_USER_AGENT``; DROPPED for a name that is not let
    in. Raises MalformedMessage for what is no name.

    A name with ``_`` could pass for the one with ``-`` and is dropped, as nginx does; ``Proxy``
    would become HTTP_PROXY, which HTTP clients obey (CVE-2016-5385).
    """
    check_name(raw_name)
    if "_" in raw_name:
        return DROPPED
    name = raw_name.upper().replace("-", "_")
    if name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        return name
    return DROPPED if name == "PROXY" else f"HTTP_{name}"


def check_field_line(line: str) -> None:
    """Raises MalformedMessage for what is no field line, without its end."""
    raw_name, colon, value = line.partition(":")
    check_name(raw_name)
    check_value(line, colon, value)


def check_name(raw_name: str) -> None:
    """Raises MalformedMessage for what is no field's name."""
    if TOKEN.fullmatch(raw_name):
        return
    what = "a character that names do not have"
    if raw_name[:1] in (" ", "\t"):
        what = "it begins with white space (folding is obsolete)"  # RFC 9112 §5.2
    elif raw_name.rstrip(" \t") != raw_name:
        what = "white space before the colon"  # RFC 9112 §5.1
    raise MalformedMessage(f"invalid field line: {what}", raw_name[:60])


def check_value(line: str, colon: str, value: str) -> None:
    """Raises MalformedMessage where a line has no ``colon``, or what is no ``value`` behind it."""
    if "\r" in line or "\n" in line:
        raise MalformedMessage("invalid field line: a bare CR or LF", line[:60])
    if not colon:
        raise MalformedMessage("invalid field line: no colon", line[:60])
    if INVALID_IN_VALUE.search(value):
        raise MalformedMessage("invalid field line: control characters in the value", line[:60])
