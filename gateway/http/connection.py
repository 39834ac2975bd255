"""One client connection: a request's walk, keep-alive, deadlines, and the only ``except`` arms.

    socket -> parser -> environ -> dispatch -> app -> response -> socket

Refuses to know YAML and import strings. Source: RFC 9112 §9 (connections), RFC 9110 §10.1.1
(100-continue), PEP 3333. An idle connection is this object and an io watcher on the hub; a whole
head is answered in a greenlet at the end of the turn that brought it.
"""

from __future__ import annotations

import io
from functools import partial
from socket import SHUT_WR
from time import monotonic
from traceback import format_exception_only
from typing import Any, cast

from greenlet import getcurrent

from gateway.dispatch import Mount
from gateway.errors import (
    ClientDisconnected,
    RequestError,
    RequestTimeout,
)
from gateway.http.body import DRAIN_BYTES, READ_BYTES, ChunkedContent, Content, drain, open_content
from gateway.http.environ import build_environ
from gateway.http.incoming import Incoming
from gateway.http.parser import CHUNKED, RequestHead
from gateway.http.response import Response, build_error_page
from gateway.http.service import Service
from gateway.http.stream import IDLE, State
from gateway.limits import Limits
from gateway.logs import faults
from gateway.wsgi import Takeover

LINGER_SECONDS = 2.0
# the status of a record where none was sent; nginx's own number
CLIENT_CLOSED_REQUEST = 499


class RequestEnded(BaseException):
    """A request that may not go on, answered with ``status``. Like ``gevent.Timeout`` no Exception,
    so that an app's ``except Exception`` lets it through while its ``finally`` runs."""

    def __init__(self, fault: str, status: str, detail: str, *fields: tuple[str, str]) -> None:
        super().__init__(fault)
        self.status = status
        self.detail = detail
        self.fields = fields


class Exchange(Response):
    """One request and its response, with what only this connection wants to know of them.

    ``timeout`` is the mount's, in seconds, 0 before it is known; ``moved`` is how many bytes had
    moved when the sweep last looked.
    """

    client = ""
    content: Content | None = None
    greenlet: Any = None
    mount: Mount | None = None
    moved = 0
    request_id = ""
    started = 0.0
    timeout = 0.0

    def take_over(self, taker: Takeover) -> None:
        """See ``Response``. The bytes of a tunnel count as those of content do."""
        self.content = cast(Content, taker)
        self.timeout = taker.timeout_seconds
        super().take_over(taker)


class Connection(Incoming):
    """``run`` is the walk of one request, in a greenlet; all else happens in the hub."""

    __slots__ = ("_exchange", "_requests_left", "_slot")

    def __init__(self, service: Service, client_socket: Any, peer: str, peer_port: str) -> None:
        super().__init__(service, client_socket, peer, peer_port)
        self._requests_left = service.limits.max_requests_per_connection
        self._exchange: Exchange | None = None
        self._slot = service.in_flight.take()
        service.connections.add(self)

    # --- in the hub: deadlines ----------------------------------------------------------------

    def sweep(self, now: float, limits: Limits) -> None:
        """End what has waited too long. The walk pays for no timer of its own."""
        state, waited = self.state, now - self.since
        if state is IDLE:
            if waited > limits.keep_alive_seconds:
                self.close()
        elif state is State.HEAD:
            if waited > limits.head_timeout_seconds:
                self._refuse(RequestTimeout("the head was not complete in time"), self._buffer)
        elif state is State.LINGERING:
            if waited > LINGER_SECONDS:
                self.close()
        elif self._exchange is not None:
            self._watch_while_running()
            self._sweep_exchange(self._exchange, now, waited, limits)

    def _sweep_exchange(
        self, exchange: Exchange, now: float, waited: float, limits: Limits
    ) -> None:
        ending: BaseException | None = None
        if self.state is State.READING:
            if waited > limits.body_timeout_seconds:
                ending = RequestTimeout("no content came in time")
        elif self.state is State.WRITING:
            if waited > limits.send_timeout_seconds:
                ending = ClientDisconnected("the client left its response unread")
        else:
            content = exchange.content
            moved = self.sent_bytes + (content.received_bytes if content else 0)
            if moved != exchange.moved:
                exchange.moved = moved
                self.since = now
            elif exchange.timeout and waited > exchange.timeout:
                fault = f"no byte moved for {exchange.timeout:g} s"
                detail = "The app took too long to answer."
                ending = RequestEnded(fault, "504 Gateway Timeout", detail)
        if ending is not None:
            # from now: what the app's finally blocks do gets as long again
            self.since = now
            exchange.greenlet.throw(ending)

    def cut_overdue(self, latest: float) -> bool:
        """Cut a request in flight that began before ``latest`` (monotonic); whether it did."""
        is_overdue = self._exchange is not None and self._exchange.started < latest
        if is_overdue:
            self.cut()
        return is_overdue

    def cut(self) -> None:
        """End a request in flight: the gateway stops and has waited for it long enough."""
        if self._exchange is not None:
            detail = "The gateway is being restarted."
            fault = "cut: drain_timeout has passed"
            ending = RequestEnded(fault, "503 Service Unavailable", detail)
            self._exchange.greenlet.throw(ending)

    # --- in a greenlet: the walk --------------------------------------------------------------

    def run(self) -> None:
        """Answer one request. Nothing leaves here but bytes and an access record."""
        service = self._service
        head = self._head
        self._requests_left -= 1
        response = self._exchange = Exchange(
            self,
            head,
            head.persistent and not service.is_draining and self._requests_left > 0,
            service.date_line,
        )
        response.greenlet = getcurrent()
        response.started = self.since = monotonic()
        fault = ""
        try:
            if self._refusal is not None:
                raise self._refusal
            self._walk(service, head, response)
        except RequestError as error:
            self._refusal = error
            fault = str(error)
            response.persistent = False
            self._answer(response, error.status, fault)
        except ClientDisconnected as error:
            fault = str(error)
            response.persistent = False
        except RequestEnded as error:
            fault = str(error)
            response.persistent = False
            self._answer(response, error.status, error.detail, *error.fields)
        except BaseException as error:  # noqa: BLE001  an app may raise anything, SystemExit too
            fault = _explain(error)
            self._report(response, error)
            if not response.is_complete:
                # before the head: a whole 500; after it: the cut connection is the only sign left
                response.persistent &= not response.head_sent
                self._answer(
                    response,
                    "500 Internal Server Error",
                    "The app failed; its log tells why.",
                    traceback=service.tell_fault(error),
                )
        self._end(service, head, response, fault)

    def _walk(self, service: Service, head: RequestHead, response: Exchange) -> None:
        environ = build_environ(service.base_environ, head, self._peer, self._peer_port)
        if self._trusts_peer:
            service.proxies.apply(head, environ)
            response.client = environ["REMOTE_ADDR"]
            response.request_id = service.proxies.request_id(head)
        if not response.request_id:
            response.request_id = service.next_request_id()
        environ["gateway.request_id"] = response.request_id

        found = service.table.match(head.host, head.path)
        if found is None:
            self._answer_unmatched(head, response)
            return
        mount, environ["PATH_INFO"] = found
        response.mount = mount
        response.timeout = mount.limits.timeout_seconds
        environ["SCRIPT_NAME"] += mount.script_name

        if head.content_length:
            content = self._open_content(head, mount.limits.max_body_bytes, response)
            environ["wsgi.input"] = io.BufferedReader(content, READ_BYTES)
        environ["wsgi.early_hints"] = response.send_early_hints
        environ["gateway.client_disconnected"] = self.client_disconnected
        in_flight = service.in_flight
        in_flight.write(
            in_flight.memory,
            self._slot,
            response.started,
            f"{response.request_id}\n{response.client or self._peer}\n{mount.name}".encode(),
            head.line,
        )
        result = mount.app(environ, response.start_response)
        try:
            if response.content is not None:
                self._look_at_content(response.content, response)
            response.send_result(result)
        finally:
            if hasattr(result, "close"):
                result.close()

    def _look_at_content(self, content: Content, response: Exchange) -> None:
        """Before the response: what the app has made of the request's content."""
        if content.fault is not None and response.code >= 500 and not response.head_sent:
            raise content.fault  # frameworks take the client's fault for one of their own
        if not content.is_complete:
            # said in the head, so that nginx does not begin another request here
            response.persistent &= content.is_worth_draining

    def _answer_unmatched(self, head: RequestHead, response: Exchange) -> None:
        if head.content_length:
            content = self._open_content(head, DRAIN_BYTES, response)
            response.persistent &= content.is_worth_draining
        if head.path == "*":
            response.start_response("204 No Content", [])  # RFC 9110 §9.3.7: OPTIONS *
            response.finish()
        else:
            self._answer(response, "404 Not Found", "Nothing is mounted here.")

    def client_disconnected(self) -> bool:
        """``gateway.client_disconnected``: whether the client has closed (at least its side)."""
        return self.has_ended

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
        response.restart()
        response.request_id = response.request_id or self._service.next_request_id()
        page = build_error_page(status, detail, response.request_id, traceback)
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

    def _report(self, response: Exchange, error: BaseException) -> None:
        mount, request_id = response.mount.name if response.mount else "-", response.request_id
        faults.error(
            *("%s: %s (request %s)", mount, _explain(error), request_id),
            exc_info=error,
            extra={"mount": mount, "request_id": request_id},
        )

    def _end(self, service: Service, head: RequestHead, response: Exchange, fault: str) -> None:
        """Make ready for the next request, or close; then write the record."""
        content = response.content
        if content is not None and not content.is_complete:
            try:
                response.persistent = response.persistent and drain(content)
            except RequestEnded as error:
                response.persistent, fault = False, str(error)
        in_flight = service.in_flight
        in_flight.memory[self._slot] = 0
        in_flight.requests += 1
        if response.code >= 500:
            in_flight.failures += 1
        if service.access_log.is_on:
            self._record(head, response, fault)
        self._exchange = self._head = None
        self.sent_bytes = 0
        if response.persistent and (self._buffer or not self.has_ended):
            self.state = IDLE
            self.since = monotonic()
            if not self._is_watching and not self.has_ended:
                self._watch(True)
            if self._buffer:
                self._advance(self._buffer)
        elif self.has_ended or self._has_read_all(head, content):
            self.close()
        else:
            self._linger()

    def _has_read_all(self, head: RequestHead, content: Content | None) -> bool:
        """Whether a close leaves no input unread, which would reset the connection."""
        is_complete = content.is_complete if content else not head.content_length
        if not is_complete or self._buffer or self._refusal is not None:
            return False
        return not self.has_input()

    def _record(self, head: RequestHead, response: Exchange, fault: str) -> None:
        fields = head.fields
        self._service.access_log.record(
            request_id=response.request_id or self._service.next_request_id(),
            mount=response.mount.name if response.mount else "",
            client=response.client or self._peer,
            method=head.method,
            target=head.target,
            protocol="HTTP/1.1" if head.is_http11 else "HTTP/1.0",
            status=response.code
            if response.head_sent and self.sent_bytes
            else CLIENT_CLOSED_REQUEST,
            bytes_in=response.content.received_bytes if response.content else 0,
            bytes_out=self.sent_bytes,
            duration_ms=(monotonic() - response.started) * 1000,
            host=head.host,
            referer=fields.get("HTTP_REFERER", ""),
            user_agent=fields.get("HTTP_USER_AGENT", ""),
            error=fault,
        )

    # --- in a greenlet: content ---------------------------------------------------------------

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
            content.on_complete = partial(self._on_complete_content, content)
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

    # --- the end ------------------------------------------------------------------------------

    def _linger(self) -> None:
        """Let the client read the last response before the close: a close with unread input would
        reset the connection and destroy it (RFC 9112 §9.6)."""
        try:
            self._socket.shutdown(SHUT_WR)
        except OSError:
            self.close()
            return
        self.state = State.LINGERING
        self.since = monotonic()
        self._buffer = b""
        self._watch(True)

    def close(self) -> None:
        """Give the socket back; safe to call twice."""
        if self.state is State.CLOSED:
            return
        self._shut()
        self._service.connections.discard(self)
        self._service.in_flight.give_back(self._slot)
        if self._service.on_close is not None:
            self._service.on_close()


def _explain(error: BaseException) -> str:
    """One line for a fault; an exception may fail to print itself."""
    line = format_exception_only(type(error), error)[-1].strip()
    return line.removeprefix(f"{type(error).__module__}.")
