"""A mount that has moved: every request below it is redirected, with its path's rest and query.

Owns how a Location is built, so that no part of a request can change the host. Does not know the
table and the other mounts. Source: RFC 9110 §10.2.2 and §15.4, RFC 3986 §3.3
and §3.4, Apache's ``Redirect``.
"""

import re
from collections.abc import Iterable
from html import escape
from http import HTTPStatus
from urllib.parse import quote

from gateway.http.dispatch import PATH_SAFE
from gateway.wsgi import RAW_PATH_INFO, Environ, StartResponse

STATUSES = (301, 302, 303, 307, 308)

# What is encoded stays so; what must be encoded is.
_RAW_PATH = PATH_SAFE + "%"
_RAW_QUERY = _RAW_PATH + "?"

_HTTP_URL = re.compile(r"(?i:https?)://[A-Za-z0-9.:\[\]_~%-]+(?=/|\Z)")
_NEVER_IN_LOCATION = re.compile(r"[\x00-\x20\x7f\\?#]")


class Redirect:
    """WSGI app: answers every method with ``status`` and ``location`` + rest of the path + query.

    Raises ValueError for a location or status that cannot be one.
    """

    def __init__(self, location: str, status: int) -> None:
        if status not in STATUSES:
            raise ValueError(f"expected one of {', '.join(map(str, STATUSES))}, got {status}")
        if _NEVER_IN_LOCATION.search(location):
            raise ValueError(
                f"expected no space, control character, backslash, ? or # in {location!r}: "
                "the rest of the path and the query of each request are added to it"
            )
        url = _HTTP_URL.match(location)
        if url is None and (not location.startswith("/") or location.startswith("//")):
            raise ValueError(
                f"expected a path such as '/notes' or an http(s) URL, got {location!r}"
            )
        self._origin = url[0] if url else ""
        self._path = quote(location.removeprefix(self._origin), safe=_RAW_PATH)
        self._status = status

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        rest = _raw_path_info(environ)
        path = self._path.removesuffix("/") + rest if rest else self._path
        if not self._origin:
            # RFC 3986 §4.2: two slashes at the beginning would name another host.
            path = "/" + path.lstrip("/")
        return answer_redirect(environ, start_response, self._status, self._origin + path)


def answer_redirect(
    environ: Environ,
    start_response: StartResponse,
    status: int,
    path: str,
    *headers: tuple[str, str],
) -> list[bytes]:
    """Redirect to ``path``, which is percent-encoded, with the query of the request."""
    query = environ.get("QUERY_STRING", "")
    if query:
        path += "?" + quote(query.encode("latin-1"), safe=_RAW_QUERY)
    reason = f"{status} {HTTPStatus(status).phrase}"
    # RFC 9110 §15.4: a short note with a link, for clients that do not follow by themselves.
    body = (
        f"<!doctype html>\n<title>{reason}</title>\n"
        f'<p>This is now at <a href="{escape(path)}">{escape(path)}</a>.\n'
    ).encode("ascii")
    start_response(
        reason,
        [
            ("Location", path),
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", str(len(body))),
            *headers,
        ],
    )
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def quote_path(path: str) -> str:
    """Percent-encode a decoded path of PEP 3333 (bytes as latin-1)."""
    return quote(path.encode("latin-1"), safe=PATH_SAFE)


def _raw_path_info(environ: Environ) -> str:
    """PATH_INFO as the client encoded it, if the server provides that, else encoded again."""
    path_info: str = environ.get("PATH_INFO", "")
    if not path_info.startswith("/"):
        return ""
    raw: str | None = environ.get(RAW_PATH_INFO)
    return quote_path(path_info) if raw is None else raw
