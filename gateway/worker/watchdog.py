"""Tells which request keeps a worker's event loop from turning, without that loop's help.

Owns a thread of the operating system's own, which gevent knows nothing of: whatever it calls may
not wait for a greenlet, so neither locks of ``threading`` nor handlers of ``logging``. Refuses to
end anything; that is the supervisor's. A loop that is held by C code which keeps the interpreter's
lock stops this thread too.
"""

from __future__ import annotations

import sys
import time
import traceback
from types import FrameType

from gevent import monkey

from gateway.debugger import find_breakpoint
from gateway.http.connection import Connection
from gateway.http.exchange import Exchange
from gateway.http.service import Service
from gateway.logs import prepare_entries
from gateway.outlet import Outlet

# a late look is not the loop's fault: the machine, or the whole container, stood still
MOST_LATE = 2.0
LOOK_SECONDS = (0.05, 0.5)
_TARGET = 200


class Watchdog:
    """Watches the loop of ``service``, from this thread, the loop's own; what it finds is written
    to ``outlet``."""

    def __init__(self, service: Service, outlet: Outlet) -> None:
        self._service = service
        self._outlet = outlet
        self._sleep = monkey.get_original("time", "sleep")
        self._watched = monkey.get_original("_thread", "get_ident")()
        self._make_entry = prepare_entries()

    def start(self) -> None:
        """Watch until the process ends."""
        monkey.get_original("_thread", "start_new_thread")(self._run, ())

    def _run(self) -> None:
        in_flight = self._service.in_flight
        heartbeat, silent, is_told = 0.0, 0.0, False
        while True:
            limit = self._service.limits.block_warn_seconds
            silent += self._pause(limit)
            if in_flight.heartbeat != heartbeat:
                if is_told:
                    in_flight.note_blocking_request("")
                    self._write(f"the event loop turns again, after {silent:.1f} s")
                heartbeat, silent, is_told = in_flight.heartbeat, 0.0, False
            elif heartbeat and 0 < limit <= silent and not is_told:
                is_told = True
                self._tell(silent)

    def _pause(self, limit: float) -> float:
        """Wait a fraction of ``limit``; how long that was, as far as it counts."""
        shortest, longest = LOOK_SECONDS
        seconds = min(max(limit / 4, shortest), longest)
        before = time.monotonic()
        self._sleep(seconds)
        return min(time.monotonic() - before, seconds * MOST_LATE)

    def _tell(self, silent: float) -> None:
        frame = sys._current_frames().get(self._watched)
        stack, exchange, line = find_blocking_request(frame)
        place = find_breakpoint(frame)
        extra, what = {}, "what keeps it is no request"
        if exchange is not None and exchange.mount is not None:
            extra = {"mount": exchange.mount.name, "request_id": exchange.request_id}
            self._service.in_flight.note_blocking_request(exchange.request_id)
            what = f"mount {exchange.mount.name} keeps it with {line}"
            what += f" (request {exchange.request_id})"
        text = f"the event loop has been silent for {silent:.1f} s: {what}, in\n{stack}"
        if place:
            text = f"an app waits in a debugger at {place}"
            text += f" with {line} (request {exchange.request_id})" if exchange is not None else ""
            text += ": other requests of this worker wait meanwhile"
        self._write(text.rstrip(), **extra)
        # what was answered before it in the same turn; if the worker is killed, nobody else will
        self._service.access_log.flush()

    def _write(self, message: str, **extra: str) -> None:
        self._outlet.put(self._make_entry(message, **extra))


def find_blocking_request(frame: FrameType | None) -> tuple[str, Exchange | None, str]:
    """The stack that ``frame`` ends, as text, down to the request that it runs; that request, and
    its method and target. All of the stack and no request where it runs none."""
    frames = []
    exchange: Exchange | None = None
    line = ""
    while frame is not None and exchange is None:
        if frame.f_code is Connection.run.__code__:
            exchange, head = (frame.f_locals.get(name) for name in ("response", "head"))
            line = f"{head.method} {head.target[:_TARGET]}" if head else ""
        else:
            frames.append((frame, frame.f_lineno))
        frame = frame.f_back
    return "".join(traceback.StackSummary.extract(reversed(frames)).format()), exchange, line
