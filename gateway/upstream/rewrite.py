"""URLs in the fields of a response, rewritten so that they lead through the mount's prefix.

Refuses to know the request to the server. Source: RFC 9110 §10.2.2 (Location) and §8.7
(Content-Location), RFC 6265 §4.1.2.4 (a cookie's Path), nginx's ``proxy_redirect``.
"""

import re
from collections.abc import Iterable
from urllib.parse import quote

from gateway.http.cookies import is_of_the_host
from gateway.http.dispatch import PATH_SAFE
from gateway.protocol.fields import Field
from gateway.wsgi import Environ

_ORIGIN = re.compile(r"https?://([^/?#]*)", re.IGNORECASE)
_REFRESH = re.compile(r"([0-9.]+[ \t]*[;,][ \t]*(?:url[ \t]*=[ \t]*)?[\"']?)(.*)", re.IGNORECASE)
_COOKIE_PATH = re.compile(r"(;[ \t]*path[ \t]*=[ \t]*)(/[^;]*)", re.IGNORECASE)


class Rewriter:
    """Maps URLs at one of ``authorities``, the server's names, to the host of the client's request,
    and absolute paths to paths below the prefix if ``adds_prefix``."""

    def __init__(self, authorities: Iterable[str], *, adds_prefix: bool) -> None:
        self._authorities = frozenset(authority.lower() for authority in authorities)
        self._adds_prefix = adds_prefix

    def rewrite(self, fields: list[Field], environ: Environ) -> list[Field]:
        """``fields``, with URLs and paths rewritten."""
        return [(name, self._rewritten(name.lower(), value, environ)) for name, value in fields]

    def _rewritten(self, name: str, value: str, environ: Environ) -> str:
        if name in ("location", "content-location"):
            return self._url(value, environ)
        if name == "refresh":
            return _REFRESH.sub(lambda found: found[1] + self._url(found[2], environ), value)
        if name == "set-cookie" and not is_of_the_host(value):
            return _COOKIE_PATH.sub(lambda found: found[1] + self._scope(found[2], environ), value)
        return value

    def _url(self, url: str, environ: Environ) -> str:
        host: str = environ.get("HTTP_HOST", "")
        found = _ORIGIN.match(url)
        if found is None:
            # RFC 3986 §4.2: two slashes name another host; any other beginning is relative
            is_path = url.startswith("/") and not url.startswith("//")
            return self._path(url, environ) if is_path else url
        authority, path = found[1].lower().removesuffix(":80"), url[found.end() :]
        origin = found[0]
        if found[1].lower() != host.lower():
            if authority not in self._authorities or not host:
                return url
            origin = f"{environ['wsgi.url_scheme']}://{host}"
        return origin + self._path(path if path.startswith("/") else f"/{path}", environ)

    def _scope(self, path: str, environ: Environ) -> str:
        # RFC 6265 §5.1.4: /reports/ is not the scope of a request for /reports
        below = self._path(path, environ)
        return below.removesuffix("/") or "/" if path == "/" else below

    def _path(self, path: str, environ: Environ) -> str:
        """With the prefix, unless the server has added it already."""
        prefix = quote(environ["SCRIPT_NAME"].encode("latin-1"), safe=PATH_SAFE)
        if not self._adds_prefix or not prefix or path == prefix:
            return path
        return path if path.startswith((f"{prefix}/", f"{prefix}?")) else prefix + path
