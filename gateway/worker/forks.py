"""A process that an app has forked: it is not a worker, and runs no code of its parent.

Such a child must not send responses, run other requests, write access records or change the shared
memory of requests in flight. It exits where it would return to the gateway's code. Source: fork(2):
the child has copies of all greenlets, event watchers, sockets and shared memory of its parent.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from typing import Any

from gevent import get_hub, monkey
from gevent._hub_local import set_hub
from greenlet import getcurrent, greenlet

from gateway.http.exchange import Exchange
from gateway.http.service import Service
from gateway.http.wire.wire import Wire
from gateway.mounts.threads import end_in_child

# gevent's may defer the close to its event loop, which does not run in the child
_close = monkey.get_original("os", "close")


def detach_at_fork(service: Service, *, is_patched: bool) -> None:
    """Detach children that apps fork from this worker. ``is_patched``: apps run as greenlets in
    this thread."""

    def part() -> None:
        # its parent may stop it with SIGTERM
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _leave_requests(service)
        if is_patched:
            _leave_loop()
        else:
            end_in_child()

    os.register_at_fork(after_in_child=part)


def close_in_children(descriptors: Iterable[int]) -> None:
    """Close these in all processes that apps start, forked children included: otherwise a port
    stays in use until the last of them has exited."""
    kept = tuple(descriptors)
    for descriptor in kept:
        os.set_inheritable(descriptor, False)

    def let_go() -> None:
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in kept:
            # replaced, not closed: objects in the child would close the next file of that number
            os.dup2(nothing, descriptor, inheritable=False)
        _close(nothing)

    os.register_at_fork(after_in_child=let_go)


def _leave_requests(service: Service) -> None:
    service.access_log.is_on = False
    service.in_flight.memory = bytearray(len(service.in_flight.memory))  # a private copy
    for connection in service.connections:
        connection.wire.__class__ = _NoWire
        if connection.exchange is not None:
            connection.exchange.__class__ = _NoExchange
        # a client sees the end of a response only once all copies of the socket are closed
        _close(connection.wire.detach())


def _leave_loop() -> None:
    """A new event loop for the current greenlet, without the parent's watchers: when that greenlet
    ends, the process exits."""
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


class _NoWire(Wire):
    """A connection in a forked child: the app that forked has returned, so the child exits."""

    __slots__ = ()

    def send(self, *_: Any) -> None:
        os._exit(0)

    send_part = send_pieces = send_file = send


class _NoExchange(Exchange):
    """The same of a request."""

    __slots__ = ()

    def _answer_fault(self, error: BaseException) -> str:
        code = error.code if isinstance(error, SystemExit) else 1
        os._exit(code if isinstance(code, int) else int(code is not None))

    def end(self, *_: Any) -> float:
        os._exit(0)
