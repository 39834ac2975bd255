"""One client connection: its state, the heads that it receives, keep-alive, and its close.

An idle connection is this object, its wire and an io watcher, and has no greenlet; a request is
answered in a greenlet at the end of the turn that completed its head. Source: RFC 9112 §9
(connections), §9.6 (half-closed ones); HAProxy's doc/proxy-protocol.txt, §2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

from gateway.errors import MalformedRequest, RequestError, RequestTimeout, UntrustedPeer
from gateway.http.deadlines import Passed, find_passed
from gateway.http.exchange import Exchange
from gateway.http.handover import HandedConnection
from gateway.http.head_reader import build_unreadable_head
from gateway.http.service import Service
from gateway.http.states import (
    CLOSED,
    CONNECTION,
    HEAD,
    IDLE,
    IN_FLIGHT,
    LINGERING,
    READING,
    RUNNING,
    TRANSITIONS,
    WRITING,
    State,
)
from gateway.http.wire.wire import READ, Wire
from gateway.limits import Limits
from gateway.protocol.proxy_header import parse_proxy_header
from gateway.protocol.request import RequestHead
from gateway.uncaught import report_own, summarize

# maximum input that is kept while a request is answered, from a client that pipelines
READ_AHEAD_BYTES = 64 * 1024


class Connection:
    """``run`` answers a request, in a greenlet; everything else runs in the hub.

    ``since`` is the monotonic time of the last change of ``state``, or of the last progress. With
    ``awaits_header``, a PROXY header must come before the first request: the peer must be a trusted
    proxy, and send the complete header within ``head_timeout``.
    """

    __slots__ = (
        *("_awaits_header", "_head", "_is_nobody", "_refusal"),
        *("client_disconnected", "exchange", "peer", "peer_port", "service", "since", "slot"),
        *("state", "trusts_peer", "wire"),
    )

    def __init__(
        self,
        service: Service,
        client_socket: Any,
        peer: str,
        peer_port: str,
        awaits_header: bool = False,
    ) -> None:
        self.service = service
        self.wire = Wire(client_socket, service.pusher, self)
        self.state = IDLE
        self.since = monotonic()
        self.peer = peer
        self.peer_port = peer_port
        _, self.trusts_peer = service.proxies.peers[peer]
        self._awaits_header = awaits_header
        self._is_nobody = False
        self._head: RequestHead
        self._refusal: RequestError | None = None
        self.exchange: Exchange | None = None
        self.slot = service.in_flight.take()
        # for apps: a plain function, since a bound method leads to the connection; it makes a
        # reference cycle until ``close``
        self.client_disconnected: Callable[[], bool] | None = lambda: self._has_left()
        service.connections.add(self)

    def enter(self, state: State) -> None:
        """Change the state."""
        if state not in TRANSITIONS[self.state]:
            CONNECTION.refuse(self.state, state, self.peer)
        self.state = state

    def _wait_in(self, state: State) -> None:
        if state is not self.state:
            self.enter(state)
        self.since = monotonic()

    # --- between requests ---------------------------------------------------------------------

    def begin(self) -> None:
        """Start to serve. Call it in the hub.

        A request that came with the connection is read at once. Input is watched after its response
        or from the next sweep on: a connection that is closed before needs no watcher.
        """
        self.wire.on_readable()
        if self.state is IDLE or self.state is HEAD:
            self.wire.watch(True)

    def describe(self) -> tuple[int, HandedConnection]:
        """The descriptor, and what another worker needs to continue between two requests."""
        has_header, data = not self._awaits_header, self.wire.unread
        handed = HandedConnection(self.peer, self.peer_port, has_header, self._is_nobody, data)
        return self.wire.fileno(), handed

    def resume(self, handed: HandedConnection) -> None:
        """Continue a connection of another worker. Call it before ``begin``."""
        self._awaits_header &= not handed.has_header
        self._is_nobody = handed.is_nobody
        self.trusts_peer &= not handed.is_nobody
        if handed.data:
            self.wire.unread = handed.data
            self.enter(HEAD)

    def take_input(self, data: bytes) -> None:
        """See ``wire.Owner``. Between requests: have the next one answered, or wait for the rest of
        its head."""
        state, wire = self.state, self.wire
        if state is not IDLE and state is not HEAD:
            self._take_meanwhile(data)
            return
        if not data:
            self._close_silent()
            return
        if wire.unread:
            data = wire.unread + data
        try:
            if self._awaits_header and not (data := self._take_header(data)):
                return
            head, wire.unread = self.service.reader.read(data, self.trusts_peer)
        except RequestError as error:
            # without its PROXY header, nothing is read as a request
            self._refuse(error, b"" if self._awaits_header else data)
            return
        if head is not None:
            self._head = head
            self.state = RUNNING  # as the table has it, without a call
            self.service.submit(self)
        elif wire.has_ended:
            self._close_silent()
        elif wire.unread and self.state is IDLE:
            self._wait_in(HEAD)

    def _take_meanwhile(self, data: bytes) -> None:
        """Input while a request is answered, or after the last one."""
        wire = self.wire
        if self.state is LINGERING:
            if not data:
                self.close()
        elif data:
            wire.unread += data
            if len(wire.unread) > READ_AHEAD_BYTES:
                wire.watch(False)
        else:
            # a half-close is allowed (RFC 9112 §9.6): the response is still sent
            wire.has_ended = True
            wire.watch(False)

    def _take_header(self, data: bytes) -> bytes:
        """What follows the PROXY header, b"" while there is nothing. The peer becomes the client
        that the header names. Raises UntrustedPeer and MalformedRequest."""
        if not self.trusts_peer:
            raise UntrustedPeer("the PROXY protocol is spoken here, by trusted proxies alone")
        header = parse_proxy_header(data)
        if header is None:
            self.wire.unread = data
            if self.state is IDLE:
                self._wait_in(HEAD)  # the same deadline
            return b""
        self._awaits_header = False
        self.wire.unread = b""
        self._wait_in(IDLE)
        if header.peer:
            self.peer, self.peer_port = header.peer, header.port
            _, self.trusts_peer = self.service.proxies.peers[header.peer]
        elif not header.is_local:
            # an unknown client behind the proxy's address
            self.trusts_peer, self._is_nobody = False, True
        return data[header.size_bytes :]

    def _refuse(self, error: RequestError, data: bytes) -> None:
        """Answer ``error``; the access record shows the request line that ``data`` begins with."""
        self._refusal = error
        self._head = build_unreadable_head(data)
        self.enter(RUNNING)
        self.service.submit(self)

    def _close_silent(self) -> None:
        """The client has closed. Within a head, that is recorded."""
        if self.wire.unread:
            self.wire.has_ended = True
            self._refuse(MalformedRequest("the client left within a head"), self.wire.unread)
        else:
            self.close()

    # --- a request ----------------------------------------------------------------------------

    def run(self, runner: Any, now: float) -> float:
        """Answer the request that was read last, in the greenlet ``runner``; ``now`` is the
        monotonic time. Returns the time of its end."""
        head, wire, service = self._head, self.wire, self.service
        keeps = head.persistent and service.keeps_connections and not service.is_draining
        exchange = self.exchange = Exchange()
        self.since = now
        now = exchange.run(self, head, self._refusal, keeps, runner, now)
        if self.exchange is not exchange:
            return now  # it was abandoned
        # nothing below waits, so no greenlet of the app can interfere
        self.exchange = None
        wire.sent_bytes = 0
        if self.state is CLOSED:
            return now
        if exchange.persistent and (wire.unread or not wire.has_ended):
            self.state = IDLE  # as the table has it, without a call
            self.since = now
            if not wire.is_watching and not wire.has_ended:
                wire.watch(True)
            if wire.unread:
                data, wire.unread = wire.unread, b""
                self.take_input(data)
        else:
            self._end(exchange)
        return now

    def _end(self, exchange: Exchange) -> None:
        """After the last response."""
        wire = self.wire
        if exchange.is_cut:
            wire.set_to_reset()
            self.close()
        elif wire.has_ended or (exchange.has_read_all and not wire.unread and not wire.has_input()):
            self.close()
        elif wire.send_end():
            # a close with unread input resets the connection, and the client may lose the response
            # (RFC 9112 §9.6)
            self._wait_in(LINGERING)
            wire.unread = b""
            wire.watch(True)
        else:
            self.close()

    def abandon(self, error: BaseException) -> float:
        """Close and record after ``error`` was raised by ``run`` or a sweep. Does not wait. Returns
        the monotonic time."""
        exchange = self.exchange
        try:
            report_own("a request was given up", error)
            if exchange is not None:
                exchange.end(summarize(error))
        except BaseException as again:  # noqa: BLE001  the caller must go on
            report_own("a request that was given up has no record", again)
        finally:
            self.exchange = None
            self.close()
        return monotonic()

    def begin_wait(self, events: int) -> None:
        """See ``wire.Owner``."""
        # a greenlet of the app may still read or write after the end of its request
        if self.state in IN_FLIGHT:
            self._wait_in(READING if events == READ else WRITING)

    def end_wait(self, events: int) -> None:
        """See ``wire.Owner``."""
        if self.state is (READING if events == READ else WRITING):
            self.enter(RUNNING)
        self.since = monotonic()

    def _has_left(self) -> bool:
        """Whether the client has closed at least its side."""
        wire = self.wire
        if wire.has_ended or wire.is_watching or not self._wants_input():
            return wire.has_ended
        return wire.has_hung_up()

    def _wants_input(self) -> bool:
        return self.exchange is None or self.exchange.wants_input

    # --- deadlines and the end ----------------------------------------------------------------

    def sweep(self, now: float, limits: Limits) -> None:
        """End what has waited too long, as of ``now``."""
        wire, exchange, progress = self.wire, self.exchange, None
        if exchange is not None:
            has_room = len(wire.unread) <= READ_AHEAD_BYTES and not wire.has_ended
            if has_room and exchange.wants_input:
                wire.watch(True)
            progress = exchange.measure(now, limits)
            if progress.has_moved and self.state is RUNNING:
                self.since = now
        passed = find_passed(self.state, now - self.since, limits, progress)
        if passed is Passed.HEAD:
            self._refuse(RequestTimeout(passed.value), wire.unread)
        elif passed is not None and exchange is not None:
            # the app's finally blocks get the same time again
            self.since = now
            exchange.end_late(passed)
        elif passed is not None:
            self.close()

    def cut_overdue(self, latest: float) -> bool:
        """Cut a request in flight that began before ``latest`` (monotonic). Returns whether it
        did."""
        is_overdue = self.exchange is not None and self.exchange.started < latest
        if is_overdue:
            self.cut()
        return is_overdue

    def cut(self) -> None:
        """End a request in flight: the gateway is stopping."""
        if self.exchange is not None:
            self.exchange.cut()

    def close(self) -> None:
        """Close the socket; safe to call twice."""
        if self.state is CLOSED:
            return
        self.enter(CLOSED)
        self.client_disconnected = None
        self.wire.close()
        self.service.connections.discard(self)
        self.service.in_flight.give_back(self.slot)
        if self.service.on_close is not None:
            self.service.on_close()


def find_request(connections: Iterable[Connection], runner: Any) -> tuple[str, str]:
    """Mount and id of the request that runs in the greenlet ``runner``; "" and "" for none."""
    for connection in connections:
        exchange = connection.exchange
        if exchange is not None and exchange.greenlet is runner and exchange.mount is not None:
            return exchange.mount.name, exchange.request_id
    return "", ""
