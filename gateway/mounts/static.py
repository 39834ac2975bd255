"""A directory of files as a WSGI app.

Owns which file answers a path, and its header fields. Does not know the server, whose
``wsgi.file_wrapper`` sends large files, and how files are opened. Source: PEP 3333; RFC 9110 §8
(representations), §13 (conditions), §14 (ranges), §15 (status codes).
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

from gateway.mounts.conditional import (
    CODINGS,
    accepted_codings,
    failed_precondition,
    parse_range,
)
from gateway.mounts.files import OpenFile, is_current, open_below
from gateway.mounts.media_types import media_type_of
from gateway.mounts.redirect import answer_redirect, quote_path
from gateway.wsgi import RAW_PATH_INFO, Environ, StartResponse

_ALLOW = ("Allow", "GET, HEAD, OPTIONS")
_VARY = ("Vary", "Accept-Encoding")
_NO_SNIFFING = ("X-Content-Type-Options", "nosniff")
_SUFFIXES = {"br": b".br", "gzip": b".gz"}

# Never looked up: NUL, which no name contains; a backslash, which some take for a separator; and
# segments that begin with a dot, such as "..", .git and .env, except RFC 8615's directory.
_REFUSED_PATH = re.compile(r"[\0\\]|/\.(?!well-known(?:/|\Z))")

# Errors that a path can cause. Anything else (EMFILE, EIO) is the server's fault and is raised.
_STATUS_OF_ERROR = {
    errno.EACCES: 403,
    errno.EPERM: 403,
    errno.EILSEQ: 404,
    errno.EISDIR: 404,
    errno.ELOOP: 404,
    errno.ENAMETOOLONG: 404,
    errno.ENODEV: 404,
    errno.ENOENT: 404,
    errno.ENOTDIR: 404,
    errno.ENXIO: 404,
}

_REFUSALS = {
    403: "The file is there, but the server may not read it.",
    404: "There is no such file. A directory answers with its index file, or not at all.",
    405: "Files can only be read: GET, HEAD, OPTIONS.",
    412: "The file is not the one that the request's conditions name.",
    416: "The file ends before the range asked for.",
}


class _Selected(NamedTuple):
    """The file to send, its content coding, and whether that depends on Accept-Encoding."""

    file: OpenFile
    coding: str | None
    varies: bool


class StaticDirectory:
    """WSGI app: the files below ``directory``; ``index`` is the file that answers for a directory.

    ``directory`` is resolved once: if it is a symbolic link that changes later, the old target is
    served until the next start. With ``cache_seconds`` 0, clients revalidate each time.
    """

    def __init__(self, directory: Path, *, index: str, cache_seconds: float) -> None:
        self._root = os.fsencode(os.path.realpath(directory)).rstrip(b"/")
        self._index = index
        max_age = int(cache_seconds)
        caching = f"max-age={max_age}, public" if max_age > 0 else "no-cache"
        self._cache_control = ("Cache-Control", caching)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        if method == "OPTIONS":
            start_response("204 No Content", [_ALLOW])
            return []
        if method not in ("GET", "HEAD"):
            return _refuse(environ, start_response, 405, _ALLOW)
        # RFC 9110 §4.2.3: an empty path is the root's. Below a prefix it is the prefix itself.
        path_info = environ.get("PATH_INFO") or ("" if environ.get("SCRIPT_NAME") else "/")
        # no name has a slash: an encoded one must not lead below another mount's prefix
        has_slash = "%2f" in environ.get(RAW_PATH_INFO, "").lower()
        if has_slash or _REFUSED_PATH.search(path_info):
            return _refuse(environ, start_response, 404)
        names_directory = path_info.endswith("/")
        path = path_info + self._index if names_directory else path_info
        try:
            selected = self._select(path, environ.get("HTTP_ACCEPT_ENCODING", ""))
        except OSError as exc:
            if exc.errno == errno.EISDIR and not names_directory:
                return self._add_slash(environ, start_response)
            status = _STATUS_OF_ERROR.get(exc.errno or 0)
            if status is None:
                raise
            return _refuse(environ, start_response, status)
        try:
            return self._answer(environ, start_response, path, selected)
        finally:
            selected.file.close()

    def _select(self, path: str, accept_encoding: str) -> _Selected:
        """The file, or the compressed sibling that the client prefers. Raises OSError."""
        raw_path = path.encode("latin-1")
        file = open_below(self._root, raw_path)
        siblings = {
            coding: sibling
            for coding in CODINGS
            if is_current(self._root + (sibling := raw_path + _SUFFIXES[coding]), file.modified_ns)
        }
        if not siblings:
            return _Selected(file, None, varies=False)
        for coding in accepted_codings(accept_encoding):
            if coding not in siblings:
                continue
            try:
                packed = open_below(self._root, siblings[coding])
            except OSError:
                continue
            file.close()
            return _Selected(packed, coding, varies=True)
        return _Selected(file, None, varies=True)

    def _answer(
        self, environ: Environ, start_response: StartResponse, path: str, selected: _Selected
    ) -> Iterable[bytes]:
        file, coding, varies = selected
        # RFC 9110 §8.8.2.1: Last-Modified MUST NOT be later than Date.
        modified = max(0, min(file.modified_ns // 1_000_000_000, int(time.time())))
        etag = f'"{file.modified_ns:x}-{file.size_bytes:x}{"-" + coding if coding else ""}"'
        headers = [("ETag", etag), self._cache_control]
        if varies:
            headers.append(_VARY)
        failed = failed_precondition(environ, etag, modified)
        if failed == 304:
            start_response("304 Not Modified", headers)
            return []
        if failed is not None:
            return _refuse(environ, start_response, failed)
        last_modified = _format_http_date(modified)
        is_get = environ["REQUEST_METHOD"] == "GET"
        # RFC 9110 §14.2: Range means something to GET only.
        part = parse_range(environ, etag, last_modified, file.size_bytes) if is_get else None
        if part is None:
            status, part = "200 OK", range(file.size_bytes)
        elif part:
            status = "206 Partial Content"
            headers.append(("Content-Range", f"bytes {part[0]}-{part[-1]}/{file.size_bytes}"))
        else:
            content_range = ("Content-Range", f"bytes */{file.size_bytes}")
            return _refuse(environ, start_response, 416, content_range)
        headers += [
            ("Content-Type", media_type_of(path.rpartition("/")[2])),
            ("Content-Length", str(len(part))),
            ("Last-Modified", last_modified),
            ("Accept-Ranges", "bytes"),
            _NO_SNIFFING,
        ]
        if coding:
            headers.append(("Content-Encoding", coding))
        start_response(status, headers)
        return file.content(part, environ.get("wsgi.file_wrapper")) if is_get else []

    def _add_slash(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        # Relative links in the index file need the slash. RFC 3986 §4.2: a Location that begins
        # with two slashes names another host.
        path = quote_path(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""))
        location = f"/{path.lstrip('/')}/"
        return answer_redirect(environ, start_response, 308, location, self._cache_control)


def _refuse(
    environ: Environ, start_response: StartResponse, status: int, *headers: tuple[str, str]
) -> list[bytes]:
    reason = f"{status} {HTTPStatus(status).phrase}"
    body = f"{reason}\n{_REFUSALS[status]}\n".encode("ascii")
    start_response(
        reason,
        [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
            _NO_SNIFFING,
            *headers,
        ],
    )
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


@lru_cache(maxsize=1024)
def _format_http_date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)
