"""Message framing and persistence of connections, for requests and responses.

Source: RFC 9112 §6.3 and §9.3, RFC 9110 §7.6.1.
"""

from __future__ import annotations

import re

from gateway.errors import MalformedMessage, UnknownCoding

CHUNKED = -1  # lengths that the head does not give
UNTIL_CLOSE = -2
# RFC 9110 §7.6.1, RFC 2616 §13.5.1: for a single connection
HOP_BY_HOP = frozenset((
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
    "te", "trailer", "transfer-encoding", "upgrade",
))  # fmt: skip
DIGITS = re.compile(r"[0-9]{1,18}", re.ASCII)


def read_length(length: str | None, coding: str | None, *, is_http11: bool) -> int:
    """The length of the content in bytes, or CHUNKED; UNTIL_CLOSE without either field. ``length``
    and ``coding`` are Content-Length and Transfer-Encoding, repeated ones joined by commas. Raises
    MalformedMessage.
    """
    if coding is None:
        if length is None:
            return UNTIL_CLOSE
        if not DIGITS.fullmatch(length):
            raise MalformedMessage("Content-Length is not a number of bytes", length[:60])
        return int(length)
    if not is_http11:
        # RFC 9112 §6.1: the framing is faulty, whatever the value
        raise MalformedMessage("Transfer-Encoding in HTTP/1.0")
    if length is not None:
        raise MalformedMessage("both Content-Length and Transfer-Encoding")
    if coding.lower() != "chunked":
        raise UnknownCoding("Transfer-Encoding: transfer coding other than chunked", coding[:60])
    return CHUNKED


def split_list(value: str) -> set[str]:
    """The members of a list, such as Connection's options, in lower case (RFC 9110 §5.6.1)."""
    return {member.strip(" \t") for member in value.lower().split(",")}


def is_persistent(options: set[str], *, is_http11: bool) -> bool:
    """Whether a connection with these ``Connection`` options persists (RFC 9112 §9.3)."""
    return "close" not in options and (is_http11 or "keep-alive" in options)
