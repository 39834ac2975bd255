"""Pages that reload themselves when their code has been reloaded, in dev mode with ``--live``.

Owns the script, the tag at the end of pages that loads it, and the stream of events by which it
learns of reloads. Does not know what a reload is. Sources: HTML Standard, "Server-sent events";
Fetch Metadata Request Headers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from html import escape
from itertools import chain, count
from urllib.parse import quote

from gevent.event import Event

from gateway.wsgi import Environ, ExcInfo, Fields, StartResponse, Takeover, Write, WSGIApp

EVENTS = "/.gateway/live"
SCRIPT = f"{EVENTS}.js"
# a hidden page does not listen: browsers open at most six connections to a host
_SCRIPT_TEXT = b"""\
(() => {
  const {src, dataset: {version}} = document.currentScript;
  let events;
  const listen = () => {
    events?.close();
    if (document.hidden) return;
    events = new EventSource(src.replace(/\\.js$/, ""));
    events.onmessage = ({data}) => { if (data !== version) location.reload(); };
  };
  document.addEventListener("visibilitychange", listen);
  listen();
})();
"""
RETRY_MILLISECONDS = 300
_BODILESS = frozenset(("204", "205", "206", "304"))


class Live:
    """``version`` changes with each reload, and differs between workers."""

    def __init__(self) -> None:
        versions = (f"{prefix}-{number}" for prefix in (os.urandom(6).hex(),) for number in count())
        self._next_version = versions.__next__
        self.version = self._next_version()
        self._changed = Event()
        self._is_serving = True

    def note_reload(self) -> None:
        """The code behind the pages is new."""
        self.version = self._next_version()
        self._wake()

    def serve(self, *, is_on: bool) -> None:
        """Whether pages may listen here. If not, they connect to the worker that serves."""
        self._is_serving = is_on
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = Event()

    def end_page(self, script_name: str) -> bytes:
        """The tag that is added to the pages of a mount."""
        source = escape(quote(script_name.encode("latin-1")) + SCRIPT)
        return f'<script src="{source}" data-version="{self.version}"></script>\n'.encode()

    def listen(self) -> Iterator[bytes]:
        """Events: the version, now and after each reload."""
        while self._is_serving:
            changed = self._changed
            yield f"retry: {RETRY_MILLISECONDS}\ndata: {self.version}\n\n".encode()
            changed.wait()


class LivePages:
    """``app``, whose pages reload themselves."""

    def __init__(self, app: WSGIApp, live: Live) -> None:
        self._app = app
        self._live = live

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == SCRIPT:
            start_response("200 OK", [("Content-Type", "text/javascript"), _NOT_STORED])
            return [_SCRIPT_TEXT]
        if path == EVENTS:
            start_response("200 OK", [("Content-Type", "text/event-stream"), _NOT_STORED])
            return self._live.listen()
        if not _is_navigation(environ):
            return self._app(environ, start_response)
        for name in ("ACCEPT_ENCODING", "IF_NONE_MATCH", "IF_MODIFIED_SINCE", "RANGE"):
            environ.pop(f"HTTP_{name}", None)
        page = _Page(self._live.end_page(environ["SCRIPT_NAME"]), start_response)
        return page.hold(self._app(environ, page.start_response))


_NOT_STORED = ("Cache-Control", "no-store")


def _is_navigation(environ: Environ) -> bool:
    """Whether a browser will show the response. Browsers send Sec-Fetch-Dest only to trustworthy
    hosts, such as localhost; for others, Accept decides."""
    if environ["REQUEST_METHOD"] != "GET":
        return False
    wanted = environ.get("HTTP_SEC_FETCH_DEST")
    if wanted is None:
        return "text/html" in environ.get("HTTP_ACCEPT", "")
    return bool(wanted == "document")


class _Page:
    """One response; ``end`` is added to it if it is a page. ``held`` is what the app returned."""

    def __init__(self, end: bytes, start_response: StartResponse) -> None:
        self._end = end
        self._start_response = start_response
        self._is_page = False
        self.held: Iterable[bytes] = ()

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Write:
        """PEP 3333. An invalid status or list of fields is refused by the server."""
        self._is_page = is_page(status, headers)
        if self._is_page:
            headers = [self._lengthen(*field) for field in headers]
        return self._start_response(status, headers, exc_info)

    def _lengthen(self, name: str, value: str) -> tuple[str, str]:
        if name.lower() == "content-length" and value.isdigit():
            return name, str(int(value) + len(self._end))
        return name, value

    def hold(self, result: Iterable[bytes]) -> Iterable[bytes]:
        """What the server sends instead of ``result``."""
        if isinstance(result, Takeover):
            return result
        self.held = result
        return self

    def __iter__(self) -> Iterator[bytes]:
        return chain(iter(self.held), self._finish())

    def _finish(self) -> Iterator[bytes]:
        if self._is_page:
            yield self._end

    def close(self) -> None:
        """PEP 3333."""
        close = getattr(self.held, "close", None)
        if close is not None:
            close()


def is_page(status: str, headers: Fields | list[tuple[str, str]]) -> bool:
    """Whether HTML may be added to the end of this response: HTML without a content coding."""
    try:
        fields = {name.lower(): value for name, value in headers}
        is_html = fields.get("content-type", "").lower().startswith("text/html")
    except (AttributeError, TypeError, ValueError):
        return False
    return is_html and status[:3] not in _BODILESS and "content-encoding" not in fields
