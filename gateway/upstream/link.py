"""One connection to a server behind a mount: sends and receives bytes without blocking others.

Refuses to know HTTP and addresses. The watcher for input stays active from one request to the next:
it costs no system call per request, and it reports when the server closes an idle connection.
"""

from collections import deque
from collections.abc import Callable
from fcntl import ioctl
from socket import MSG_PEEK, SHUT_WR
from termios import FIONREAD
from time import monotonic
from typing import Any

from gevent import get_hub
from greenlet import getcurrent, greenlet

from gateway.http.wire.wire import READ, WRITE, wait_for

READ_BYTES = 64 * 1024
# received bytes that have not been taken yet, of all connections of a process together: servers
# finish most responses however slowly clients read. nginx would buffer 1 GiB of each.
AHEAD_BYTES = 64 * 1024 * 1024
# overhead of each piece
PIECE_BYTES = 128
# of FIONREAD, a C int
_NONE = bytes(4)


class Link:
    """A connected, non-blocking socket. One greenlet reads and one writes, perhaps the same.

    Bytes received while nobody reads are kept, up to what the other connections leave of
    AHEAD_BYTES. With ``is_idle`` no request uses the connection, and any input closes it.
    ``parked`` is the monotonic time at which it last became idle, 0 before; ``uses`` is how often
    it did. ``has_lost`` is whether something could not be sent.
    """

    __slots__ = (
        *("_fault", "_held_bytes", "_hub", "_is_watching", "_reader", "_received", "_socket"),
        *("_to_hub", "_watcher", "has_ended", "has_lost", "is_closed", "is_idle", "parked"),
        *("uses", "was_reset"),
    )

    free_bytes = AHEAD_BYTES  # for all of them

    def __init__(self, connected: Any) -> None:
        self._socket = connected
        self._hub: Any = get_hub()
        # the hub's own ``switch`` does more, for gevent's greenlets
        self._to_hub: Callable[[], Any] = greenlet.switch.__get__(self._hub)
        self._received: deque[bytes] = deque()
        self._held_bytes = 0
        self._reader: Any = None
        self._fault: BaseException | None = None
        self.has_lost = False
        self.has_ended = self.was_reset = False
        self.is_closed = False
        self.is_idle = False
        self.parked = 0.0
        self.uses = 0
        self._watcher: Any = self._hub.loop.io(connected.fileno(), READ)
        self._is_watching = True
        self._watcher.start(self._on_readable)

    def _on_readable(self) -> None:
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
            self.was_reset = True
        if not data:
            self.has_ended = True
            self._watch(False)
        if self._reader is not None:
            self._reader.switch(data)
        elif self.is_idle:
            self.close()
        elif data:
            self._keep(data)

    def _keep(self, data: bytes) -> None:
        self._received.append(data)
        self._hold(len(data) + PIECE_BYTES)
        if self._held_bytes >= Link.free_bytes:
            self._watch(False)  # the rest waits in the kernel

    def _hold(self, size: int) -> None:
        self._held_bytes += size
        Link.free_bytes -= size

    def _watch(self, wanted: bool) -> None:
        if wanted is not self._is_watching:
            self._is_watching = wanted
            if wanted:
                self._watcher.start(self._on_readable)
            else:
                self._watcher.stop()

    def receive(self) -> bytes:
        """Received bytes, at least one; b"" after the server has closed.

        Raises the error given to ``interrupt``. May switch greenlets.
        """
        if self._received:
            data = self._received.popleft()
            self._hold(-len(data) - PIECE_BYTES)
            self._watch(not self.has_ended)
            return data
        if self._fault is not None:
            raise self._fault
        if self.has_ended:
            return b""
        self._watch(True)
        self._reader = getcurrent()
        try:
            while True:
                received = self._to_hub()
                if isinstance(received, bytes):  # else a late wake-up, meant for another request
                    return received
        finally:
            self._reader = None

    @property
    def is_reusable(self) -> bool:
        """Whether the connection can be used for another request."""
        return not (self.has_ended or self._received or self._fault or self.has_lost)

    def park(self) -> None:
        """The connection becomes idle: input, or its end, closes it from now on."""
        self.is_idle = True
        self.parked = monotonic()
        self._watch(True)  # reading ahead may have ended that

    def interrupt(self, fault: BaseException) -> None:
        """Raise ``fault`` in the greenlet that reads, now or at its next ``receive``."""
        self._fault = fault
        self._hub.loop.run_callback(self._raise_fault)

    def _raise_fault(self) -> None:
        if self._reader is not None:
            self._reader.throw(self._fault)

    def offer(self, data: bytes) -> bytes:
        """Send what the kernel accepts immediately, and return the rest. If the server has closed,
        ``has_lost`` becomes true; there may be a response nevertheless."""
        try:
            return data[self._socket.send(data) :]
        except BlockingIOError:
            return data
        except OSError:
            self.has_lost = True
            return b""

    def send(self, data: bytes) -> None:
        """Send all of ``data``. Raises ConnectionError. May switch greenlets."""
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                wait_for(self._socket, WRITE)
            except OSError as error:
                self.has_lost = True
                raise ConnectionError(error.strerror) from error

    def end(self) -> None:
        """Close the sending side only (half-close)."""
        try:
            self._socket.shutdown(SHUT_WR)
        except OSError:
            self.has_ended = True

    def has_bytes(self) -> bool:
        """Whether there is unread input in the kernel."""
        # MSG_PEEK would raise an exception whenever there is none, so for most requests
        return ioctl(self._socket.fileno(), FIONREAD, _NONE) != _NONE

    def has_input(self) -> bool:
        """Whether there is unread input in the kernel, or the server has closed."""
        try:
            self._socket.recv(1, MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def release(self) -> None:
        """Leave the socket to its owner. May be called twice, but not while a greenlet waits."""
        if not self.is_closed:
            self.is_closed = True
            self._hold(-self._held_bytes)
            self._received.clear()
            self._watcher.stop()  # libev aborts where one of a closed descriptor is active
            self._watcher.close()

    def close(self) -> None:
        """Close the socket. May be called twice, but not while a greenlet waits."""
        self.release()
        self._socket.close()
