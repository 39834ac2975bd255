"""Cookies of one app kept below its prefix, out of the sight of others on the same host.

Owns which cookies that changes, and how. Refuses to know who sets them. Source: RFC 6265 §5.2 (how
browsers read Set-Cookie) and §5.1.4 (which paths a cookie goes to); RFC 6265bis §4.1.3 (names with
a meaning); nginx's ``proxy_cookie_path``.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from gateway.wsgi import Fields

# An attribute begins behind a semicolon, in quotes or not, and its name has any case. Some clients
# take quotes off a Path; for all others one in quotes does not count.
_WHOLE_HOST = re.compile(r'(;[ \t]*path[ \t]*=[ \t]*"?)/("?[ \t]*)(?=;|$)', re.IGNORECASE)
_HOST_PREFIX = "__host-"
# RFC 3986 §3.3, but for the semicolon, which ends an attribute
_PATH = "/:@!$&'()*+,="


def scope_cookies(fields: Fields, script_name: str) -> Fields:
    """``fields`` with the cookies that are for the whole host scoped to ``script_name``, as in the
    environ. All else of a cookie stays, and so does one with another Path or without one, which
    is kept for the directory of the request (§5.1.4)."""
    if not script_name or ";" in script_name:
        return fields
    return tuple(
        (name, scope_cookie(value, script_name)) if name.lower() == "set-cookie" else (name, value)
        for name, value in fields
    )


def scope_cookie(cookie: str, script_name: str) -> str:
    """The same for the value of one Set-Cookie."""
    if is_of_the_host(cookie):
        return cookie
    path = encode_path(script_name)
    return _WHOLE_HOST.sub(lambda found: f"{found[1]}{path}{found[2]}", cookie)


def keep_first(cookies: str) -> str:
    """A Cookie field with the first of each name alone: where an app below a prefix and one at the
    root have a cookie of one name, browsers send both, the longer Path first (§5.4), and some
    frameworks would take the last."""
    if "; " not in cookies:
        return cookies
    pairs = cookies.split("; ")
    names = {pair.partition("=")[0] for pair in pairs}
    if len(names) == len(pairs):
        return cookies
    first = {pair.partition("=")[0]: pair for pair in reversed(pairs)}
    return "; ".join(pair for pair in pairs if first.pop(pair.partition("=")[0], None))


def is_of_the_host(cookie: str) -> bool:
    """Whether browsers take it with ``Path=/`` alone, by its name."""
    return cookie.lstrip(" \t")[: len(_HOST_PREFIX)].lower() == _HOST_PREFIX


def encode_path(script_name: str) -> str:
    """As browsers write it in a URL, where a cookie's Path is compared with it."""
    return quote(script_name.encode("latin-1"), safe=_PATH)
