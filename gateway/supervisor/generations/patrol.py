"""Looks after the workers of one generation while it lives: whose event loop is silent for too
long is ended.

Reads what workers publish, and asks them nothing: one that is wedged does not answer. Knows the
limits of the generation's configuration as it is at each look.
"""

import asyncio
import signal
import time
from collections.abc import Callable
from functools import partial

from gateway.inflight import InFlightRequest
from gateway.logs import lifecycle
from gateway.supervisor.generations.generation import Generation, State
from gateway.supervisor.generations.recycle import Recycler
from gateway.supervisor.generations.retries import Retrier
from gateway.supervisor.generations.scale import Scaler
from gateway.supervisor.processes.process import (
    ABORT_SECONDS,
    Cause,
    ChildState,
    Process,
    read_stat,
)
from gateway.supervisor.tasks import guard

LOOK_SECONDS = 0.25
# a later look is no worker's fault: the machine, or the whole container, stood still
MOST_ELAPSED_SECONDS = 1.0
# how often memory, age and requests are looked at
WEIGH_SECONDS = 1.0
# those that have a loop, and no other deadline
WATCHED = frozenset((ChildState.READY, ChildState.PAUSED, ChildState.RETIRING))
# of requests in flight, in a log entry
MOST_TOLD = 10


async def patrol(generation: Generation) -> None:
    """Until the last worker has gone."""
    retry = guard(Retrier(generation).look)
    weigh = [guard(Recycler(generation).look), guard(Scaler(generation).look)]
    workers: dict[Process, Callable[[], None]] = {}
    elapsed, looked = 0.0, time.monotonic()
    weighed = looked

    def look_after(child: Process) -> None:
        child.note_silence(min(elapsed, MOST_ELAPSED_SECONDS))
        end_silent(child, generation.config.server.limits.block_timeout_seconds)

    while generation.children or generation.state in (State.STARTING, State.SERVING):
        await asyncio.sleep(LOOK_SECONDS)
        elapsed, looked = time.monotonic() - looked, time.monotonic()
        # each by itself: whatever one worker may have, the others are looked after
        workers = {
            child: workers.get(child) or guard(partial(look_after, child))
            for child in generation.children.values()
        }
        for look in (*workers.values(), retry):
            look()
        if looked - weighed >= WEIGH_SECONDS:
            weighed = looked
            for look in weigh:
                look()


def end_silent(child: Process, limit: float) -> None:
    """End a worker whose loop has been silent for ``limit`` seconds; 0 is no limit."""
    silent = child.silent - child.excused
    if not 0 < limit <= silent or child.state not in WATCHED or child.reason:
        return
    if is_stopped(child.pid):  # by a person or a debugger, who will let it go on
        child.excused = child.silent
        return
    requests = child.in_flight.requests()
    lifecycle.error(
        "worker %d is ended: its event loop has been silent for %.1f s (server.block_timeout), "
        "with requests in flight: %s",
        *(child.pid, child.silent, describe_requests(requests)),
    )
    reason = f"its event loop was silent for {child.silent:.1f} s"
    child.end(reason, Cause.BLOCKED, signal.SIGABRT)
    asyncio.get_running_loop().call_later(ABORT_SECONDS, child.kill)


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal or a debugger."""
    try:
        return read_stat(pid)[0] in "Tt"
    except OSError:
        return False


def describe_requests(requests: list[InFlightRequest]) -> str:
    """How many, and the oldest of them."""
    told = [f"{r.method} {r.target} <- {r.mount} ({r.request_id})" for r in requests[:MOST_TOLD]]
    more = ["..."] if len(requests) > MOST_TOLD else []
    return f"{len(requests)}: {', '.join(told + more)}" if requests else "0"
