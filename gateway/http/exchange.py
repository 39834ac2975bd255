"""One request and its response together: what a connection keeps of them while it answers.

Refuses to know the connection. Source: PEP 3333, RFC 9112 §9.3.
"""

from __future__ import annotations

from typing import Any, cast

from gateway.http.body import Content
from gateway.http.cookies import scope_cookies
from gateway.http.dispatch import LoadedMount
from gateway.http.response import Response
from gateway.http.response_head import CheckedHead, read_head
from gateway.wsgi import Fields, Takeover


class RequestEnded(BaseException):
    """A request that may not go on, answered with ``status``. Like ``gevent.Timeout`` no Exception,
    so that an app's ``except Exception`` lets it through while its ``finally`` runs."""

    def __init__(self, fault: str, status: str, detail: str, *fields: tuple[str, str]) -> None:
        super().__init__(fault)
        self.status = status
        self.detail = detail
        self.fields = fields


class ClientLeft(RequestEnded, GeneratorExit):
    """The client of a stream has left. A generator that waits gets it where it waits, as it gets
    GeneratorExit from ``close()`` where it yields."""

    def __init__(self) -> None:
        super().__init__("the client left", "", "")


class Exchange(Response):
    """One request and its response, with what only this connection wants to know of them.

    ``timeout`` is the mount's, in seconds, 0 before it is known; ``moved`` is how many bytes had
    moved when the sweep last looked. ``has_ended`` is whether that has ended it for its client's
    leaving. ``script_name`` is that of the environ that the app was given, set where there is a
    mount. Of content that came with its head, all of it, ``arrived_bytes`` is the length, and
    there is no ``content``.
    """

    __slots__ = (
        *("arrived_bytes", "client", "content", "greenlet", "has_ended", "mount", "moved"),
        *("request_id", "script_name", "started", "timeout"),
    )

    arrived_bytes: int
    client: str
    content: Content | None
    greenlet: Any
    has_ended: int
    mount: LoadedMount | None
    moved: int
    request_id: str
    script_name: str
    started: float
    timeout: float

    __init__ = object.__init__  # ``begin`` is called instead

    def _read_head(self, key: tuple[str, Fields]) -> CheckedHead:
        # what is known already has no cookies
        known, mount = read_head(key), self.mount
        if mount is None or not mount.scopes_cookies or "\r\nset-cookie:" not in known[0].lower():
            return known
        return read_head((key[0], scope_cookies(key[1], self.script_name)))

    def take_over(self, taker: Takeover) -> None:
        """See ``Response``."""
        self._be_taken_by(taker)
        super().take_over(taker)

    def leave_to(self, taker: Takeover) -> None:
        """The app has the connection: what goes out is what it writes, and until it has written a
        status, the status is that of an answer which was none."""
        self._be_taken_by(taker)
        self.code = 502
        self.head_sent = self._has_body = True
        self.remaining = -1
        self.persistent = False

    def _be_taken_by(self, taker: Takeover) -> None:
        # the bytes of a tunnel count as those of content do
        self.content = cast(Content, taker)
        if self.mount is not None:
            self.timeout = self.mount.limits.tunnel_timeout_seconds

    def send_early_hints(self, headers: list[tuple[str, str]]) -> None:
        """See ``Response``. They are no part of an answer: ``timeout`` goes on as if they had not
        been sent, so that a server which sends nothing else is not waited for any longer."""
        before = self._sink.sent_bytes
        super().send_early_hints(headers)
        self.moved += self._sink.sent_bytes - before

    def look_at_content(self, content: Content, result: object) -> None:
        """Before ``result`` is sent: what the app has made of the request's content."""
        if content.fault is not None and self.code >= 500 and not self.head_sent:
            raise content.fault  # frameworks take the client's fault for one of their own
        if type(result) is list and not content.is_complete:
            # its head may take the shortest way, and it is there: nobody reads any more
            self.persistent &= content.settle() if content.store is None else content.drop()

    def _build_head(self, length: int | None) -> bytes:
        # not earlier: a generator may read content before its first piece. What a head says holds:
        # nginx would begin another request on a connection that is then closed.
        if self.content is not None:
            self.persistent &= self.content.settle()
        return super()._build_head(length)
