"""Parses the head of an upstream response: the fields to forward, and the length of the content.

As strict as the parser of requests: what two hops could read differently is refused. Knows neither
sockets nor WSGI. Source: RFC 9112 §4 to §6, RFC 9110 §7.6.1 and §15.
"""

from __future__ import annotations

import re

from gateway.errors import MalformedMessage
from gateway.protocol.fields import LONGEST_LINE, MAX_LINES, Field, check_name, check_value
from gateway.protocol.framing import HOP_BY_HOP, UNTIL_CLOSE, is_persistent, read_length, split_list
from gateway.protocol.memory import Memory

_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-9][0-9]{2}(?: [\t\x20-\x7e\x80-\xff]*)?)", re.ASCII)
# RFC 9110 §11.7.3 (for the next hop only) and §18.4 (reserved for the connection option)
_NOT_PASSED_ON = HOP_BY_HOP | {"proxy-authentication-info", "close"}
# credentials, and what differs in each response
_NEVER_KEPT = frozenset(("set-cookie", "content-length", "etag", "last-modified", "x-request-id"))


class InvalidResponseError(Exception):
    """The response is not HTTP, or is ambiguous."""


class ResponseHead:
    """``status`` is code and reason, ``fields`` those to forward, ``length`` that of the content in
    bytes, or CHUNKED or UNTIL_CLOSE. ``persistent`` says whether the connection may be reused,
    ``upgrade`` is the protocol of a 101."""

    __slots__ = ("code", "fields", "length", "persistent", "status", "upgrade")

    code: int
    fields: list[Field]
    length: int
    persistent: bool
    status: str
    upgrade: str


class _StatusLines(Memory[tuple[str, int, bool]]):
    """Status lines to status, code, and whether it is HTTP/1.1."""

    def __missing__(self, line: str) -> tuple[str, int, bool]:
        found = _STATUS_LINE.fullmatch(line)
        if found is None:
            raise MalformedMessage("not a status line", line[:60])
        known = found[2], int(found[2][:3]), found[1] == "1"
        self.keep(line, known)
        return known


class _Names(Memory[tuple[str, str, bool]]):
    """Field names as sent to names as forwarded, names in lower case if they have a meaning here,
    and whether their lines may be remembered."""

    def __missing__(self, raw_name: str) -> tuple[str, str, bool]:
        # RFC 9112 §5.1: a proxy removes blanks before the colon of a response
        name = raw_name.rstrip(" \t")
        check_name(name)
        lower = name.lower()
        meaning = lower if lower in _NOT_PASSED_ON or lower == "content-length" else ""
        known = name, meaning, lower not in _NEVER_KEPT
        self.keep(raw_name, known)
        return known


class ResponseLines(Memory[tuple[Field, str]]):
    """Field lines to fields, and their names in lower case if they have a meaning here."""

    def __missing__(self, line: str) -> tuple[Field, str]:
        raw_name, colon, value = line.partition(":")
        name, meaning, may_keep = _names[raw_name]
        if not (colon and value.isascii() and value.isprintable()):
            check_value(line, colon, value)
        known = (name, value.strip(" \t")), meaning
        if may_keep:
            self.keep(line, known)
        return known


_names = _Names(MAX_LINES, LONGEST_LINE)
_status_lines = _StatusLines(MAX_LINES, LONGEST_LINE)
_field_lines = ResponseLines(MAX_LINES, LONGEST_LINE)


def parse_response_head(raw: bytes, method: str) -> ResponseHead:
    """The head of the response to a request with ``method``; ``raw`` ends with its empty line.

    Raises InvalidResponseError.
    """
    first, *lines = raw[:-4].decode("latin-1").split("\r\n")
    answer = ResponseHead()
    answer.upgrade = ""
    answer.fields = fields = []
    special: dict[str, str] = {}
    try:
        answer.status, answer.code, is_http11 = _status_lines[first]
        for field, name in map(_field_lines.__getitem__, lines):
            if name:
                value = field[1]
                special[name] = f"{special[name]}, {value}" if name in special else value
            if not name or name == "content-length":
                fields.append(field)
        _decide(answer, special, method, is_http11)
    except MalformedMessage as error:
        raise InvalidResponseError(str(error)) from None
    return answer


def _decide(answer: ResponseHead, special: dict[str, str], method: str, is_http11: bool) -> None:
    """RFC 9112 §6.3 and §9.3."""
    length, coding = special.get("content-length"), special.get("transfer-encoding")
    answer.length = read_length(length, coding, is_http11=is_http11)
    answer.persistent = is_http11
    connection = special.get("connection")
    if connection is not None:
        options = split_list(connection)
        answer.persistent = is_persistent(options, is_http11=is_http11)
        if not options <= _NOT_PASSED_ON:
            answer.fields = [field for field in answer.fields if field[0].lower() not in options]
    if answer.code < 200:
        answer.length = 0
        answer.upgrade = special.get("upgrade", "")
        answer.persistent = False  # what follows on a tunnel's connection is not HTTP
    elif method == "HEAD":
        answer.length = 0
        # some servers send content nevertheless, which could look like the next response
        answer.persistent = False
    elif answer.code in (204, 304):
        answer.length = 0
    elif answer.length == UNTIL_CLOSE:
        answer.persistent = False
