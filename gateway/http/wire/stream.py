"""The bytes of one client connection: reads and writes that wait without holding others up.

Refuses to know HTTP. A call that must wait hands its greenlet to the hub; the state says for what,
and the sweep of the server ends what waits too long by throwing into the greenlet.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from contextlib import suppress
from enum import Enum
from fcntl import ioctl
from select import POLLRDHUP
from socket import MSG_MORE, SO_LINGER, SOL_SOCKET
from struct import pack
from termios import FIONREAD
from time import monotonic
from typing import Any

from gevent import get_hub
from gevent.monkey import get_original
from greenlet import getcurrent

from gateway.errors import AppError, ClientDisconnected
from gateway.http.wire.push import BURST_SECONDS, Pusher

READ, WRITE = 1, 2
# gevent's own looks by way of the loop
_get_poll = get_original("select", "poll")
# of FIONREAD, a C int
_NONE = bytes(4)
# after this many bytes without waiting for the client, others get a turn
FAIR_BYTES = 1024 * 1024
# as long as this without waiting
FAIR_SECONDS = 0.01


class State(Enum):
    """What a connection waits for, and so which deadline counts."""

    IDLE = "idle"  # the first byte of a request
    HEAD = "head"  # the rest of a head
    RUNNING = "running"  # the app
    READING = "reading"  # content, for the app
    WRITING = "writing"  # the client to read its response
    LINGERING = "lingering"  # the client to read the last response and close
    CLOSED = "closed"


# class attribute look-ups on the hot path
IDLE, RUNNING = State.IDLE, State.RUNNING


class Stream:
    """A non-blocking socket, its watcher for input, and what is known of its moment.

    ``since`` is the monotonic time of the last change of ``state``; ``sent_bytes`` counts what the
    kernel has taken since the request began. Without a ``pusher`` every piece is sent by itself.
    """

    __slots__ = (
        "_buffer",
        "_burst_ends",
        "_is_watching",
        "_pusher",
        "_socket",
        "_waiting",
        "_watcher",
        "sent_bytes",
        "since",
        "state",
    )

    def __init__(self, client_socket: Any, pusher: Pusher | None) -> None:
        self._socket = client_socket
        self._pusher = pusher
        self._burst_ends = 0.0
        self._buffer = b""
        self.sent_bytes = 0
        self.state = IDLE
        self.since = monotonic()
        self._is_watching = False
        self._watcher: Any = None
        # watcher and greenlet of each that waits: a request's own, and what it has started
        self._waiting: tuple[tuple[Any, Any], ...] = ()

    @abstractmethod
    def _on_readable(self) -> None:
        """Take what has arrived. In the hub, while input is watched for."""

    def _watch(self, wanted: bool) -> None:
        """Have input reported, or not. A connection that is never waited for has no watcher."""
        if wanted is not self._is_watching:
            self._is_watching = wanted
            if not wanted:
                self._watcher.stop()
                return
            if self._watcher is None:
                self._watcher = get_hub().loop.io(self._socket.fileno(), READ)
            self._watcher.start(self._on_readable)

    def receive(self, size: int) -> bytes:
        """See ``body.Source``."""
        if self._buffer:
            data, self._buffer = self._buffer[:size], self._buffer[size:]
            return data
        self._be_fair()
        while True:
            try:
                return self._socket.recv(size)  # type: ignore[no-any-return]
            except BlockingIOError:
                self._wait(READ, State.READING)
            except OSError as error:
                raise _left(error) from error

    def receive_into(self, buffer: memoryview) -> int:
        """See ``body.Source``."""
        if self._buffer:
            data = self.receive(len(buffer))
            size = len(data)
            buffer[:size] = data
            if size < len(buffer):
                # a whole buffer, where there is one: the reader then copies none that follows
                with suppress(OSError):  # of which the next call hears again
                    size += self._socket.recv_into(buffer[size:])
            return size
        self._be_fair()
        while True:
            try:
                return self._socket.recv_into(buffer)  # type: ignore[no-any-return]
            except BlockingIOError:
                self._wait(READ, State.READING)
            except OSError as error:
                raise _left(error) from error

    def hand_over(self) -> tuple[Any, bytes]:
        """The socket, for somebody who reads from it instead, and what has been read already."""
        self._watch(False)
        data, self._buffer = self._buffer, b""
        return self._socket, data

    def send(self, data: bytes, /) -> None:
        """See ``sink.Sink``."""
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise _left(error) from error
        self.sent_bytes += sent
        if sent != len(data):
            self._send_rest(memoryview(data)[sent:])

    def send_part(self, data: bytes, /) -> None:
        """See ``sink.Sink``."""
        now = monotonic()
        is_burst, self._burst_ends = now < self._burst_ends, now + BURST_SECONDS
        if is_burst and self._pusher is not None:
            self._send_more(data)
            self._pusher.hold(self._socket)
        else:
            self.send(data)

    def _send_more(self, data: bytes) -> None:
        # not a flag of ``send``, which is most responses: it would cost them 200 instructions
        try:
            sent = self._socket.send(data, MSG_MORE)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise _left(error) from error
        self.sent_bytes += sent
        if sent != len(data):
            self._send_rest(memoryview(data)[sent:])

    def send_pieces(self, pieces: list[bytes], /) -> None:
        """See ``sink.Sink``."""
        try:
            sent = self._socket.sendmsg(pieces)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise _left(error) from error
        self.sent_bytes += sent
        for piece in pieces:
            if sent < len(piece):
                self._send_rest(memoryview(piece)[sent:])
                sent = 0
            else:
                sent -= len(piece)

    def _send_rest(self, view: memoryview) -> None:
        while view:
            try:
                sent = self._socket.send(view)
            except BlockingIOError:
                self._wait(WRITE, State.WRITING)
            except OSError as error:
                raise _left(error) from error
            else:
                self.sent_bytes += sent
                view = view[sent:]

    def send_file(self, head: bytes, file_descriptor: int, offset: int, size: int, /) -> None:
        """See ``sink.Sink``; ``size`` bytes from ``offset``, never through this process."""
        self._send_more(head)
        end = offset + size
        to = self._socket.fileno()
        while offset < end:
            try:
                sent = os.sendfile(to, file_descriptor, offset, min(end - offset, FAIR_BYTES))
            except BlockingIOError:
                self._wait(WRITE, State.WRITING)
                continue
            except OSError as error:
                raise _left(error) from error
            if not sent:
                raise AppError("the file became shorter while it was sent")
            offset += sent
            self.sent_bytes += sent
            if sent == FAIR_BYTES:
                self._yield()

    def _wait(self, events: int, state: State) -> None:
        """Until the socket is ready, or the sweep throws the deadline's exception in here."""
        hub, me = get_hub(), getcurrent()
        waiter = hub.loop.io(self._socket.fileno(), events)
        self._waiting += ((waiter, me),)
        self.state = state
        self.since = monotonic()
        waiter.start(me.switch)
        try:
            hub.switch()
        finally:
            waiter.stop()
            waiter.close()
            self._waiting = tuple(one for one in self._waiting if one[0] is not waiter)
            if self.state is state:
                self.state = RUNNING
            self.since = monotonic()

    def _be_fair(self) -> None:
        # a client may send faster than its content is read, and would be waited for never
        if monotonic() - self.since > FAIR_SECONDS:
            self._yield()
            self.since = monotonic()

    def _yield(self) -> None:
        # a timer: a callback would run again before the loop looks at any other connection
        hub = get_hub()
        timer = hub.loop.timer(0)
        timer.start(getcurrent().switch)
        try:
            hub.switch()
        finally:
            timer.stop()
            timer.close()

    def has_input(self) -> bool:
        """Whether bytes lie unread in the kernel: a close would reset the connection."""
        try:
            # a read that only looks would raise an exception where there is nothing, at most closes
            return ioctl(self._socket.fileno(), FIONREAD, _NONE) != _NONE
        except (OSError, ValueError):
            return False

    def has_hung_up(self) -> bool:
        """Whether the client has closed, at least its side; behind input that is unread, too."""
        poll = _get_poll()
        poll.register(self._socket.fileno(), POLLRDHUP)
        return bool(poll.poll(0))

    def set_to_reset(self) -> None:
        """Have the close reset the connection, which tells the client of an error (RFC 9293)."""
        with suppress(OSError):
            self._socket.setsockopt(SOL_SOCKET, SO_LINGER, pack("ii", 1, 0))

    def _shut(self) -> None:
        self.state = State.CLOSED
        # libev aborts where a watcher of a closed descriptor is active
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
        for waiting in self._waiting:
            waiting[0].stop()
            waiting[0].close()
            # what an app has started may wait here still, and would for ever
            get_hub().loop.run_callback(self._end_wait, waiting)
        self._socket.close()

    def _end_wait(self, waiting: tuple[Any, Any]) -> None:
        if waiting in self._waiting:
            waiting[1].throw(ClientDisconnected("the connection was closed"))


def wait_for(waited_for: Any, events: int) -> None:
    """Until the socket is ready. May switch greenlets."""
    hub: Any = get_hub()
    watcher = hub.loop.io(waited_for.fileno(), events)
    watcher.start(getcurrent().switch)
    try:
        hub.switch()
    finally:
        watcher.stop()
        watcher.close()


def _left(error: OSError) -> ClientDisconnected:
    return ClientDisconnected(f"the client left: {error.strerror}")
