"""Limits cookies of an app to its prefix, so that other apps on the same host do not get them.

Source: RFC 6265 §5.2 (how browsers parse Set-Cookie) and §5.1.4 (paths); RFC 6265bis §4.1.3 (name
prefixes); nginx's ``proxy_cookie_path``.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from gateway.wsgi import Fields

# An attribute follows a semicolon, even within quotes; its name is case-insensitive. Some clients
# remove quotes around a Path; others ignore a quoted Path.
_WHOLE_HOST = re.compile(r'(;[ \t]*path[ \t]*=[ \t]*"?)/("?[ \t]*)(?=;|$)', re.IGNORECASE)
_HOST_PREFIX = "__host-"
# RFC 3986 §3.3, without the semicolon, which ends an attribute
_PATH = "/:@!$&'()*+,="


def scope_cookies(fields: Fields, script_name: str) -> Fields:
    """``fields`` with ``Path=/`` of cookies changed to ``script_name``, which is as in the environ.
    Cookies with another Path are unchanged, and so are those without one, which browsers limit to
    the directory of the request (§5.1.4)."""
    if not script_name or ";" in script_name:
        return fields
    return tuple(
        (name, scope_cookie(value, script_name)) if name.lower() == "set-cookie" else (name, value)
        for name, value in fields
    )


def scope_cookie(cookie: str, script_name: str) -> str:
    """As ``scope_cookies``, for the value of one Set-Cookie field."""
    if is_of_the_host(cookie):
        return cookie
    path = encode_path(script_name)
    return _WHOLE_HOST.sub(lambda found: f"{found[1]}{path}{found[2]}", cookie)


def keep_first(cookies: str) -> str:
    """A Cookie field with only the first cookie of each name. If an app below a prefix and one at
    the root have cookies of the same name, browsers send both, the longer Path first (§5.4), and
    some frameworks use the last one."""
    if "; " not in cookies:
        return cookies
    pairs = cookies.split("; ")
    names = {pair.partition("=")[0] for pair in pairs}
    if len(names) == len(pairs):
        return cookies
    first = {pair.partition("=")[0]: pair for pair in reversed(pairs)}
    return "; ".join(pair for pair in pairs if first.pop(pair.partition("=")[0], None))


def is_of_the_host(cookie: str) -> bool:
    """Whether its name has the prefix ``__Host-``, which requires ``Path=/``."""
    return cookie.lstrip(" \t")[: len(_HOST_PREFIX)].lower() == _HOST_PREFIX


def encode_path(script_name: str) -> str:
    """``script_name`` percent-encoded as browsers do in URLs, which a cookie's Path must match."""
    return quote(script_name.encode("latin-1"), safe=_PATH)
