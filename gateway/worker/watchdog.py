"""Logs which request blocks a worker's event loop, from outside of that loop.

Owns a native thread, unknown to gevent: it must not wait for a greenlet, so it uses neither locks
of ``threading`` nor handlers of ``logging``. Killing a blocked worker is up to the supervisor. C
code that blocks the loop and holds the GIL stops this thread, too.
"""

from __future__ import annotations

import sys
import time
import traceback
from types import FrameType

from gevent import monkey

from gateway.debugger import find_breakpoint
from gateway.http.exchange import Exchange
from gateway.http.service import Service
from gateway.logs import prepare_entries
from gateway.outlet import Outlet

# a check that is later than this factor is not the loop's fault: the whole machine was paused
MAX_LATE = 2.0
LOOK_SECONDS = (0.05, 0.5)


class Watchdog:
    """Watches the event loop of ``service`` and logs to ``outlet``. Create it in the thread of the
    loop."""

    def __init__(self, service: Service, outlet: Outlet) -> None:
        self._service = service
        self._outlet = outlet
        self._sleep = monkey.get_original("time", "sleep")
        self._watched = monkey.get_original("_thread", "get_ident")()
        self._make_entry = prepare_entries()

    def start(self) -> None:
        """Start the thread, which runs until the process exits."""
        monkey.get_original("_thread", "start_new_thread")(self._run, ())

    def _run(self) -> None:
        in_flight = self._service.in_flight
        heartbeat, silent, is_reported = 0.0, 0.0, False
        while True:
            limit = self._service.limits.block_warn_seconds
            silent += self._pause(limit)
            if in_flight.heartbeat != heartbeat:
                if is_reported:
                    in_flight.note_blocking_request("")
                    self._write(f"the event loop is running again, after {silent:.1f} s")
                heartbeat, silent, is_reported = in_flight.heartbeat, 0.0, False
            elif heartbeat and 0 < limit <= silent and not is_reported:
                is_reported = True
                self._report(silent)

    def _pause(self, limit: float) -> float:
        """Wait a fraction of ``limit``; returns the seconds, at most MAX_LATE times as many."""
        shortest, longest = LOOK_SECONDS
        seconds = min(max(limit / 4, shortest), longest)
        before = time.monotonic()
        self._sleep(seconds)
        return min(time.monotonic() - before, seconds * MAX_LATE)

    def _report(self, silent: float) -> None:
        frame = sys._current_frames().get(self._watched)
        stack, exchange = find_blocking_request(frame)
        line = exchange.describe() if exchange is not None else ""
        place = find_breakpoint(frame)
        extra, what = {}, "it is not blocked by a request"
        if exchange is not None and exchange.mount is not None:
            extra = {"mount": exchange.mount.name, "request_id": exchange.request_id}
            self._service.in_flight.note_blocking_request(exchange.request_id)
            what = f"mount {exchange.mount.name} blocks it with {line}"
            what += f" (request {exchange.request_id})"
        text = f"the event loop has been silent for {silent:.1f} s: {what}, in\n{stack}"
        if place:
            text = f"an app has stopped in a debugger at {place}"
            text += f" with {line} (request {exchange.request_id})" if exchange is not None else ""
            text += ": other requests of this worker wait"
        self._write(text.rstrip(), **extra)
        # records of the same loop iteration: if the worker is killed, they would be lost
        self._service.access_log.flush()

    def _write(self, message: str, **extra: str) -> None:
        self._outlet.put(self._make_entry(message, **extra))


def find_blocking_request(frame: FrameType | None) -> tuple[str, Exchange | None]:
    """The stack that ends with ``frame``, as text, from the app of a request on, and that request.
    Without a request: the complete stack and None."""
    frames = []
    exchange: Exchange | None = None
    while frame is not None and exchange is None:
        if frame.f_code is Exchange.run.__code__:
            exchange = frame.f_locals["self"]
        else:
            frames.append((frame, frame.f_lineno))
        frame = frame.f_back
    return "".join(traceback.StackSummary.extract(reversed(frames)).format()), exchange
