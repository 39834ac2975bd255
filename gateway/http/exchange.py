"""One request and its response: the walk from head to record, and its only ``except`` arms.

    head -> environ -> dispatch -> app -> response -> record

Source: PEP 3333, RFC 9112 §9, RFC 9110 §10.1.1 (100-continue).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Protocol, cast

from gateway.errors import ClientDisconnected, RequestEnded, RequestError
from gateway.http.body import (
    DROP_BYTES,
    READ_BYTES,
    ChunkedRequestContent,
    RequestContent,
    open_content,
)
from gateway.http.cookies import keep_first, scope_cookies
from gateway.http.deadlines import Passed, Progress, build_ending
from gateway.http.dispatch import LoadedMount
from gateway.http.environ import build_environ
from gateway.http.response import Response
from gateway.http.response_head import CheckedHead, read_head
from gateway.http.service import Service
from gateway.http.spool import MEMORY_BYTES, SpoolFullError, Store
from gateway.http.upgrade import Upgradable, asks_to_upgrade
from gateway.http.wire.wire import Wire
from gateway.limits import Limits
from gateway.logs import faults
from gateway.protocol.error_page import build_error_page
from gateway.protocol.framing import CHUNKED
from gateway.protocol.request import RequestHead
from gateway.uncaught import summarize
from gateway.wsgi import RAW_PATH_INFO, Environ, Fields, Takeover

# the status in a record if none was sent, as in nginx
CLIENT_CLOSED_REQUEST = 499
APP_FAILED = "500 Internal Server Error", "The app failed; its log has the cause."
RETRY_AFTER = ("Retry-After", "5")
# characters of a target in messages
_SHOWN_TARGET = 200


class Connected(Protocol):
    """The attributes of a connection that a request needs. ``slot`` is its slot in the memory of
    requests in flight; ``client_disconnected`` is passed to the app."""

    client_disconnected: Callable[[], bool] | None
    exchange: Exchange | None
    peer: str
    peer_port: str
    service: Service
    slot: int
    trusts_peer: bool
    wire: Wire


class Exchange(Response):
    """``run`` handles one request.

    ``timeout`` is the mount's, in seconds, 0 before it is known; ``moved`` the number of bytes
    received and sent at the last sweep. ``has_ended``: the sweep has ended it since the client has
    closed. ``refusal`` is why the request was refused. ``script_name`` is that of the app's
    environ, set once there is a mount. If all content was received with the head, its length is
    ``arrived_bytes``, and ``content`` is None.
    """

    __slots__ = (
        *("_connection", "arrived_bytes", "client", "content", "greenlet", "has_ended", "mount"),
        *("moved", "refusal", "request_id", "script_name", "started", "timeout"),
    )

    client: str
    greenlet: Any
    mount: LoadedMount | None
    request_id: str
    script_name: str
    started: float
    timeout: float

    __init__ = object.__init__  # ``run`` is called instead

    # --- in a greenlet: the walk --------------------------------------------------------------

    def run(
        self,
        connection: Connected,
        head: RequestHead,
        refusal: RequestError | None,
        persistent: bool,
        runner: Any,
        now: float,
    ) -> float:
        """Respond to ``head``, or with ``refusal`` if that is set, in the greenlet ``runner``.
        ``now`` is the monotonic start, the returned time the end; ``persistent``: another request
        may follow. Raises nothing."""
        service = connection.service
        self.begin(connection.wire, head, persistent, service.date_line)
        self._connection = connection
        self.refusal = refusal
        self.content: RequestContent | None = None
        self.mount = None
        self.arrived_bytes = self.moved = self.timeout = self.has_ended = 0
        self.client = self.request_id = ""
        self.greenlet = runner
        self.started = now
        fault = ""
        try:
            if refusal is not None:
                raise refusal
            self._walk(connection, service, head)
        except BaseException as error:  # noqa: BLE001  an app may raise anything, SystemExit too
            fault = self._answer_fault(error)
        content = self.content
        if content is not None and not content.is_complete:
            fault = self._drain(content, fault)
        return self.end(fault)

    def _answer_fault(self, error: BaseException) -> str:
        """Respond to an ``error`` of the walk. Returns the error for the access record."""
        fault = summarize(error)
        try:
            if isinstance(error, (RequestError, ClientDisconnected, RequestEnded)):
                fault = str(error)
                self.persistent = False
            if isinstance(error, RequestError):
                self.refusal = error
                self._answer(error.status, fault)
            elif isinstance(error, RequestEnded):
                self._answer(error.status, error.detail, *error.fields)
            elif not isinstance(error, ClientDisconnected):
                self._report(error)
                if not self.is_complete:
                    # before the head: a 500; after it the connection is cut, the only sign left
                    self.persistent &= not self.head_sent
                    traceback = self._connection.service.show_fault(error)
                    self._answer(*APP_FAILED, traceback=traceback)
        except BaseException as late:  # noqa: BLE001  see _break_off
            self._break_off(late)
        return fault

    def _drain(self, content: RequestContent, fault: str) -> str:
        """Read what the app left unread. Returns the error for the access record."""
        try:
            self.persistent = self.persistent and content.drain()
        except BaseException as late:  # noqa: BLE001  see _break_off
            self._break_off(late)
            return str(late) if isinstance(late, RequestEnded) else summarize(late)
        return fault

    def _break_off(self, error: BaseException) -> None:
        """The gateway's part of a request was interrupted: by a deadline, or by something that the
        app left running, such as a ``gevent.Timeout`` or a ``kill``."""
        self.persistent = False
        if isinstance(error, RequestEnded):
            self._answer(error.status, error.detail, *error.fields)
        else:
            self._report(error, ", raised by what the app has left running")
            self._answer(*APP_FAILED)

    def _walk(self, connection: Connected, service: Service, head: RequestHead) -> None:
        environ = build_environ(service.base_environ, head, connection.peer, connection.peer_port)
        stated = service.proxies.apply(head, environ) if connection.trusts_peer else ""
        client = self.client = environ["REMOTE_ADDR"]
        request_id = self.request_id = environ["gateway.request_id"]
        if not request_id:
            request_id = self.request_id = service.next_request_id()
            environ["gateway.request_id"] = request_id
        table = service.table
        found = table.find(stated, head.path) if stated else table.match(head.host, head.path)
        if found is None:
            self._answer_unmatched(head)
            return
        mount, environ["PATH_INFO"], environ[RAW_PATH_INFO] = found
        environ["SCRIPT_NAME"] = script_name = environ["SCRIPT_NAME"] + mount.script_name
        if mount.scopes_cookies and script_name and "HTTP_COOKIE" in environ:
            environ["HTTP_COOKIE"] = keep_first(environ["HTTP_COOKIE"])
        self.mount = mount
        self.script_name = script_name
        self.timeout = mount.timeout_seconds

        environ["wsgi.early_hints"] = self.send_early_hints
        environ["gateway.client_disconnected"] = connection.client_disconnected
        in_flight = service.in_flight
        in_flight.write(
            in_flight.memory,
            connection.slot,
            self.started,
            request_id.encode(),
            client.encode(),
            mount.place + head.line,
        )
        if head.content_length:
            self._begin_content(service, head, mount, environ)
        app = mount.app
        if "HTTP_UPGRADE" in head.fields and mount.kind == "app" and asks_to_upgrade(head):
            app = Upgradable(app, connection.wire, self)
        result = app(environ, self.start_response)
        try:
            if self.content is not None:
                self._look_at_content(self.content, result)
            self.send_result(result)
        finally:
            if type(result) is not list and hasattr(result, "close"):
                result.close()

    def _answer_unmatched(self, head: RequestHead) -> None:
        if head.content_length:
            self.persistent &= self._open_content(head, DROP_BYTES).drop()
        if head.path == "*":
            self.start_response("204 No Content", [])  # RFC 9110 §9.3.7: OPTIONS *
            self.finish()
        else:
            self._answer("404 Not Found", "Nothing is mounted here.")

    def _answer(
        self, status: str, detail: str, *fields: tuple[str, str], traceback: str = ""
    ) -> None:
        """Send an error page of the gateway, unless a head has been sent."""
        if self.head_sent:
            return
        if self.content is not None:
            self._drop_content(self.content)
        self.restart()
        service = self._connection.service
        self.request_id = self.request_id or service.next_request_id()
        page = build_error_page(status, detail, self.request_id, traceback)
        if traceback and self.is_for_get:
            page += service.end_page(self.script_name)
        try:
            self.start_response(
                status,
                [
                    ("Content-Type", "text/html; charset=utf-8"),
                    ("Cache-Control", "no-store"),
                    ("X-Request-ID", self.request_id),
                    *fields,
                ],
            )
            self.send_result([page])
        except (ClientDisconnected, RequestEnded):
            self.persistent = False

    def _report(self, error: BaseException, how: str = "") -> None:
        mount, request_id = self.mount.name if self.mount else "-", self.request_id
        # a log that cannot be written must not fail a request
        with suppress(Exception):
            faults.error(
                *("%s: %s%s (request %s)", mount, summarize(error), how, request_id),
                exc_info=error,
                extra={"mount": mount, "request_id": request_id},
            )

    def end(self, fault: str) -> float:
        """Log the request, unless it was given up. Returns the monotonic time. Does not wait."""
        now = monotonic()
        connection = self._connection
        if connection.exchange is not self:
            return now
        service = connection.service
        content, in_flight = self.content, service.in_flight
        if content is not None:
            content.release()
        in_flight.memory[connection.slot] = 0
        in_flight.requests += 1
        if self.code >= 500:
            in_flight.failures += 1
        log = service.access_log
        if log.is_on:
            sent_bytes = connection.wire.sent_bytes
            has_answered = self.head_sent and sent_bytes
            log.record(
                (
                    self.request_id or service.next_request_id(),
                    self.client or connection.peer,
                    self.mount.name if self.mount else "",
                    self._request,
                    self.code if has_answered else CLIENT_CLOSED_REQUEST,
                    content.received_bytes if content is not None else self.arrived_bytes,
                    sent_bytes,
                    self.started,
                    now,
                    fault,
                )
            )
        return now

    # --- in a greenlet: content ---------------------------------------------------------------

    def _begin_content(
        self, service: Service, head: RequestHead, mount: LoadedMount, environ: Environ
    ) -> None:
        """Set ``wsgi.input``, and read what must be taken in before the app is called.

        Raises RequestError, ClientDisconnected and RequestEnded. May switch greenlets.
        """
        wire = self._connection.wire
        length, most = head.content_length, mount.limits.max_body_bytes
        is_here = 0 < length <= len(wire.unread) and length <= most
        if is_here and mount.buffers_content and mount.reads_content:
            # the fast path, for most forms
            environ.pop("HTTP_TRAILER", None)
            environ["wsgi.input"] = io.BytesIO(wire.unread[:length])
            wire.unread = wire.unread[length:]
            self.arrived_bytes = length
            return
        is_taken_in = mount.buffers_content and (length <= MEMORY_BYTES or mount.takes_in_all)
        if is_taken_in:
            most = min(most, max(MEMORY_BYTES, service.limits.max_spooled_bytes))
        # removed here (RFC 9112 §7): some apps would decode the content again
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        environ.pop("HTTP_TRAILER", None)
        content = self._open_content(head, most)
        if content.fault is not None:
            raise content.fault
        if not mount.reads_content:
            self.persistent &= content.drop()
        elif is_taken_in:
            try:
                environ["wsgi.input"] = content.take_in(Store(service.spool))
            except SpoolFullError as error:
                detail = "Too much content waits here. Try again in a few seconds."
                status = "503 Service Unavailable"
                raise RequestEnded(str(error), status, detail, RETRY_AFTER) from None
            if length == CHUNKED:
                environ["CONTENT_LENGTH"] = str(content.received_bytes)
        else:
            # a generator may read until its first piece: only then ``_build_head`` decides
            head.takes_simple_head = False
            content.store = Store(service.spool) if mount.buffers_content else None
            environ["wsgi.input"] = io.BufferedReader(content, READ_BYTES)

    def _drop_content(self, content: RequestContent) -> None:
        """Read and drop the content, so that the client gets the gateway's response."""
        try:
            self.persistent &= content.drop()
        except RequestEnded:
            self.persistent = False

    def _open_content(self, head: RequestHead, max_bytes: int) -> RequestContent:
        wire = self._connection.wire

        def send_continue() -> None:
            # RFC 9110 §10.1.1: not once the response or the content has begun
            if not self.head_sent and not wire.unread:
                wire.send(b"HTTP/1.1 100 Continue\r\n\r\n")

        def on_complete() -> None:
            # further input is the next request, or the end of the connection
            content.on_complete = None  # it refers to the content
            if isinstance(content, ChunkedRequestContent):
                wire.unread = content.take_rest() + wire.unread
            if not wire.has_ended:
                wire.watch(True)

        length = head.content_length
        announce = send_continue if head.expects_continue else None
        content = self.content = open_content(wire, length, max_bytes, announce)
        if length == CHUNKED or length > len(wire.unread):
            wire.watch(False)  # bytes stay in the kernel until the app asks for them
            # not a bound method: the app has the content, and could reach the connection
            content.on_complete = on_complete
        return content

    def _look_at_content(self, content: RequestContent, result: object) -> None:
        """Handle unread or faulty content before ``result`` is sent."""
        if content.fault is not None and self.code >= 500 and not self.head_sent:
            raise content.fault  # frameworks turn the client's error into a 500
        if type(result) is list and not content.is_complete:
            # its head may use the fast path, and the app no longer reads
            self.persistent &= content.settle() if content.store is None else content.drop()

    # --- in the hub ---------------------------------------------------------------------------

    @property
    def wants_input(self) -> bool:
        """Whether further input is not content of this request."""
        return self.content is None or self.content.is_complete

    @property
    def has_read_all(self) -> bool:
        """Whether the request has been read completely, as far as is known."""
        if self.refusal is not None:
            return False
        content, arrived = self.content, self.arrived_bytes
        return content.is_complete if content else self._request.content_length == arrived

    def measure(self, now: float, limits: Limits) -> Progress:
        """The progress since the last call."""
        content = self.content
        before = self.moved
        self.moved = self._sink.sent_bytes + (content.received_bytes if content else 0)
        is_slow = content is not None and content.is_too_slow(now, limits.body_timeout_seconds)
        return Progress(self.timeout, self.moved != before, is_slow, self._has_left)

    def _has_left(self) -> bool:
        """Whether it is a stream whose client has closed. A client that has closed only its side
        may still read (RFC 9112 §9.6), and gets the response."""
        is_stream = self.head_sent and not self.has_ended and not self.is_complete
        wire = self._connection.wire
        return is_stream and (wire.has_ended or wire.has_hung_up())

    def end_late(self, passed: Passed) -> None:
        """End the request, whose deadline has ``passed``."""
        self.has_ended |= passed is Passed.LEFT
        self.greenlet.throw(build_ending(passed, self.timeout))

    def cut(self) -> None:
        """End the request: the gateway is stopping, and drain_timeout has passed."""
        if self.content is not None:
            self.content.is_lost = True  # no time to read it
        fault, detail = "cut: drain_timeout has passed", "The gateway is being restarted."
        self.greenlet.throw(RequestEnded(fault, "503 Service Unavailable", detail))

    def describe(self) -> str:
        """Method and target, for a log."""
        return f"{self._request.method} {self._request.target[:_SHOWN_TARGET]}"

    # --- hooks of the response ----------------------------------------------------------------

    def _read_head(self, key: tuple[str, Fields]) -> CheckedHead:
        # heads in the cache have no cookies
        known, mount = read_head(key), self.mount
        if mount is None or not mount.scopes_cookies or "\r\nset-cookie:" not in known[0].lower():
            return known
        return read_head((key[0], scope_cookies(key[1], self.script_name)))

    def _be_taken_by(self, taker: Takeover) -> None:
        # bytes of a tunnel count like those of content
        self.content = cast(RequestContent, taker)
        if self.mount is not None:
            self.timeout = self.mount.limits.tunnel_timeout_seconds

    def send_early_hints(self, headers: list[tuple[str, str]]) -> None:
        """See ``Response``. They do not count as progress for ``timeout``: a server that sends
        nothing else must time out."""
        before = self._sink.sent_bytes
        super().send_early_hints(headers)
        self.moved += self._sink.sent_bytes - before

    def _build_head(self, length: int | None) -> bytes:
        # not earlier: a generator may read content before its first piece. Not later: nginx may
        # send another request on a connection unless the head says close.
        if self.content is not None:
            self.persistent &= self.content.settle()
        return super()._build_head(length)
