"""A worker's side of the listening socket: accepting, the sweep of deadlines, and draining.

The socket itself belongs to the supervisor and stays open.
"""

from __future__ import annotations

import _socket
import socket
import time
from typing import Any

import gevent
from gevent import get_hub

from gateway.http.connection import Connection
from gateway.http.dispatch import MountTable
from gateway.http.environ import MountInfo
from gateway.http.handover import HandedConnection, Handover
from gateway.http.service import Service
from gateway.http.states import BETWEEN_REQUESTS, IDLE, IN_FLIGHT
from gateway.http.wire.push import Pusher
from gateway.http.wire.wire import READ
from gateway.limits import Limits
from gateway.peers import find_peer_user
from gateway.protocol.names import UNIX_PEER
from gateway.streams import find_closed, reopen

# in one iteration of the loop; other workers accept in between
ACCEPTS_PER_TURN = 8
SWEEP_SECONDS = (0.05, 1.0)
# how long a drain leaves idle connections open, so that requests in transit get a response
IDLE_GRACE_SECONDS = 0.5
# how long a retired worker with its own listener may still get connections
UNSHARED_GRACE_SECONDS = 3.0
# maximum time that a pause waits for room in the handover socket
HANDOVER_SECONDS = 1.0


def find_sweep_seconds(service: Service) -> float:
    """The interval between checks of deadlines, by the shortest of them."""
    limits = service.limits
    # each check also publishes the heartbeat
    silences = (limits.block_warn_seconds, limits.block_timeout_seconds)
    shortest = min(
        *(seconds for seconds in silences if seconds),
        limits.head_timeout_seconds,
        limits.body_timeout_seconds,
        limits.send_timeout_seconds,
        limits.keep_alive_seconds,
        *(timeout for m in service.table.mounts if (timeout := m.limits.timeout_seconds)),
    )
    return min(max(shortest / 4, SWEEP_SECONDS[0]), SWEEP_SECONDS[1])


class Server:
    """Serves ``service`` on ``listener`` (bound and listening) until it is drained.

    With ``proxy_protocol``, every connection must begin with a PROXY header. If the listener
    ``is_shared``, other workers accept on it, too; otherwise it is also served during a pause.
    ``handover`` passes idle connections between workers.
    """

    def __init__(
        self,
        listener: socket.socket,
        service: Service,
        *,
        proxy_protocol: bool = False,
        is_shared: bool = True,
        handover: Handover | None = None,
    ) -> None:
        self._awaits_header = proxy_protocol
        self._listener = listener
        self._service = service
        self._kind = (listener.family, listener.type, listener.proto)
        self._is_unix = listener.family == socket.AF_UNIX
        self._is_shared = is_shared
        self._handover = handover
        if handover is not None:
            handover.take = self._take
        self._is_accepting = False
        self._is_retired = False
        self._retired = 0.0
        self._cut: set[Connection] = set()
        self._loop: Any = get_hub().loop
        self._watcher = self._loop.io(listener.fileno(), READ)
        # before the loop waits, which is after everything that an iteration has sent; also after a
        # drain, for requests that ignore their end
        self._turn_end = self._loop.prepare(ref=False, priority=-2)
        # during a pause: before the loop waits, so after the end of each response
        self._turn_end_paused = self._loop.prepare(ref=False)
        seconds = find_sweep_seconds(service)
        self._timer = self._loop.timer(seconds, seconds)

    def adjust(self, table: MountTable, limits: Limits, mounts: MountInfo) -> None:
        """Use another table and other limits; requests in flight are not affected."""
        self._service.adjust(table, limits, mounts)
        self._timer.stop()
        self._timer.close()
        seconds = find_sweep_seconds(self._service)
        self._timer = self._loop.timer(seconds, seconds)
        self._timer.start(self._sweep)

    def start(self) -> None:
        """Start to accept. The hub does the work while the greenlets of this thread wait."""
        listener = self._listener
        listener.setblocking(False)
        if not self._is_unix:
            # inherited by accepted sockets: no delay between head and content (Nagle)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # a connection is accepted with its first bytes, or after this number of seconds: it is
            # read at once, and if that is its only request it needs no watcher (as in Apache)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
            self._service.pusher = Pusher()
        self._service.update_date()
        self._service.in_flight.beat(time.monotonic())
        self._timer.start(self._sweep)
        if self._service.access_log.is_on:
            self._turn_end.start(self._service.access_log.flush)
        self._accept_more(True)
        self._take_more(True)

    def _take_more(self, wanted: bool) -> None:
        if self._handover is not None:
            self._handover.watch(wanted)

    def _accept_more(self, wanted: bool) -> None:
        if wanted is not self._is_accepting:
            self._is_accepting = wanted
            self._service.on_close = None if wanted else self._make_room
            if wanted:
                self._watcher.start(self._on_connections)
            else:
                self._watcher.stop()

    def _on_connections(self) -> None:
        self._accept_some()

    def _accept_some(self) -> bool:
        """Accept up to ACCEPTS_PER_TURN connections; whether there may be more."""
        service = self._service
        family, kind, protocol = self._kind
        for _ in range(ACCEPTS_PER_TURN):
            if len(service.connections) >= service.limits.max_connections:
                self._accept_more(False)  # further ones wait in the backlog
                return False
            try:
                descriptor, address = self._listener._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return False
            except ConnectionAbortedError:
                continue
            except OSError:
                self._accept_more(False)  # out of file descriptors; the sweep tries again
                return False
            client = _socket.socket(family, kind, protocol, descriptor)
            client.setblocking(False)
            if self._is_unix:
                peer = f"{UNIX_PEER}{find_peer_user(client)}"
                port = ""
            else:
                peer, port = address[0], str(address[1])
            connection = Connection(service, client, peer, port, self._awaits_header)
            self._begin(connection)
        return True

    def _begin(self, connection: Connection) -> None:
        try:
            connection.begin()
        except BaseException as error:  # noqa: BLE001  the others must be accepted
            connection.abandon(error)

    def _take(self, descriptor: int, handed: HandedConnection) -> None:
        """Serve a connection of another worker, also above ``max_connections``: the gateway's total
        stays the same."""
        client = _socket.socket(*self._kind, descriptor)
        client.setblocking(False)
        peer, port = handed.peer, handed.peer_port
        connection = Connection(self._service, client, peer, port, self._awaits_header)
        connection.resume(handed)
        self._begin(connection)

    def _give_idle(self) -> None:
        """Hand over the connections that wait for a request, or for the rest of a head."""
        if self._handover is None:
            return
        if self._service.pusher is not None:
            self._service.pusher.push()  # since no close follows
        for connection in tuple(self._service.connections):
            if connection.state in BETWEEN_REQUESTS:
                try:
                    is_given = self._handover.give(*connection.describe())
                except BlockingIOError:
                    return  # again in the next iteration
                if is_given:
                    connection.close()

    def _accept_queued(self) -> None:
        while self._accept_some():
            pass  # connections in the backlog
        while self._handover is not None and self._handover.take_some():
            pass

    def _make_room(self) -> None:
        if not self._is_accepting and not self._service.is_draining:
            self._accept_more(True)

    def _sweep(self) -> None:
        self._service.update_date()
        now = time.monotonic()
        self._service.in_flight.beat(now)
        for connection in tuple(self._service.connections):
            try:
                connection.sweep(now, self._service.limits)
            except BaseException as error:  # noqa: BLE001  the others must be swept
                connection.abandon(error)
        self._service.greenlets.sweep(now)
        reopen(find_closed())  # standard descriptors that an app has closed
        if self._is_retired:
            self._cut_overdue(now)
        self._make_room()

    def pause(self, *, hands_over: bool = True) -> None:
        """Stop accepting, if the listener is shared, and, with ``hands_over``, pass connections
        that wait for a request to other workers, now and later.

        Other connections stay open until their next response or the end of ``keep_alive``, so that
        nginx never uses one that is being closed. May switch greenlets.
        """
        self._service.is_draining = True
        self._take_more(False)
        if self._is_shared:
            self._accept_more(False)
            if hands_over and self._handover is not None:
                self._turn_end_paused.start(self._give_idle)
                self._hand_over()

    def _hand_over(self) -> None:
        """Hand over what is possible now, for at most HANDOVER_SECONDS."""
        ends = time.monotonic() + HANDOVER_SECONDS
        self._loop.run_callback(self._give_idle)  # in the hub
        gevent.sleep(0)  # after that callback
        while time.monotonic() < ends and any(
            connection.state in BETWEEN_REQUESTS for connection in self._service.connections
        ):
            gevent.sleep(0.01)

    def resume(self) -> None:
        """Accept again after ``pause``."""
        self._turn_end_paused.stop()
        self._service.is_draining = False
        self._accept_more(True)
        self._take_more(True)

    def retire(self) -> None:
        """``pause`` for good; the worker exits after its last connection."""
        if not self._service.is_draining:
            self.pause()
        self._is_retired = True
        self._retired = time.monotonic()

    def has_retired(self) -> bool:
        """Whether it was retired, and the last connection has closed."""
        # front workers that connect to this listener only must first learn about another worker
        grace = 0.0 if self._is_shared else UNSHARED_GRACE_SECONDS
        is_over = self._is_retired and time.monotonic() - self._retired >= grace
        return is_over and not self._service.connections

    def _cut_overdue(self, now: float) -> None:
        """A request has ``drain_timeout`` from the retirement or from its start, the later one."""
        latest = now - self._service.limits.drain_timeout_seconds
        for connection in self._service.connections - self._cut if latest > self._retired else ():
            try:
                if connection.cut_overdue(latest):
                    self._cut.add(connection)
            except BaseException as error:  # noqa: BLE001  the others must be cut
                connection.abandon(error)

    def drain(self, timeout_seconds: float) -> int:
        """Stop accepting, wait for requests in flight, then close. May switch greenlets.

        Idle connections are closed after a grace period: a request may be in transit. Returns the
        number of requests that were cut, at the end of ``timeout_seconds`` or since the retirement.
        """
        service = self._service
        was_paused, service.is_draining = service.is_draining, True
        self._accept_more(False)
        self._take_more(False)
        self._turn_end_paused.stop()  # the receivers may be stopping, too
        if not was_paused or not self._is_shared:
            accept = self._loop.timer(0)
            accept.start(self._accept_queued)
            gevent.sleep(0.001)  # after that timer
        began = time.monotonic()
        while service.connections and time.monotonic() - began < timeout_seconds:
            if time.monotonic() - began >= IDLE_GRACE_SECONDS:
                for connection in tuple(service.connections):
                    if connection.state is IDLE and not connection.wire.has_input():
                        connection.close()
            gevent.sleep(0.02)
        cut = [c for c in service.connections if c.state in IN_FLIGHT]
        for connection in cut:
            self._loop.run_callback(connection.cut)
        gevent.sleep(0)  # after those callbacks
        for connection in tuple(service.connections):
            connection.close()
        self._timer.stop()
        service.in_flight.beat(time.monotonic())
        service.greenlets.close()
        if service.pusher is not None:
            service.pusher.close()
        service.access_log.flush()
        return len(self._cut.union(cut))
