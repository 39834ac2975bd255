"""Pieces of a response that follow one another at once share a segment, and none waits for long.

The kernel has each piece before the app goes on, and with ``MSG_MORE`` waits for the rest of a
segment. PEP 3333 ("Buffering and Streaming") wants a block to be on its way while the app makes the
next: a thread of the operating system's own sees to that, whatever the app does meanwhile. Refuses
to know what is sent.
"""

from __future__ import annotations

from _queue import SimpleQueue
from contextlib import suppress
from socket import IPPROTO_TCP, TCP_NODELAY
from typing import Any

from gevent import monkey

# pieces that come slower than this are sent one by one
BURST_SECONDS = 0.001
# what was held back is pushed after this, where nothing that followed has done it before; the
# kernel itself would after 0.2
PUSH_SECONDS = 0.002


class Pusher:
    """Pushes what the kernel holds back of TCP sockets, from a thread, until it is closed.

    ``hold`` is called by one thread, behind what may have been held back.
    """

    def __init__(self) -> None:
        self._held: set[Any] = set()
        self._queue: SimpleQueue[Any] = SimpleQueue()  # gevent replaces that of ``queue``
        self._sleep = monkey.get_original("time", "sleep")
        monkey.get_original("_thread", "start_new_thread")(self._run, ())

    def hold(self, tcp_socket: Any) -> None:
        """See that ``tcp_socket`` is pushed soon."""
        if tcp_socket not in self._held:
            self._held.add(tcp_socket)
            self._queue.put(tcp_socket)

    def close(self) -> None:
        """End the thread. What is still held back goes out when its socket is closed."""
        self._queue.put(None)

    def _run(self) -> None:
        get = self._queue.get
        while True:
            due = [get()]
            self._sleep(PUSH_SECONDS)
            due += [get() for _ in range(self._queue.qsize())]
            for tcp_socket in due:
                if tcp_socket is None:
                    return
                # in this order: what is held back from here on is queued again
                self._held.discard(tcp_socket)
                with suppress(OSError):  # it may have been closed, which pushes too
                    # tcp(7): also where it was set before
                    tcp_socket.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
