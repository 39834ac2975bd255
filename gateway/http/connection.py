"""One client connection: a request's walk, keep-alive, deadlines, and the only ``except`` arms.

    socket -> parser -> environ -> dispatch -> app -> response -> socket

Refuses to know YAML and import strings. Source: RFC 9112 §9 (connections), RFC 9110 §10.1.1
(100-continue), PEP 3333. An idle connection is this object and an io watcher on the hub; a greenlet
is taken when a whole head is there, and given back with the last byte of the response.
"""

import io
from socket import MSG_PEEK, SHUT_WR
from time import monotonic
from traceback import format_exception_only
from typing import Any

from gevent import get_hub
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
from gateway.http.stream import IDLE, RUNNING, State
from gateway.limits import Limits
from gateway.logs import faults

LINGER_SECONDS = 2.0
# the status of a record where none was sent; nginx's own number
CLIENT_CLOSED_REQUEST = 499


class RequestEnded(BaseException):
    """A request that may not go on, answered with ``status``. Like ``gevent.Timeout`` no Exception,
    so that an app's ``except Exception`` lets it through while its ``finally`` runs."""

    def __init__(self, fault: str, status: str, detail: str) -> None:
        super().__init__(fault)
        self.status = status
        self.detail = detail


class Connection(Incoming):
    """``run`` is the walk of one request, in a greenlet; all else happens in the hub.

    ``moved`` is how many bytes had moved when the sweep last looked; ``timeout`` the mount's, in
    seconds, 0 before it is known.
    """

    __slots__ = (
        "_client",
        "_greenlet",
        "_mount",
        "_request_id",
        "_requests_left",
        "_started",
        "moved",
        "timeout",
    )

    _greenlet: Any
    _mount: Mount | None
    moved: int
    timeout: float

    def __init__(self, service: Service, client_socket: Any, peer: str, peer_port: str) -> None:
        super().__init__(service, client_socket, peer, peer_port)
        self._requests_left = service.limits.max_requests_per_connection
        self._begin_anew()
        service.connections.add(self)

    # --- in the hub: deadlines ----------------------------------------------------------------

    def sweep(self, now: float, limits: Limits) -> None:
        """End what has waited too long. The walk pays for no timer of its own."""
        state, waited = self.state, now - self.since
        if state is IDLE:
            if waited > limits.keep_alive_seconds:
                self.close()
        elif state is RUNNING:
            self._sweep_running(now, waited)
        elif state is State.READING:
            if waited > limits.body_timeout_seconds:
                self.since = now
                self._greenlet.throw(RequestTimeout("no content came in time"))
        elif state is State.WRITING:
            if waited > limits.send_timeout_seconds:
                self.since = now
                self._greenlet.throw(ClientDisconnected("the client left its response unread"))
        elif state is State.HEAD:
            if waited > limits.head_timeout_seconds:
                self._refuse(RequestTimeout("the head was not complete in time"), self._buffer)
        elif state is State.LINGERING and waited > LINGER_SECONDS:
            self.close()

    def _sweep_running(self, now: float, waited: float) -> None:
        moved = self.sent_bytes + (self._content.received_bytes if self._content else 0)
        if moved != self.moved:
            self.moved = moved
            self.since = now
        elif self.timeout and waited > self.timeout:
            # from now: what the app's finally blocks do gets as long again
            self.since = now
            fault = f"no byte moved for {self.timeout:g} s"
            detail = "The app took too long to answer."
            self._greenlet.throw(RequestEnded(fault, "504 Gateway Timeout", detail))

    def cut(self) -> None:
        """End a request in flight: the gateway stops and has waited for it long enough."""
        if self._greenlet is not None:
            detail = "The gateway is being restarted."
            fault = "cut: drain_timeout has passed"
            self._greenlet.throw(RequestEnded(fault, "503 Service Unavailable", detail))

    # --- in a greenlet: the walk --------------------------------------------------------------

    def run(self) -> None:
        """Answer one request. Nothing leaves here but bytes and an access record."""
        service = self._service
        self._greenlet = getcurrent()
        self._started = self.since = monotonic()
        self._requests_left -= 1
        head = self._head
        response = Response(
            self,
            head,
            head.persistent and not service.is_draining and self._requests_left > 0,
            service.date_line,
        )
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
            self._answer(response, error.status, error.detail)
        except BaseException as error:  # noqa: BLE001  an app may raise anything, SystemExit too
            fault = _explain(error)
            self._report(error)
            if not response.is_complete:
                # before the head: a whole 500; after it: the cut connection is the only sign left
                response.persistent &= not response.head_sent
                self._answer(
                    response, "500 Internal Server Error", "The app failed; its log tells why."
                )
        self._end(service, head, response, fault)

    def _walk(self, service: Service, head: RequestHead, response: Response) -> None:
        environ = build_environ(service.base_environ, head, self._peer, self._peer_port)
        if self._trusts_peer:
            service.proxies.apply(head, environ)
            self._client = environ["REMOTE_ADDR"]
            self._request_id = service.proxies.request_id(head)
        request_id = self._request_id = self._request_id or service.next_request_id()
        environ["gateway.request_id"] = request_id

        found = service.table.match(head.host, head.path)
        if found is None:
            self._answer_unmatched(head, response)
            return
        mount, environ["PATH_INFO"] = found
        self._mount = mount
        self.timeout = mount.limits.timeout_seconds
        environ["SCRIPT_NAME"] += mount.script_name

        if head.content_length:
            content = self._open_content(head, mount.limits.max_body_bytes, response)
            environ["wsgi.input"] = io.BufferedReader(content, READ_BYTES)
        environ["wsgi.early_hints"] = response.send_early_hints
        environ["gateway.client_disconnected"] = self.client_disconnected
        result = mount.app(environ, response.start_response)
        try:
            if self._content is not None:
                self._look_at_content(self._content, response)
            response.send_result(result)
        finally:
            if hasattr(result, "close"):
                result.close()

    def _look_at_content(self, content: Content, response: Response) -> None:
        """Before the response: what the app has made of the request's content."""
        if content.fault is not None and response.code >= 500 and not response.head_sent:
            raise content.fault  # frameworks take the client's fault for one of their own
        if not content.is_complete:
            # said in the head, so that nginx does not begin another request here
            response.persistent &= content.is_worth_draining

    def _answer_unmatched(self, head: RequestHead, response: Response) -> None:
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

    def _answer(self, response: Response, status: str, detail: str) -> None:
        """Answer in the gateway's own name, where no head has gone out."""
        if response.head_sent:
            return
        response.restart()
        self._request_id = self._request_id or self._service.next_request_id()
        page = build_error_page(status, detail, self._request_id)
        try:
            response.start_response(
                status,
                [
                    ("Content-Type", "text/html; charset=utf-8"),
                    ("Cache-Control", "no-store"),
                    ("X-Request-ID", self._request_id),
                ],
            )
            response.send_result([page])
        except ClientDisconnected:
            response.persistent = False

    def _report(self, error: BaseException) -> None:
        faults.error(
            "%s: %s (request %s)",
            self._mount.name if self._mount else "-",
            _explain(error),
            self._request_id,
            exc_info=error,
            extra={
                "mount": self._mount.name if self._mount else "",
                "request_id": self._request_id,
            },
        )

    def _end(self, service: Service, head: RequestHead, response: Response, fault: str) -> None:
        """Make ready for the next request, or close; then write the record."""
        content = self._content
        if content is not None and not content.is_complete:
            response.persistent = response.persistent and drain(content)
        if service.access_log.is_on:
            self._record(head, response, fault)
        if response.persistent and (self._buffer or not self.has_ended):
            self.state = IDLE
            self.since = monotonic()
            if not self._is_watching and not self.has_ended:
                self._watch(True)
            if self._buffer:
                get_hub().loop.run_callback(self._next_request)
        elif self.has_ended or self._has_read_all(head):
            self.close()
        else:
            self._linger()
        self._begin_anew()

    def _has_read_all(self, head: RequestHead) -> bool:
        """Whether a close leaves no input unread, which would reset the connection."""
        is_complete = self._content.is_complete if self._content else not head.content_length
        if not is_complete or self._buffer or self._refusal is not None:
            return False
        try:
            return not self._socket.recv(1, MSG_PEEK)
        except OSError:
            return True

    def _begin_anew(self) -> None:
        """What belongs to one request, before it is known."""
        self._content = self._greenlet = self._head = self._mount = None
        self._client = self._peer
        self._request_id = ""
        self.sent_bytes = self.moved = 0
        self.timeout = 0.0

    def _record(self, head: RequestHead, response: Response, fault: str) -> None:
        fields = head.fields
        self._service.access_log.record(
            request_id=self._request_id or self._service.next_request_id(),
            mount=self._mount.name if self._mount else "",
            client=self._client,
            method=head.method,
            target=head.target,
            protocol="HTTP/1.1" if head.is_http11 else "HTTP/1.0",
            status=response.code if response.head_sent else CLIENT_CLOSED_REQUEST,
            bytes_in=self._content.received_bytes if self._content else 0,
            bytes_out=self.sent_bytes,
            duration_ms=(monotonic() - self._started) * 1000,
            host=head.host,
            referer=fields.get("HTTP_REFERER", ""),
            user_agent=fields.get("HTTP_USER_AGENT", ""),
            error=fault,
        )

    # --- in a greenlet: content ---------------------------------------------------------------

    def _open_content(self, head: RequestHead, max_bytes: int, response: Response) -> Content:
        def send_continue() -> None:
            # RFC 9110 §10.1.1: not once the response or the content has begun
            if not response.head_sent and not self._buffer:
                self.send(b"HTTP/1.1 100 Continue\r\n\r\n")

        length = head.content_length
        announce = send_continue if head.expects_continue else None
        content = self._content = open_content(self, length, max_bytes, announce)
        if length == CHUNKED or length > len(self._buffer):
            self._watch(False)  # bytes stay in the kernel until the app asks for them
            content.on_complete = self._on_complete_content
        return content

    def _on_complete_content(self) -> None:
        """From now on input tells that the client leaves, or what it asks next."""
        if isinstance(self._content, ChunkedContent):
            self._buffer = self._content.take_rest() + self._buffer
        if not self.has_ended:
            self._watch(True)

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
        if self._service.on_close is not None:
            self._service.on_close()


def _explain(error: BaseException) -> str:
    """One line for a fault; an exception may fail to print itself."""
    line = format_exception_only(error)[-1].strip()
    return line.removeprefix(f"{type(error).__module__}.")
