"""Pieces of a response that follow one another at once share a segment, and none waits for long.

The kernel has each piece before the app goes on, and with ``MSG_MORE`` waits for the rest of a
segment. PEP 3333 ("Buffering and Streaming") wants a block to be on its way while the app makes the
next: what is held back is pushed at the end of the event loop's turn, so as soon as the app waits,
and by a thread of the operating system's own, if the app computes. Refuses to know what is sent.
"""

from __future__ import annotations

from _queue import SimpleQueue
from contextlib import suppress
from socket import IPPROTO_TCP, TCP_NODELAY
from typing import Any

from gevent import get_hub, monkey

# pieces that come slower than this are sent one by one
BURST_SECONDS = 0.001
# the thread waits as long as this, and then for the interpreter's lock; the kernel itself would
# push after 0.2
PUSH_SECONDS = 0.002


class Pusher:
    """Pushes what the kernel holds back of TCP sockets, until it is closed.

    ``hold`` is called by the event loop's thread, behind what may have been held back.
    """

    def __init__(self) -> None:
        self._held: set[Any] = set()
        self._queue: SimpleQueue[Any] = SimpleQueue()  # gevent replaces that of ``queue``
        self._sleep = monkey.get_original("time", "sleep")
        # before the loop waits, which is behind all that a turn has sent
        self._turn_end: Any = get_hub().loop.prepare(ref=False, priority=-2)
        monkey.get_original("_thread", "start_new_thread")(self._run, ())

    def hold(self, tcp_socket: Any) -> None:
        """See that ``tcp_socket`` is pushed soon."""
        if tcp_socket not in self._held:
            self._held.add(tcp_socket)
            self._queue.put(tcp_socket)
            if not self._turn_end.active:
                self._turn_end.start(self.push)

    def close(self) -> None:
        """End the thread. What is still held back goes out when its socket is closed."""
        self._turn_end.stop()
        self._queue.put(None)

    def push(self) -> None:
        """Push all that is held. Only from the hub."""
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
        if tcp_socket in self._held:  # or the other thread has done it
            # in this order: later data is held back again
            self._held.discard(tcp_socket)
            with suppress(OSError):  # it may have been closed, which pushes too
                # tcp(7): also where it was set before
                tcp_socket.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
