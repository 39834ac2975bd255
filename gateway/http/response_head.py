"""Checks the status and headers of an app and builds the lines of a response head, with a cache.

Source: PEP 3333 "The start_response() Callable"; RFC 9110 §5, §15.
"""

import re
from functools import lru_cache

from gateway.errors import AppError
from gateway.http.advice import describe_headers, describe_name, describe_status, describe_value
from gateway.protocol.fields import INVALID_IN_VALUE, TOKEN
from gateway.protocol.framing import DIGITS, HOP_BY_HOP
from gateway.protocol.names import CACHE_ENTRIES
from gateway.wsgi import Fields

_STATUS = re.compile(r"[1-9][0-9]{2}(?: [\t\x20-\x7e\x80-\xff]*)?", re.ASCII)
# lines; code; Content-Length, or -1; all lines as bytes if there is a body and no Date, else b"";
# whether there is a body; whether there is a Date
CheckedHead = tuple[str, int, int, bytes, bool, bool]
# bounded caches: (name, value) to its line, and status and headers to the checked head
known_lines: dict[tuple[str, str], str] = {}
known_heads: dict[tuple[str, Fields], CheckedHead] = {}
_LONGEST_KNOWN_HEAD = 512
_LONGEST_KNOWN_LINE = 128
# two are used besides their line; cookies are private
_NEVER_KNOWN = frozenset(("content-length", "date", "set-cookie"))


def read_head(key: tuple[str, Fields]) -> CheckedHead:
    """Check a status and its headers, with a bounded cache.

    Raises AppError for what must not be sent, and TypeError or ValueError for what is not a pair.
    """
    status, headers = key
    length, has_date, is_personal = -1, False, False
    text, code, has_body = _check_status(status)
    for pair in headers:
        line = known_lines.get(pair)
        if line is None:
            name, value = pair
            lower = _check_name(name)
            if lower == "content-length" and isinstance(value, str):
                if length >= 0 or not DIGITS.fullmatch(value):
                    raise AppError(f"Content-Length is repeated or not a number: {value!r:.80}")
                length = int(value)
                continue  # the head gets its own
            has_date |= lower == "date"
            is_personal |= lower == "set-cookie"
            line = _check_value(name, lower, value)
        text += line
    simple = b""
    if has_body and not has_date:
        simple = (text + (f"Content-Length: {length}\r\n" if length >= 0 else "")).encode("latin-1")
    known = text, code, length, simple, has_body, has_date
    if len(text) <= _LONGEST_KNOWN_HEAD and not is_personal:
        if len(known_heads) >= CACHE_ENTRIES:
            known_heads.clear()
        known_heads[key] = known
    return known


def not_headers(headers: object) -> AppError:
    return AppError(describe_headers(headers))


@lru_cache(CACHE_ENTRIES)
def _check_status(status: str) -> tuple[str, int, bool]:
    """The status line, the code, and whether such a response has a body."""
    if not isinstance(status, str) or not _STATUS.fullmatch(status):
        raise AppError(describe_status(status))
    # joined: a subclass of str may format itself as something else than what was checked, and its
    # equals would get that from the cache
    line = "".join(("HTTP/1.1 ", status, "" if " " in status else " ", "\r\n"))
    code = int(status[:3])
    return line, code, code >= 200 and code not in (204, 304)


def check_field(name: str, value: str) -> str:
    """The field line. Raises AppError for a field that an app must not send."""
    return _check_value(name, _check_name(name), value)


@lru_cache(CACHE_ENTRIES)
def _check_name(name: str) -> str:
    """The name in lower case."""
    if not isinstance(name, str) or not TOKEN.fullmatch(name):
        raise AppError(describe_name(name))
    lower = name.lower()
    if lower in HOP_BY_HOP:  # forbidden for apps by PEP 3333
        raise AppError(f"{name} must be sent by the server, not by an app (PEP 3333): remove it")
    return lower


def _check_value(name: str, lower: str, value: str) -> str:
    """The line. ``lower`` is the name, which was checked, in lower case."""
    if not isinstance(value, str) or INVALID_IN_VALUE.search(value):
        raise AppError(describe_value(name, value))
    line = "".join((name, ": ", value, "\r\n"))  # as in _check_status
    if len(line) <= _LONGEST_KNOWN_LINE and lower not in _NEVER_KNOWN:
        if len(known_lines) >= CACHE_ENTRIES:
            known_lines.clear()
        known_lines[name, value] = line
    return line
