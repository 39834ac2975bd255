"""One client connection: a request's walk, keep-alive, deadlines, and the only ``except`` arms.

    socket -> parser -> environ -> dispatch -> app -> response -> socket

Refuses to know YAML and import strings. Source: RFC 9112 §9 (connections), RFC 9110 §10.1.1
(100-continue), PEP 3333. An idle connection is this object and an io watcher on the hub; a whole
head is answered in a greenlet at the end of the turn that brought it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import monotonic
from typing import Any

from gateway.errors import ClientDisconnected, RequestError
from gateway.http.body import DROP_BYTES, READ_BYTES, ChunkedContent, Content, open_content
from gateway.http.cookies import keep_first
from gateway.http.deadlines import Deadlines
from gateway.http.dispatch import LoadedMount
from gateway.http.environ import build_environ
from gateway.http.exchange import Exchange, RequestEnded
from gateway.http.service import Service
from gateway.http.spool import MEMORY_BYTES, SpoolFullError, Store
from gateway.http.upgrade import Upgradable, asks_to_upgrade
from gateway.http.wire.stream import IDLE
from gateway.logs import faults
from gateway.protocol.error_page import build_error_page
from gateway.protocol.framing import CHUNKED
from gateway.protocol.request import RequestHead
from gateway.uncaught import report_own, summarize
from gateway.wsgi import RAW_PATH_INFO, Environ

# the status of a record where none was sent; nginx's own number
CLIENT_CLOSED_REQUEST = 499
APP_FAILED = "500 Internal Server Error", "The app failed; its log tells why."
RETRY_AFTER = ("Retry-After", "5")


class Connection(Deadlines):
    """``run`` is the walk of one request, in a greenlet; all else happens in the hub."""

    __slots__ = ("_client_disconnected",)

    def __init__(self, service: Service, client_socket: Any, peer: str, peer_port: str) -> None:
        Deadlines.__init__(self, service, client_socket, peer, peer_port)
        # what apps are given: a plain function, since a bound method leads to this connection; one
        # for all its requests, and a reference cycle until ``close``
        self._client_disconnected: Callable[[], bool] | None = lambda: self._has_left()
        service.connections.add(self)

    # --- in a greenlet: the walk --------------------------------------------------------------

    def run(self, runner: Any, now: float) -> float:
        """Answer one request. Nothing leaves here but bytes and an access record."""
        service = self._service
        head = self._head
        response = self._exchange = Exchange()
        response.begin(
            self,
            head,
            head.persistent and service.keeps_connections and not service.is_draining,
            service.date_line,
        )
        response.content = response.mount = None
        response.arrived_bytes = response.moved = response.timeout = response.has_ended = 0
        response.client = response.request_id = ""
        response.greenlet = runner
        response.started = self.since = now
        fault = ""
        try:
            if self._refusal is not None:
                raise self._refusal
            self._walk(service, head, response)
        except BaseException as error:  # noqa: BLE001  an app may raise anything, SystemExit too
            fault = self._answer_fault(response, error)
        content = response.content
        if content is not None and not content.is_complete:
            fault = self._drain(response, content, fault)
        return self._end(service, head, response, fault)

    def _answer_fault(self, response: Exchange, error: BaseException) -> str:
        """Answer for a walk that has ended by ``error``. Returns the record's fault."""
        fault = summarize(error)
        try:
            if isinstance(error, RequestError):
                self._refusal = error
                fault = str(error)
                response.persistent = False
                self._answer(response, error.status, fault)
            elif isinstance(error, ClientDisconnected):
                fault = str(error)
                response.persistent = False
            elif isinstance(error, RequestEnded):
                fault = str(error)
                response.persistent = False
                self._answer(response, error.status, error.detail, *error.fields)
            else:
                self._report(response, error)
                if not response.is_complete:
                    # before the head: a whole 500; after it: the cut connection is the only sign
                    response.persistent &= not response.head_sent
                    traceback = self._service.tell_fault(error)
                    self._answer(response, *APP_FAILED, traceback=traceback)
        except BaseException as late:  # noqa: BLE001  see _break_off
            self._break_off(response, late)
        return fault

    def _drain(self, response: Exchange, content: Content, fault: str) -> str:
        """Take what the app left of the request's content. Returns the record's fault."""
        try:
            response.persistent = response.persistent and content.drain()
        except BaseException as late:  # noqa: BLE001  see _break_off
            self._break_off(response, late)
            return str(late) if isinstance(late, RequestEnded) else summarize(late)
        return fault

    def _break_off(self, response: Exchange, error: BaseException) -> None:
        """The gateway's own part of a request was hit: by a deadline, or by what the app has left
        running, such as a ``gevent.Timeout`` or a ``kill``."""
        response.persistent = False
        if isinstance(error, RequestEnded):
            self._answer(response, error.status, error.detail, *error.fields)
        else:
            self._report(response, error, ", raised by what the app has left running")
            self._answer(response, *APP_FAILED)

    def abandon(self, error: BaseException) -> float:
        """``run`` was left all the same, or a sweep: close and record, without a wait in which it
        could happen again. Returns the moment."""
        exchange = self._exchange
        try:
            report_own("a request was given up", error)
            if exchange is not None:
                exchange.persistent = False
                self._end(self._service, self._head, exchange, summarize(error))
        except BaseException as again:  # noqa: BLE001  others wait for who has called this
            report_own("a request that was given up has no record", again)
        finally:
            self._exchange = None
            self.close()
        return monotonic()

    def _walk(self, service: Service, head: RequestHead, response: Exchange) -> None:
        environ = build_environ(service.base_environ, head, self._peer, self._peer_port)
        stated = service.proxies.apply(head, environ) if self._trusts_peer else ""
        client = response.client = environ["REMOTE_ADDR"]
        request_id = response.request_id = environ["gateway.request_id"]
        if not request_id:
            request_id = response.request_id = service.next_request_id()
            environ["gateway.request_id"] = request_id
        table = service.table
        found = table.find(stated, head.path) if stated else table.match(head.host, head.path)
        if found is None:
            self._answer_unmatched(head, response)
            return
        mount, environ["PATH_INFO"], environ[RAW_PATH_INFO] = found
        environ["SCRIPT_NAME"] = script_name = environ["SCRIPT_NAME"] + mount.script_name
        if mount.scopes_cookies and script_name and "HTTP_COOKIE" in environ:
            environ["HTTP_COOKIE"] = keep_first(environ["HTTP_COOKIE"])
        response.mount = mount
        response.script_name = script_name
        response.timeout = mount.timeout_seconds

        environ["wsgi.early_hints"] = response.send_early_hints
        environ["gateway.client_disconnected"] = self._client_disconnected
        in_flight = service.in_flight
        in_flight.write(
            in_flight.memory,
            self._slot,
            response.started,
            request_id.encode(),
            client.encode(),
            mount.place + head.line,
        )
        if head.content_length:
            self._begin_content(service, head, mount, environ, response)
        app = mount.app
        if "HTTP_UPGRADE" in head.fields and mount.kind == "app" and asks_to_upgrade(head):
            app = Upgradable(app, self, response)
        result = app(environ, response.start_response)
        try:
            if response.content is not None:
                response.look_at_content(response.content, result)
            response.send_result(result)
        finally:
            if type(result) is not list and hasattr(result, "close"):
                result.close()

    def _answer_unmatched(self, head: RequestHead, response: Exchange) -> None:
        if head.content_length:
            response.persistent &= self._open_content(head, DROP_BYTES, response).drop()
        if head.path == "*":
            response.start_response("204 No Content", [])  # RFC 9110 §9.3.7: OPTIONS *
            response.finish()
        else:
            self._answer(response, "404 Not Found", "Nothing is mounted here.")

    def _has_left(self) -> bool:
        """Whether the client has closed (at least its side)."""
        if self.has_ended or self._is_watching or not self._wants_input():
            return self.has_ended
        return self.has_hung_up()

    def close(self) -> None:
        """See ``Deadlines``."""
        self._client_disconnected = None
        super().close()

    def _answer(
        self,
        response: Exchange,
        status: str,
        detail: str,
        *fields: tuple[str, str],
        traceback: str = "",
    ) -> None:
        """Answer in the gateway's own name, where no head has gone out."""
        if response.head_sent:
            return
        if response.content is not None:
            self._drop_content(response, response.content)
        response.restart()
        response.request_id = response.request_id or self._service.next_request_id()
        page = build_error_page(status, detail, response.request_id, traceback)
        if traceback and response.is_for_get:
            page += self._service.end_page(response.script_name)
        try:
            response.start_response(
                status,
                [
                    ("Content-Type", "text/html; charset=utf-8"),
                    ("Cache-Control", "no-store"),
                    ("X-Request-ID", response.request_id),
                    *fields,
                ],
            )
            response.send_result([page])
        except (ClientDisconnected, RequestEnded):
            response.persistent = False

    def _report(self, response: Exchange, error: BaseException, how: str = "") -> None:
        mount, request_id = response.mount.name if response.mount else "-", response.request_id
        # an error log that cannot be written costs nobody an answer
        with suppress(Exception):
            faults.error(
                *("%s: %s%s (request %s)", mount, summarize(error), how, request_id),
                exc_info=error,
                extra={"mount": mount, "request_id": request_id},
            )

    def _end(self, service: Service, head: RequestHead, response: Exchange, fault: str) -> float:
        """Keep the record, then make ready for the next request, or close. Returns the moment.

        Nothing here waits, so nothing that an app has left running can come in between.
        """
        if self._exchange is not response:
            return monotonic()  # it was given up
        now = monotonic()
        content, in_flight = response.content, service.in_flight
        if content is not None:
            content.release()
        in_flight.memory[self._slot] = 0
        in_flight.requests += 1
        if response.code >= 500:
            in_flight.failures += 1
        log = service.access_log
        if log.is_on:
            has_answered = response.head_sent and self.sent_bytes
            log.record(
                (
                    response.request_id or service.next_request_id(),
                    response.client or self._peer,
                    response.mount.name if response.mount else "",
                    head,
                    response.code if has_answered else CLIENT_CLOSED_REQUEST,
                    content.received_bytes if content is not None else response.arrived_bytes,
                    self.sent_bytes,
                    response.started,
                    now,
                    fault,
                )
            )
        self._exchange = self._head = None
        self.sent_bytes = 0
        if response.persistent and (self._buffer or not self.has_ended):
            self.state = IDLE
            self.since = now
            if not self._is_watching and not self.has_ended:
                self._watch(True)
            if self._buffer:
                self._advance(self._buffer)
        elif response.is_cut:
            self.set_to_reset()
            self.close()
        elif self.has_ended or self._has_read_all(head, response):
            self.close()
        else:
            self._linger()
        return now

    def _has_read_all(self, head: RequestHead, response: Exchange) -> bool:
        """Whether a close leaves no input unread, which would reset the connection."""
        content, arrived = response.content, response.arrived_bytes
        is_complete = content.is_complete if content else head.content_length == arrived
        if not is_complete or self._buffer or self._refusal is not None:
            return False
        return not self.has_input()

    # --- in a greenlet: content ---------------------------------------------------------------

    def _begin_content(
        self,
        service: Service,
        head: RequestHead,
        mount: LoadedMount,
        environ: Environ,
        response: Exchange,
    ) -> None:
        """``wsgi.input``, with what is to be taken in before the app is called.

        Raises RequestError, ClientDisconnected and RequestEnded. May switch greenlets.
        """
        length, most = head.content_length, mount.limits.max_body_bytes
        is_here = 0 < length <= len(self._buffer) and length <= most
        if is_here and mount.buffers_content and mount.reads_content:
            # the shortest way, for most forms
            environ.pop("HTTP_TRAILER", None)
            environ["wsgi.input"] = io.BytesIO(self._buffer[:length])
            self._buffer = self._buffer[length:]
            response.arrived_bytes = length
            return
        is_taken_in = mount.buffers_content and (length <= MEMORY_BYTES or mount.takes_in_all)
        if is_taken_in:
            most = min(most, max(MEMORY_BYTES, service.limits.max_spooled_bytes))
        # taken off here (RFC 9112 §7): some apps would decode the content once more
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        environ.pop("HTTP_TRAILER", None)
        content = self._open_content(head, most, response)
        if content.fault is not None:
            raise content.fault
        if not mount.reads_content:
            response.persistent &= content.drop()
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
            content.store = Store(service.spool) if mount.buffers_content else None
            environ["wsgi.input"] = io.BufferedReader(content, READ_BYTES)

    def _drop_content(self, response: Exchange, content: Content) -> None:
        """What the gateway answers itself is not lost behind content that nobody reads."""
        try:
            response.persistent &= content.drop()
        except RequestEnded:
            response.persistent = False

    def _open_content(self, head: RequestHead, max_bytes: int, response: Exchange) -> Content:
        def send_continue() -> None:
            # RFC 9110 §10.1.1: not once the response or the content has begun
            if not response.head_sent and not self._buffer:
                self.send(b"HTTP/1.1 100 Continue\r\n\r\n")

        length = head.content_length
        announce = send_continue if head.expects_continue else None
        content = response.content = open_content(self, length, max_bytes, announce)
        if length == CHUNKED or length > len(self._buffer):
            self._watch(False)  # bytes stay in the kernel until the app asks for them
            # the app has the content: no bound method, which leads to this connection
            content.on_complete = lambda: self._on_complete_content(content)
        return content

    def _on_complete_content(self, content: Content) -> None:
        """From now on input tells that the client leaves, or what it asks next."""
        content.on_complete = None  # it refers to the content
        if isinstance(content, ChunkedContent):
            self._buffer = content.take_rest() + self._buffer
        if not self.has_ended:
            self._watch(True)

    def _wants_input(self) -> bool:
        content = self._exchange.content if self._exchange else None
        return content is None or content.is_complete


def find_request(connections: Iterable[Connection], runner: Any) -> tuple[str, str]:
    """Mount and id of the request that runs in the greenlet ``runner``; "" and "" for none."""
    for connection in connections:
        exchange = connection._exchange
        if exchange is not None and exchange.greenlet is runner and exchange.mount is not None:
            return exchange.mount.name, exchange.request_id
    return "", ""
