"""The bytes of one client connection: reads and writes that wait without holding others up.

Knows nothing of HTTP. A call that must wait hands its greenlet to the hub and notifies the owner of
the wire, who ends what waits too long by throwing into the greenlet.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from fcntl import ioctl
from select import POLLRDHUP
from socket import MSG_MORE, SHUT_WR, SO_LINGER, SOL_SOCKET
from struct import pack
from termios import FIONREAD
from time import monotonic
from typing import Any, Protocol

from gevent import get_hub
from gevent.monkey import get_original
from greenlet import getcurrent

from gateway.errors import AppError, ClientDisconnected
from gateway.http.wire.push import BURST_SECONDS, Pusher

READ, WRITE = 1, 2
# of a read before content is requested: enough for most heads with short content; longer content is
# read in larger pieces
HEAD_READ_BYTES = 16 * 1024
# gevent's poll uses the event loop
_get_poll = get_original("select", "poll")
# for FIONREAD: a C int
_NONE = bytes(4)
# after this many bytes without waiting for the client, yield to other greenlets
FAIR_BYTES = 1024 * 1024
# or after this long
FAIR_SECONDS = 0.01


class Owner(Protocol):
    """The owner of a wire. ``since`` is the monotonic time at which it last started or ended a
    wait."""

    since: float

    def take_input(self, data: bytes) -> None:
        """Input received while the wire was watched; b"" once the client has closed its side.
        Called in the hub."""

    def begin_wait(self, events: int) -> None:
        """A greenlet starts to wait for READ or WRITE."""

    def end_wait(self, events: int) -> None:
        """It has ended its wait."""


class Wire:
    """A non-blocking socket; ``unread`` is received input that has not been used.

    ``sent_bytes`` counts bytes passed to the kernel since its owner set it to 0; ``has_ended``:
    the client has closed its side. Without a ``pusher``, each piece is sent separately.
    """

    __slots__ = (
        *("_burst_ends", "_owner", "_pusher", "_socket", "_waiting", "_watcher"),
        *("has_ended", "is_watching", "sent_bytes", "unread"),
    )

    def __init__(self, client_socket: Any, pusher: Pusher | None, owner: Owner) -> None:
        self._socket = client_socket
        self._pusher = pusher
        self._owner: Owner | None = owner  # until the wire is closed
        self._burst_ends = 0.0
        self.unread = b""
        self.sent_bytes = 0
        self.has_ended = self.is_watching = False
        self._watcher: Any = None
        # watcher and greenlet of each wait: the request's own, and those that it has started
        self._waiting: tuple[tuple[Any, Any], ...] = ()

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()  # type: ignore[no-any-return]

    def watch(self, wanted: bool) -> None:
        """Report input to the owner, or stop to. A wire that never waits has no watcher."""
        if wanted is not self.is_watching:
            self.is_watching = wanted
            if not wanted:
                self._watcher.stop()
                return
            if self._watcher is None:
                self._watcher = get_hub().loop.io(self._socket.fileno(), READ)
            self._watcher.start(self.on_readable)

    def on_readable(self) -> None:
        """Pass received input to the owner, if there is any. Call it in the hub."""
        try:
            data = self._socket.recv(HEAD_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._owner.take_input(data)  # type: ignore[union-attr]

    def receive(self, size: int) -> bytes:
        """See ``body.Source``."""
        if self.unread:
            data, self.unread = self.unread[:size], self.unread[size:]
            return data
        self._be_fair()
        while True:
            try:
                return self._socket.recv(size)  # type: ignore[no-any-return]
            except BlockingIOError:
                self._wait(READ)
            except OSError as error:
                raise _left(error) from error

    def receive_into(self, buffer: memoryview) -> int:
        """See ``body.Source``."""
        if self.unread:
            data = self.receive(len(buffer))
            size = len(data)
            buffer[:size] = data
            if size < len(buffer):
                # fill the buffer, if possible, so that the reader copies less
                with suppress(OSError):  # the next call gets the error again
                    size += self._socket.recv_into(buffer[size:])
            return size
        self._be_fair()
        while True:
            try:
                return self._socket.recv_into(buffer)  # type: ignore[no-any-return]
            except BlockingIOError:
                self._wait(READ)
            except OSError as error:
                raise _left(error) from error

    def hand_over(self) -> tuple[Any, bytes]:
        """The socket, for another reader, and the input already received."""
        self.watch(False)
        data, self.unread = self.unread, b""
        return self._socket, data

    def send(self, data: bytes, /) -> None:
        """Send ``data`` now. All methods that send may switch greenlets, and raise
        ClientDisconnected."""
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
        """Send a piece that is likely to be followed by more, and may share a segment with it."""
        now = monotonic()
        is_burst, self._burst_ends = now < self._burst_ends, now + BURST_SECONDS
        if is_burst and self._pusher is not None:
            self._send_more(data)
            self._pusher.hold(self._socket)
        else:
            self.send(data)

    def _send_more(self, data: bytes) -> None:
        # not a flag of ``send``: it would cost most responses 200 instructions
        sent = self._try(self._socket.send, data, MSG_MORE)
        if sent != len(data):
            self._send_rest(memoryview(data)[sent:])

    def send_pieces(self, pieces: list[bytes], /) -> None:
        """Send ``pieces`` without joining them."""
        sent = self._try(self._socket.sendmsg, pieces)
        for piece in pieces:
            if sent < len(piece):
                self._send_rest(memoryview(piece)[sent:])
                sent = 0
            else:
                sent -= len(piece)

    def _send_rest(self, view: memoryview) -> None:
        while view:
            sent = self._try(self._socket.send, view)
            if not sent:
                self._wait(WRITE)
            view = view[sent:]

    def _try(self, send: Callable[..., int], *arguments: Any) -> int:
        """Send without waiting; returns the number of bytes that the kernel has accepted."""
        try:
            sent = send(*arguments)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise _left(error) from error
        self.sent_bytes += sent
        return sent

    def send_file(self, head: bytes, file_descriptor: int, offset: int, size: int, /) -> None:
        """Send ``head``, and ``size`` bytes of a file from ``offset`` on with sendfile(2)."""
        self._send_more(head)
        end = offset + size
        to = self._socket.fileno()
        while offset < end:
            try:
                sent = os.sendfile(to, file_descriptor, offset, min(end - offset, FAIR_BYTES))
            except BlockingIOError:
                self._wait(WRITE)
                continue
            except OSError as error:
                raise _left(error) from error
            if not sent:
                raise AppError("the file became shorter while it was sent")
            offset += sent
            self.sent_bytes += sent
            if sent == FAIR_BYTES:
                self._yield()

    def _wait(self, events: int) -> None:
        """Wait until the socket is ready, or its owner throws into the waiting greenlet."""
        owner = self._owner
        if owner is None:
            raise ClientDisconnected("the connection was closed")
        hub, me = get_hub(), getcurrent()
        waiter = hub.loop.io(self._socket.fileno(), events)
        self._waiting += ((waiter, me),)
        owner.begin_wait(events)
        waiter.start(me.switch)
        try:
            hub.switch()
        finally:
            waiter.stop()
            waiter.close()
            self._waiting = tuple(one for one in self._waiting if one[0] is not waiter)
            owner.end_wait(events)

    def _be_fair(self) -> None:
        # a fast client may never make its reader wait
        owner = self._owner
        if owner is not None and monotonic() - owner.since > FAIR_SECONDS:
            self._yield()
            owner.end_wait(READ)

    def _yield(self) -> None:
        # a timer: a callback would run before the loop polls other connections
        hub = get_hub()
        timer = hub.loop.timer(0)
        timer.start(getcurrent().switch)
        try:
            hub.switch()
        finally:
            timer.stop()
            timer.close()

    def has_input(self) -> bool:
        """Whether the kernel has unread bytes: a close would then reset the connection."""
        try:
            # MSG_PEEK would raise an exception at most closes, since there is no input
            return ioctl(self._socket.fileno(), FIONREAD, _NONE) != _NONE
        except (OSError, ValueError):
            return False

    def has_hung_up(self) -> bool:
        """Whether the client has closed, at least its side, even after unread input."""
        poll = _get_poll()
        poll.register(self._socket.fileno(), POLLRDHUP)
        return bool(poll.poll(0))

    def set_to_reset(self) -> None:
        """Make ``close`` reset the connection, so that the client sees an error (RFC 9293)."""
        with suppress(OSError):
            self._socket.setsockopt(SOL_SOCKET, SO_LINGER, pack("ii", 1, 0))

    def send_end(self) -> bool:
        """Close the sending side; returns whether that is possible."""
        try:
            self._socket.shutdown(SHUT_WR)
        except OSError:
            return False
        return True

    def detach(self) -> int:
        """Release the descriptor, which the caller must close."""
        return self._socket.detach()  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the socket."""
        self._owner = None
        # libev aborts if a watcher of a closed descriptor is active
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
        for waiting in self._waiting:
            waiting[0].stop()
            waiting[0].close()
            # greenlets that an app has started may still wait here
            get_hub().loop.run_callback(self._end_wait, waiting)
        self._socket.close()

    def _end_wait(self, waiting: tuple[Any, Any]) -> None:
        if waiting in self._waiting:
            waiting[1].throw(ClientDisconnected("the connection was closed"))


def wait_for(waited_for: Any, events: int) -> None:
    """Wait until the socket is ready. May switch greenlets."""
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
