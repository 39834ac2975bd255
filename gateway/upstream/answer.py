"""What a server behind a mount answers: bytes to head, and how long its content is.

Refuses to know sockets and WSGI. As strict as the side that reads requests: what two hops could
read differently is no answer. Source: RFC 9112 §4 to §6, RFC 9110 §7.6.1 and §15.
"""

import re

from gateway.protocol.names import CACHE_ENTRIES

MAX_HEAD_BYTES = 64 * 1024
CHUNKED = -1  # lengths that are not known beforehand
UNTIL_CLOSE = -2

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2}(?: [\t\x20-\x7e\x80-\xff]*)?)", re.ASCII)
# RFC 9112 §5.1: a proxy removes blanks before the colon of a response
_FIELD = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]*:[ \t]*([\t\x20-\x7e\x80-\xff]*)", re.ASCII
)
_DIGITS = re.compile(r"[0-9]{1,18}", re.ASCII)
# RFC 9110 §7.6.1: between the server and us alone
_HOP_BY_HOP = frozenset((
    "connection", "keep-alive", "proxy-authenticate", "proxy-authentication-info",
    "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
))  # fmt: skip
_LONGEST_KNOWN_LINE = 128

Pair = tuple[str, str]
# what was read once, bounded: a status line to status, code and whether it is HTTP/1.1; the line of
# a field to the field, and its name in lower case where it has a meaning here, else ""
_known_statuses: dict[bytes, tuple[str, int, bool]] = {}
_known_lines: dict[bytes, tuple[Pair, str]] = {}
# whole heads, of short ones that are nobody's own: a busy server repeats itself within a second
_known_answers: "dict[bytes, Answer]" = {}
_LONGEST_KNOWN_HEAD = 512


class BadAnswerError(Exception):
    """What came is no answer, or could be read as two."""


class Answer:
    """``status`` is code and reason, ``fields`` what is passed on, ``length`` that of the content
    in bytes, CHUNKED or UNTIL_CLOSE. ``persistent`` is whether the connection may be kept,
    ``upgrade`` the protocol of a 101."""

    __slots__ = ("code", "fields", "length", "persistent", "status", "upgrade")

    code: int
    fields: list[Pair]
    length: int
    persistent: bool
    status: str
    upgrade: str


def parse_answer(raw: bytes, method: str) -> Answer:
    """The head in ``raw``, which ends with the first empty line, to a request with ``method``.

    What it returns is shared and not to be changed. Raises BadAnswerError.
    """
    if method == "HEAD":
        return _parse_anew(raw, method)
    known = _known_answers.get(raw)
    if known is None:
        known = _parse_anew(raw, method)
        if len(raw) <= _LONGEST_KNOWN_HEAD and b"\r\nset-cookie" not in raw.lower():
            if len(_known_answers) >= CACHE_ENTRIES:
                _known_answers.clear()
            _known_answers[raw] = known
    return known


def _parse_anew(raw: bytes, method: str) -> Answer:
    first, *lines = raw[:-4].split(b"\r\n")
    answer = Answer()
    status = _known_statuses.get(first) or _read_status(first)
    answer.status, answer.code, is_http11 = status
    answer.upgrade = ""
    answer.fields = fields = []
    special: dict[str, str] = {}
    for line in lines:
        pair, meaning = _known_lines.get(line) or _read_field(line)
        if not meaning:
            fields.append(pair)
        elif meaning in special:
            special[meaning] = f"{special[meaning]}, {pair[1]}"
        else:
            special[meaning] = pair[1]
            if meaning == "content-length":
                fields.append(pair)
    _decide(answer, special, method, is_http11)
    return answer


def _read_status(line: bytes) -> tuple[str, int, bool]:
    found = _STATUS_LINE.fullmatch(line)
    if found is None:
        raise BadAnswerError(f"no status line: {line[:60]!r}")
    status = found[2].decode("latin-1")
    known = status, int(status[:3]), found[1] == b"1"
    if len(line) <= _LONGEST_KNOWN_LINE and len(_known_statuses) < CACHE_ENTRIES:
        _known_statuses[line] = known
    return known


def _read_field(line: bytes) -> tuple[Pair, str]:
    found = _FIELD.fullmatch(line)
    if found is None:
        raise BadAnswerError(f"no field: {line[:60]!r}")
    name = found[1].decode("ascii")
    pair = name, found[2].decode("latin-1").rstrip(" \t")
    lower = name.lower()
    meaning = lower if lower in _HOP_BY_HOP or lower == "content-length" else ""
    if len(line) <= _LONGEST_KNOWN_LINE and lower != "set-cookie":
        if len(_known_lines) >= CACHE_ENTRIES:
            _known_lines.clear()
        _known_lines[line] = pair, meaning
    return pair, meaning


def _decide(answer: Answer, special: dict[str, str], method: str, is_http11: bool) -> None:
    """RFC 9112 §6.3 and §9.3."""
    length, coding = special.get("content-length"), special.get("transfer-encoding")
    if length is not None and not _DIGITS.fullmatch(length):
        raise BadAnswerError(f"Content-Length is repeated or no number: {length[:60]!r}")
    if coding is not None:
        # RFC 9112 §6.1 and §6.3: each could be read in two ways
        if length is not None:
            raise BadAnswerError("both Content-Length and Transfer-Encoding")
        if not is_http11 or coding.lower() != "chunked":
            raise BadAnswerError(f"Transfer-Encoding: {coding[:60]!r}, where chunked was allowed")
    answer.persistent = is_http11
    connection = special.get("connection")
    if connection is not None:
        options = {option.strip(" \t") for option in connection.lower().split(",")}
        answer.persistent = "close" not in options and (is_http11 or "keep-alive" in options)
        answer.fields = [pair for pair in answer.fields if pair[0].lower() not in options]
    if answer.code < 200:
        answer.length = 0
        answer.upgrade = special.get("upgrade", "")
        answer.persistent = False  # whatever ends a tunnel, what follows there is not HTTP
    elif method == "HEAD":
        answer.length = 0
        # some servers send content all the same, which could look like the next answer
        answer.persistent = False
    elif answer.code in (204, 304):
        answer.length = 0
    elif coding is not None:
        answer.length = CHUNKED
    elif length is not None:
        answer.length = int(length)
    else:
        answer.length = UNTIL_CLOSE
        answer.persistent = False
