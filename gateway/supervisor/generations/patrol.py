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
from gateway.supervisor.generations.generation import Generation, GenerationState
from gateway.supervisor.generations.recycle import Recycler
from gateway.supervisor.generations.retries import Retrier
from gateway.supervisor.generations.scale import Scaler
from gateway.supervisor.processes.process import (
    ABORT_SECONDS,
    Cause,
    Process,
    ProcessState,
    read_stat,
)
from gateway.supervisor.tasks import guard

PATROL_SECONDS = 0.25
# a later look is no worker's fault: the machine, or the whole container, stood still
MOST_ELAPSED_SECONDS = 1.0
# how often memory, age and requests are looked at
WEIGH_SECONDS = 1.0
# those that have a loop, and no other deadline
WATCHED = frozenset((ProcessState.READY, ProcessState.PAUSED, ProcessState.RETIRING))
# of requests in flight, in a log entry
MOST_DESCRIBED = 10


async def patrol(generation: Generation) -> None:
    """Until the last worker has gone."""
    retry = guard(Retrier(generation).look)
    weigh = [guard(Recycler(generation).look), guard(Scaler(generation).look)]
    workers: dict[Process, Callable[[], None]] = {}
    elapsed, looked = 0.0, time.monotonic()
    weighed = looked

    def look_after(process: Process) -> None:
        process.note_silence(min(elapsed, MOST_ELAPSED_SECONDS))
        end_silent(process, generation.config.server.limits.block_timeout_seconds)

    while generation.processes or generation.state in (
        GenerationState.STARTING,
        GenerationState.SERVING,
    ):
        await asyncio.sleep(PATROL_SECONDS)
        elapsed, looked = time.monotonic() - looked, time.monotonic()
        # each by itself: whatever one worker may have, the others are looked after
        workers = {
            process: workers.get(process) or guard(partial(look_after, process))
            for process in generation.processes.values()
        }
        for look in (*workers.values(), retry):
            look()
        if looked - weighed >= WEIGH_SECONDS:
            weighed = looked
            for look in weigh:
                look()


def end_silent(process: Process, limit: float) -> None:
    """End a worker whose loop has been silent for ``limit`` seconds; 0 is no limit."""
    silent = process.silent - process.excused
    if not 0 < limit <= silent or process.state not in WATCHED or process.reason:
        return
    if is_stopped(process.pid):  # by a person or a debugger, who will let it go on
        process.excuse_silence()
        return
    requests = process.in_flight.requests()
    lifecycle.error(
        "worker %d is ended: its event loop has been silent for %.1f s (server.block_timeout), "
        "with requests in flight: %s",
        *(process.pid, process.silent, describe_requests(requests)),
    )
    reason = f"its event loop was silent for {process.silent:.1f} s"
    process.end(reason, Cause.BLOCKED, signal.SIGABRT)
    asyncio.get_running_loop().call_later(ABORT_SECONDS, process.kill)


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal or a debugger."""
    try:
        return read_stat(pid)[0] in "Tt"
    except OSError:
        return False


def describe_requests(requests: list[InFlightRequest]) -> str:
    """How many, and the oldest of them."""
    described = [
        f"{r.method} {r.target} <- {r.mount} ({r.request_id})" for r in requests[:MOST_DESCRIBED]
    ]
    more = ["..."] if len(requests) > MOST_DESCRIBED else []
    return f"{len(requests)}: {', '.join(described + more)}" if requests else "0"
