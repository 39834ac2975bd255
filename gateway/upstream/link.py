"""One connection to a server behind a mount: bytes out, bytes in, without holding others up.

Refuses to know HTTP and who is to be asked. The watcher for input stays on from one request to the
next, so that a connection which the server closes while nobody uses it is known at once.
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

from gateway.http.wire.stream import READ, WRITE, wait_for

READ_BYTES = 64 * 1024
# how much all connections of a process hold together of what nobody has taken yet: so a server is
# done with most answers, however slowly their clients read. nginx would hold 1 GiB of each.
AHEAD_BYTES = 64 * 1024 * 1024
# what each piece takes beside its bytes
PIECE_BYTES = 128
# of FIONREAD, a C int
_NONE = bytes(4)


class Link:
    """A connected, non-blocking socket. One greenlet reads, and one, perhaps another, writes.

    What comes while nobody reads is kept, up to as much as is left then for all others together.
    ``is_idle`` is whether no request uses it: input is then nothing that was asked for, and closes
    it. ``parked`` is the monotonic time at which it became idle, ``uses`` how often.
    """

    __slots__ = (
        "_fault",
        "_held_bytes",
        "_hub",
        "_is_watching",
        "_reader",
        "_received",
        "_socket",
        "_to_hub",
        "_watcher",
        "has_ended",
        "has_lost",
        "is_closed",
        "is_idle",
        "parked",
        "uses",
        "was_reset",
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
        self.has_lost = False  # something of what was to be sent
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
        """What has come, at least one byte; b"" once the server has sent its last.

        Raises what ``interrupt`` was given. May switch greenlets.
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
        """Whether nothing speaks against another request."""
        return not (self.has_ended or self._received or self._fault or self.has_lost)

    def park(self) -> None:
        """No request uses it from now on. What comes now, or its end, closes it."""
        self.is_idle = True
        self.parked = monotonic()
        self._watch(True)  # reading ahead may have ended that

    def interrupt(self, fault: BaseException) -> None:
        """Have the one who reads, now or the next time, get ``fault`` instead of input."""
        self._fault = fault
        self._hub.loop.run_callback(self._raise_fault)

    def _raise_fault(self) -> None:
        if self._reader is not None:
            self._reader.throw(self._fault)

    def offer(self, data: bytes) -> bytes:
        """Send what the kernel takes at once, and return the rest. Where the server has left,
        ``has_lost`` turns true; it may have answered before."""
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
        """Send no more; still read (a half-close)."""
        try:
            self._socket.shutdown(SHUT_WR)
        except OSError:
            self.has_ended = True

    def has_bytes(self) -> bool:
        """Whether something has come since it was last looked at."""
        # a read that only looks would raise an exception where there is nothing, at most requests
        return ioctl(self._socket.fileno(), FIONREAD, _NONE) != _NONE

    def has_input(self) -> bool:
        """Whether something has come, or the server has closed, since it was last looked at."""
        try:
            self._socket.recv(1, MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def release(self) -> None:
        """Leave the socket to its owner; safe to call twice. Nobody may be waiting for it."""
        if not self.is_closed:
            self.is_closed = True
            self._hold(-self._held_bytes)
            self._received.clear()
            self._watcher.stop()  # libev aborts where one of a closed descriptor is active
            self._watcher.close()

    def close(self) -> None:
        """Close the socket; safe to call twice. Nobody may be waiting for it."""
        self.release()
        self._socket.close()
