"""Combines pieces of a response that follow each other quickly into segments, without long delays.

Each piece is passed to the kernel at once, with ``MSG_MORE``, so that it waits for a full segment.
PEP 3333 ("Buffering and Streaming") requires that a block is transmitted while the app makes the
next one: held-back data is pushed at the end of the loop's iteration, as soon as the app waits, and
by a native thread if the app computes.
"""

from __future__ import annotations

from _queue import SimpleQueue
from contextlib import suppress
from socket import IPPROTO_TCP, TCP_NODELAY
from typing import Any

from gevent import get_hub, monkey

# pieces at longer intervals are sent one by one
BURST_SECONDS = 0.001
# the thread waits this long, and then for the GIL; the kernel itself would push after 0.2 s
PUSH_SECONDS = 0.002


class Pusher:
    """Pushes data that the kernel holds back, until it is closed.

    The event loop's thread calls ``hold`` after a send that may be held back.
    """

    def __init__(self) -> None:
        self._held: set[Any] = set()
        self._queue: SimpleQueue[Any] = SimpleQueue()  # gevent replaces that of ``queue``
        self._sleep = monkey.get_original("time", "sleep")
        # before the loop waits, which is after everything that an iteration has sent
        self._turn_end: Any = get_hub().loop.prepare(ref=False, priority=-2)
        monkey.get_original("_thread", "start_new_thread")(self._run, ())

    def hold(self, tcp_socket: Any) -> None:
        """Push ``tcp_socket`` soon."""
        if tcp_socket not in self._held:
            self._held.add(tcp_socket)
            self._queue.put(tcp_socket)
            if not self._turn_end.active:
                self._turn_end.start(self.push)

    def close(self) -> None:
        """End the thread. Closing a socket pushes what is still held back."""
        self._turn_end.stop()
        self._queue.put(None)

    def push(self) -> None:
        """Push all held-back data. Only from the hub."""
        self._turn_end.stop()
        for tcp_socket in tuple(self._held):
            self._push(tcp_socket)

    def _run(self) -> None:
        get = self._queue.get
        while True:
            due = [get()]
            self._sleep(PUSH_SECONDS)
            due += [get() for _ in range(self._queue.qsize())]
            for tcp_socket in due:
                if tcp_socket is None:
                    return
                self._push(tcp_socket)

    def _push(self, tcp_socket: Any) -> None:
        if tcp_socket in self._held:  # else the other thread has pushed it
            # in this order: later data is held back again
            self._held.discard(tcp_socket)
            with suppress(OSError):  # a closed socket has been pushed
                # tcp(7): pushes even if it was set before
                tcp_socket.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
