"""How long the content of a message is, and whether its connection is kept: for both sides.

Refuses to know whose the message is. Source: RFC 9112 §6.3 and §9.3, RFC 9110 §7.6.1.
"""

from __future__ import annotations

import re

from gateway.errors import MalformedMessage, UnknownCoding

CHUNKED = -1  # lengths that are not known beforehand
UNTIL_CLOSE = -2
# RFC 9110 §7.6.1, RFC 2616 §13.5.1: of one connection alone
HOP_BY_HOP = frozenset((
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
    "te", "trailer", "transfer-encoding", "upgrade",
))  # fmt: skip
DIGITS = re.compile(r"[0-9]{1,18}", re.ASCII)


def read_length(length: str | None, coding: str | None, *, is_http11: bool) -> int:
    """Of the content, in bytes or CHUNKED, by Content-Length and Transfer-Encoding; UNTIL_CLOSE
    without them. Values of a field that is repeated are joined by commas. Raises MalformedMessage.
    """
    if coding is None:
        if length is None:
            return UNTIL_CLOSE
        if not DIGITS.fullmatch(length):
            raise MalformedMessage("Content-Length is not a number of bytes", length[:60])
        return int(length)
    if not is_http11:
        # RFC 9112 §6.1: its framing is faulty, whatever it says
        raise MalformedMessage("Transfer-Encoding in HTTP/1.0")
    if length is not None:
        raise MalformedMessage("both Content-Length and Transfer-Encoding")
    if coding.lower() != "chunked":
        raise UnknownCoding("Transfer-Encoding: transfer coding other than chunked", coding[:60])
    return CHUNKED


def split_list(value: str) -> set[str]:
    """The members of a list such as Connection's options, in lower case (RFC 9110 §5.6.1)."""
    return {member.strip(" \t") for member in value.lower().split(",")}


def is_persistent(options: set[str], *, is_http11: bool) -> bool:
    """Whether a connection with these options is (RFC 9112 §9.3)."""
    return "close" not in options and (is_http11 or "keep-alive" in options)
