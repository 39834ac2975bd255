"""Mounts that answer 503 for a while, because their requests have crashed workers.

Does not know how that was found out. Source: RFC 9110 §10.2.3 (Retry-After), §15.6.4 (503).
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from time import monotonic

from gateway.errors import RequestEnded
from gateway.wsgi import Environ, StartResponse, WSGIApp


class Quarantined:
    """``app``, which is not called before ``until``, a monotonic time."""

    def __init__(self, app: WSGIApp, name: str, until: float) -> None:
        self._app = app
        self._name = name
        self._until = until

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        seconds = ceil(self._until - monotonic())
        if seconds <= 0:
            return self._app(environ, start_response)
        raise RequestEnded(
            f"mount {self._name} is in quarantine, because its requests have crashed workers",
            "503 Service Unavailable",
            "Requests to this app have killed its workers again and again, so it is paused. "
            f"Try again in {seconds} s.",
            ("Retry-After", str(seconds)),
        )
