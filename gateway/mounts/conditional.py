"""Conditional requests: preconditions, byte ranges and content codings.

Reads those request fields, as pure functions. Does not know files and responses.
Source: RFC 9110 §5.6.7 (dates), §12.5.3 (Accept-Encoding), §13 (conditions), §14 (ranges).
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from functools import lru_cache

from gateway.wsgi import Environ

CODINGS = ("br", "gzip")
"""The content codings that files may have, the one that compresses better first."""

_TIME = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_DAY = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_LONG_DAY = r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH = f"(?P<month>{'|'.join(_MONTHS)})"
# RFC 9110 §5.6.7: a recipient MUST accept all three: IMF-fixdate, RFC 850's, asctime's.
_HTTP_DATES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"{_DAY}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT",
        rf"{_LONG_DAY}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT",
        rf"{_DAY} {_MONTH} (?P<day>[ 0-9][0-9]) {_TIME} (?P<year>[0-9]{{4}})",
    )
)
_ENTITY_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
# Eighteen digits are enough for any file size; a longer number makes the value invalid.
_ONE_RANGE = re.compile(
    r"bytes=[ \t]*(?P<first>[0-9]{0,18})-(?P<last>[0-9]{0,18})[ \t]*", re.IGNORECASE
)
_WEIGHTED_CODING = re.compile(
    r"(?:^|,)[ \t]*(?P<coding>br|(?:x-)?gzip|identity|\*)[ \t]*"
    r"(?:;[ \t]*q=(?P<weight>0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*)?(?=,|$)",
    re.IGNORECASE,
)


def parse_http_date(value: str) -> int | None:
    """Seconds since the epoch; None if ``value`` is not an HTTP-date."""
    for pattern in _HTTP_DATES:
        if found := pattern.fullmatch(value):
            break
    else:
        return None
    year = int(found["year"])
    if len(found["year"]) == 2:
        # §5.6.7: a year that seems more than 50 years ahead is the last one that ended so.
        this_year = datetime.now(timezone.utc).year
        year += this_year - this_year % 100
        year -= 100 * (year > this_year + 50)
    month = _MONTHS.index(found["month"]) + 1
    day, hour, minute, second = (int(found[part]) for part in ("day", "hour", "minute", "second"))
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc)
    except ValueError:
        return None
    return int(moment.timestamp())


def failed_precondition(environ: Environ, etag: str, modified: int) -> int | None:
    """304 or 412 if that is the response to a GET or HEAD, None if it must be carried out.

    ``etag`` is the strong tag, quotes included, ``modified`` the Last-Modified in epoch seconds.
    The order is that of RFC 9110 §13.2.2.
    """
    if (value := environ.get("HTTP_IF_MATCH")) is not None:
        if not _names(value, etag, weak=False):
            return 412
    elif (value := environ.get("HTTP_IF_UNMODIFIED_SINCE")) is not None:
        # §13.1.3, §13.1.4: a value that is not a date MUST be ignored.
        since = parse_http_date(value)
        if since is not None and modified > since:
            return 412
    if (value := environ.get("HTTP_IF_NONE_MATCH")) is not None:
        return 304 if _names(value, etag, weak=True) else None
    if (value := environ.get("HTTP_IF_MODIFIED_SINCE")) is not None:
        since = parse_http_date(value)
        return 304 if since is not None and modified <= since else None
    return None


def _names(value: str, etag: str, *, weak: bool) -> bool:
    # §8.8.3.2: If-None-Match compares weakly (a compressing proxy weakens tags), If-Match strongly.
    if value == etag or value.strip(" \t") == "*":
        return True
    return any(
        found[2] == etag and (weak or found[1] is None) for found in _ENTITY_TAG.finditer(value)
    )


def parse_range(environ: Environ, etag: str, last_modified: str, size: int) -> range | None:
    """The bytes of the representation that a GET asks for; an empty range must be refused (416).

    None for all of them: no Range, a failed If-Range, an invalid value or another unit, and several
    ranges, which a server may ignore (RFC 9110 §14.2): they have been used for denial of service
    (§17.15).
    """
    value = environ.get("HTTP_RANGE")
    # An empty file has no first byte for Content-Range; the whole file is the better response.
    if value is None or size == 0:
        return None
    condition = environ.get("HTTP_IF_RANGE")
    # §13.1.5: the tag by strong comparison, the date only if it is identical.
    if condition is not None and condition not in (etag, last_modified):
        return None
    found = _ONE_RANGE.fullmatch(value)
    if found is None:
        return None
    first, last = found["first"], found["last"]
    if first == "":
        return None if last == "" else range(max(0, size - int(last)), size)
    if last == "":
        return range(int(first), size)
    # §14.1.1: a last position before the first makes the range invalid, which is not unsatisfiable.
    return None if int(last) < int(first) else range(int(first), min(int(last) + 1, size))


@lru_cache(maxsize=64)
def accepted_codings(accept_encoding: str) -> tuple[str, ...]:
    """Those of ``CODINGS`` that the client prefers to no coding, best first."""
    weights: dict[str, float] = {}
    for found in _WEIGHTED_CODING.finditer(accept_encoding):
        # RFC 9110 §8.4.1.3: x-gzip is gzip.
        coding = found["coding"].lower().removeprefix("x-")
        weights[coding] = float(found["weight"] or 1)
    least = weights.get("identity", 0.0)
    wanted = {coding: weights.get(coding, weights.get("*", 0.0)) for coding in CODINGS}
    return tuple(
        coding
        for coding in sorted(CODINGS, key=lambda coding: -wanted[coding])
        if wanted[coding] > 0 and wanted[coding] >= least
    )
