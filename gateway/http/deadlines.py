"""How long each thing that a connection waits for may take, and what ends it then. In the hub.

Refuses to know the walk: what ends a request is thrown into its greenlet. Source: RFC 9110 §15.5.9
(408), §15.6.5 (504); RFC 9112 §9.6 (the end of a connection).
"""

from __future__ import annotations

from socket import SHUT_WR
from time import monotonic
from typing import Any

from gateway.errors import ClientDisconnected, RequestTimeout
from gateway.http.exchange import ClientLeft, Exchange, RequestEnded
from gateway.http.incoming import Incoming
from gateway.http.service import Service
from gateway.http.wire.stream import IDLE, State
from gateway.limits import Limits

LINGER_SECONDS = 2.0
# how long a stream may be quiet whose client has left; with the sweep, two seconds at most
LEFT_SECONDS = 0.5


class Deadlines(Incoming):
    """Keeps the request that is being answered, and ends what has waited too long."""

    __slots__ = ("_exchange", "_slot")

    def __init__(self, service: Service, client_socket: Any, peer: str, peer_port: str) -> None:
        Incoming.__init__(self, service, client_socket, peer, peer_port)
        self._exchange: Exchange | None = None
        self._slot = service.in_flight.take()

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
            content = exchange.content
            if waited > limits.body_timeout_seconds:
                ending = RequestTimeout("no content came in time")
            elif content is not None and content.is_too_slow(now, limits.body_timeout_seconds):
                ending = RequestTimeout("the content came too slowly")
        elif self.state is State.WRITING:
            if waited > limits.send_timeout_seconds:
                ending = ClientDisconnected("the client left its response unread")
        else:
            content = exchange.content
            moved = self.sent_bytes + (content.received_bytes if content else 0)
            if moved != exchange.moved:
                exchange.moved = moved
                self.since = now
            elif self._is_left(exchange, waited):
                exchange.has_ended = True
                ending = ClientLeft()
            elif exchange.timeout and waited > exchange.timeout:
                fault = f"no byte moved for {exchange.timeout:g} s"
                detail = "The app took too long to answer."
                ending = RequestEnded(fault, "504 Gateway Timeout", detail)
        if ending is not None:
            # from now: what the app's finally blocks do gets as long again
            self.since = now
            exchange.greenlet.throw(ending)

    def _is_left(self, exchange: Exchange, waited: float) -> bool:
        """Whether a stream is quiet while its client has closed. A client that only sends no more
        may still read (RFC 9112 §9.6): one that is sent something gets it."""
        return (
            waited > LEFT_SECONDS
            and exchange.head_sent
            and not exchange.has_ended
            and not exchange.is_complete
            and (self.has_ended or self.has_hung_up())
        )

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
            if self._exchange.content is not None:
                self._exchange.content.is_lost = True  # there is no time to read it
            self._exchange.greenlet.throw(ending)

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
