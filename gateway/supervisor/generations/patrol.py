"""Watches the workers of one generation: ends one whose event loop does not turn any more, and has
retries, recycling and scaling looked at.

Reads shared memory and asks workers nothing: one that hangs does not answer. Source: the setting
``server.block_timeout``.
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
# a look that comes later than this is no worker's fault: the machine, or the container, was paused
MAX_ELAPSED_SECONDS = 1.0
# between two looks at memory, age and number of requests
WEIGH_SECONDS = 1.0
# states with an event loop and without another deadline
WATCHED = frozenset((ProcessState.READY, ProcessState.PAUSED, ProcessState.RETIRING))
# of requests in flight that a log entry shows
MAX_DESCRIBED = 10


async def patrol(generation: Generation) -> None:
    """Watch until the generation has no process any more."""
    retry = guard(Retrier(generation).look)
    weigh = [guard(Recycler(generation).look), guard(Scaler(generation).look)]
    workers: dict[Process, Callable[[], None]] = {}
    elapsed, looked = 0.0, time.monotonic()
    weighed = looked

    def look_after(process: Process) -> None:
        process.note_silence(min(elapsed, MAX_ELAPSED_SECONDS))
        end_silent(process, generation.config.server.limits.block_timeout_seconds)

    while generation.processes or generation.state in (
        GenerationState.STARTING,
        GenerationState.SERVING,
    ):
        await asyncio.sleep(PATROL_SECONDS)
        elapsed, looked = time.monotonic() - looked, time.monotonic()
        # each by itself: a fault with one worker leaves the others watched
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
    """End a worker whose event loop has not turned for ``limit`` seconds; 0 is no limit."""
    silent = process.silent - process.excused
    if not 0 < limit <= silent or process.state not in WATCHED or process.reason:
        return
    if is_stopped(process.pid):  # by a person or a debugger, who continue it later
        process.excuse_silence()
        return
    requests = process.in_flight.requests()
    lifecycle.error(
        "worker %d is killed: its event loop has been silent for %.1f s (server.block_timeout), "
        "with requests in flight: %s",
        *(process.pid, process.silent, describe_requests(requests)),
    )
    reason = f"its event loop was silent for {process.silent:.1f} s"
    process.end(reason, Cause.BLOCKED, signal.SIGABRT)
    asyncio.get_running_loop().call_later(ABORT_SECONDS, process.kill)


def is_stopped(pid: int) -> bool:
    """The process was stopped by a signal or a debugger."""
    try:
        return read_stat(pid)[0] in "Tt"
    except OSError:
        return False


def describe_requests(requests: list[InFlightRequest]) -> str:
    """Their number, and the oldest of them."""
    described = [
        f"{r.method} {r.target} <- {r.mount} ({r.request_id})" for r in requests[:MAX_DESCRIBED]
    ]
    more = ["..."] if len(requests) > MAX_DESCRIBED else []
    return f"{len(requests)}: {', '.join(described + more)}" if requests else "0"
