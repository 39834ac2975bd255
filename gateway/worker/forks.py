"""A process that an app has forked off a worker: not a worker, it runs nothing of its parent.

Owns what such a child may not do: answer clients, run other requests, write records, free what its
parent has in flight. It ends where it would come back to the gateway's code. Refuses to know why it
was forked. Source: fork(2): in the child there are all of the parent's greenlets, event watchers,
sockets and shared memory, too.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from typing import Any

from gevent import get_hub, monkey
from gevent._hub_local import set_hub
from greenlet import getcurrent, greenlet

from gateway.http.connection import Connection
from gateway.http.exchange import Exchange
from gateway.http.service import Service
from gateway.mounts.threads import end_in_child

# at once: that of gevent may leave it to a turn of the event loop, which the child does not have
_close = monkey.get_original("os", "close")


def detach_at_fork(service: Service, *, is_patched: bool) -> None:
    """From now on children that apps fork are apart from this worker. ``is_patched`` is whether
    apps run in this thread, as greenlets."""

    def part() -> None:
        # whoever started the child may end it by that
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _leave_requests(service)
        if is_patched:
            _leave_loop()
        else:
            end_in_child()

    os.register_at_fork(after_in_child=part)


def close_in_children(descriptors: Iterable[int]) -> None:
    """Have no process that apps start hold these: neither a program, nor a child that goes on as it
    is. A port stayed taken for as long as the last of them lives."""
    kept = tuple(descriptors)
    for descriptor in kept:
        os.set_inheritable(descriptor, False)

    def let_go() -> None:
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in kept:
            # not closed: objects that are still here would close whatever gets the number next
            os.dup2(nothing, descriptor, inheritable=False)
        _close(nothing)

    os.register_at_fork(after_in_child=let_go)


def _leave_requests(service: Service) -> None:
    service.access_log.is_on = False
    service.in_flight.memory = bytearray(len(service.in_flight.memory))  # a copy nobody reads
    for connection in service.connections:
        connection.__class__ = _NoConnection
        # a client waits for the end of what it reads, for which all copies have to be closed
        _close(connection._socket.detach())


def _leave_loop() -> None:
    """An event loop that knows nothing of the parent's, for the one greenlet that goes on: where it
    ends, and whatever it has started there, the process does."""
    get_hub().loop.destroy()
    set_hub(None)  # type: ignore[arg-type]
    current = main = getcurrent()
    while main.parent is not None:
        main = main.parent
    if current is not main:
        last = greenlet(_end, main)
        last.switch(current)
        get_hub().parent = last
        current.parent = get_hub()


def _end(back: greenlet) -> None:
    try:
        back.switch()
    finally:
        os._exit(0)


class _NoConnection(Connection):
    """A connection as the child of its worker sees it: the app that forked has come back."""

    __slots__ = ()

    def send(self, *_: Any) -> None:
        os._exit(0)

    send_part = send_pieces = send_file = send

    def _answer_fault(self, _: Exchange, error: BaseException) -> str:
        code = error.code if isinstance(error, SystemExit) else 1
        os._exit(code if isinstance(code, int) else int(code is not None))

    def _end(self, *_: Any) -> float:
        os._exit(0)
