"""The middleware around a mount's app: layers in a fixed order, each at most once.

Owns that order. A mount whose settings change is wrapped again from its bare app. State that
survives edits of the table (counted requests, queues) is kept by ``Chain``, not by a wrapper. A
mount that needs no layer has none. Source: PEP 3333, "Middleware: Components that Play Both Sides".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from gateway.config.model import Mount
from gateway.http.dispatch import LoadedMount
from gateway.mounts.admission import Semaphores
from gateway.mounts.live import Live, LivePages
from gateway.mounts.loader import Unavailable
from gateway.mounts.quarantine import Quarantined
from gateway.mounts.threadpool import ThreadPool
from gateway.mounts.threads import InThreads
from gateway.wsgi import WSGIApp


class Chain:
    """The layers of one worker, and what they share. ``threads`` run its apps, None for greenlets;
    ``live`` is there if pages reload themselves. ``quarantined`` has the monotonic moments at which
    mounts leave quarantine, by name."""

    def __init__(self, threads: ThreadPool | None = None, live: Live | None = None) -> None:
        self.threads = threads
        self.live = live
        self.semaphores = Semaphores()
        self.quarantined: Mapping[str, float] = {}

    def serve(self, loaded: Iterable[LoadedMount], mounts: Iterable[Mount]) -> None:
        """Wrap the apps of those ``loaded`` for requests, in place of what they were wrapped in
        before. ``mounts`` are what the table says of them, in the same order."""
        mounts = list(mounts)
        self.semaphores.adjust(mounts)
        for each, mount in zip(loaded, mounts):
            each.app = self._wrap(each, mount, LAYERS)

    def probe(self, loaded: Iterable[LoadedMount], mounts: Iterable[Mount]) -> None:
        """Wrap them for the gateway's own probes, which no limit holds up."""
        layers = [layer for layer in LAYERS if layer.has_probes]
        for each, mount in zip(loaded, mounts):
            each.app = self._wrap(each, mount, layers)

    def _wrap(self, loaded: LoadedMount, mount: Mount, layers: Iterable[Layer]) -> WSGIApp:
        app: WSGIApp = loaded.bare_app
        for layer in layers:
            app = layer.wrap(app, loaded, mount, self)
        return app


class Layer(NamedTuple):
    """``wrap`` gets what is within, and returns what is called instead; the same object for a mount
    that does not need this layer. ``has_probes``: the gateway's own probes pass it, too."""

    wrap: Callable[[WSGIApp, LoadedMount, Mount, Chain], WSGIApp]
    has_probes: bool = False


def _run_in_threads(app: WSGIApp, loaded: LoadedMount, mount: Mount, chain: Chain) -> WSGIApp:
    is_app = loaded.kind == "app" and not isinstance(loaded.bare_app, Unavailable)
    return InThreads(app, chain.threads) if chain.threads is not None and is_app else app


def _limit(app: WSGIApp, loaded: LoadedMount, mount: Mount, chain: Chain) -> WSGIApp:
    return chain.semaphores.limit(app, mount)


def _reload_pages(app: WSGIApp, loaded: LoadedMount, mount: Mount, chain: Chain) -> WSGIApp:
    has_pages = loaded.kind in ("app", "upstream")
    return LivePages(app, chain.live) if chain.live is not None and has_pages else app


def _quarantine(app: WSGIApp, loaded: LoadedMount, mount: Mount, chain: Chain) -> WSGIApp:
    until = chain.quarantined.get(loaded.name)
    return app if until is None else Quarantined(app, loaded.name, until)


# from the app outwards; a further layer is one line
LAYERS: tuple[Layer, ...] = (
    Layer(_run_in_threads, has_probes=True),
    Layer(_limit),
    Layer(_reload_pages),
    Layer(_quarantine),
)
