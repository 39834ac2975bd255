"""Workers that have served enough, or take too much memory, and those that take their place.

One at a time, and none goes before the other serves: where that one does not load, nothing changes
but the log. Knows neither requests nor what is loaded.
"""

import asyncio
import time

from gateway.limits import PoolLimits
from gateway.logs import lifecycle
from gateway.supervisor.backoff import double
from gateway.supervisor.generations.generation import Generation, State
from gateway.supervisor.generations.start_failures import SILENCE, StartFailures
from gateway.supervisor.processes.process import Cause, ChildState, Process, resident_bytes
from gateway.supervisor.tasks import start

# after a replacement that did not load: 5 s, 10 s, 20 s ... but no longer than this
FIRST_RETRY_SECONDS = 5.0
MOST_RETRY_SECONDS = 300.0
# between two that go for their memory: a limit that is too low may not keep the machine busy
MEMORY_REST_SECONDS = 10.0
# Those that leave keep their memory until their last request in flight has ended. So many may do so
# at a time, or as many as there are workers.
MOST_LEAVING = 3
MIB = 2**20


class Recycler:
    """Looks at the workers of one generation, each time that it is asked to."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._failures = 0
        self._reported = StartFailures()
        self._rest_until = 0.0
        self._memory_rest_until = 0.0
        self._is_warned = False
        self._replacing: asyncio.Task[None] | None = None

    def look(self) -> None:
        """End who is far too large, and begin to replace who has to go."""
        generation = self._generation
        limits = generation.config.server.pool_limits
        if limits.max_memory_hard_bytes:
            for child in list(generation.children.values()):
                end_oversized(child, limits.max_memory_hard_bytes)
        is_busy = self._replacing is not None and not self._replacing.done()
        leaving = len(generation.children) - len(generation.crew)
        is_full = leaving >= max(MOST_LEAVING, generation.size)
        may_begin = generation.state is State.SERVING and not generation.is_short
        if is_busy or is_full or not may_begin or time.monotonic() < self._rest_until:
            return
        for child in generation.crew:
            reason = self._find_reason(child, limits)
            if reason:
                self._replacing = start(self._replace(child, reason))
                return

    def _find_reason(self, child: Process, limits: PoolLimits) -> str:
        """Why a worker has to go; "" for one that may stay."""
        if child.state is not ChildState.READY or child.reason:
            return ""
        now = time.monotonic()
        requests, age = child.in_flight.counts().requests, now - child.started
        if 0 < limits.max_requests * child.jitter <= requests:
            return f"it has answered {requests} requests (max_requests)"
        if 0 < limits.max_lifetime_seconds <= age:
            return f"it is {age:.0f} s old (max_lifetime)"
        if 0 < limits.max_memory_bytes <= (memory := resident_bytes(child.pid)):
            return self._judge_memory(child, memory, limits.max_memory_bytes, now)
        return ""

    def _judge_memory(self, child: Process, memory: int, most: int, now: float) -> str:
        if child.loaded_bytes >= most:
            if not self._is_warned:
                self._is_warned = True
                lifecycle.warning(
                    "max_memory (%d MiB) is less than a worker takes that has only loaded its apps "
                    "(%d MiB): none is replaced for it",
                    *(most // MIB, child.loaded_bytes // MIB),
                )
            return ""
        if now < self._memory_rest_until:
            return ""
        self._memory_rest_until = now + MEMORY_REST_SECONDS
        return f"it takes {memory // MIB} MiB (max_memory)"

    async def _replace(self, old: Process, reason: str) -> None:
        generation = self._generation
        try:
            new = await generation.add(is_spare=True)
        except OSError as error:
            self._put_off(old, str(error), error.strerror or str(error))
            return
        if new is None:
            return
        await generation.until(
            lambda: (
                new.state is ChildState.READY
                or new.exit_code is not None
                or generation.state is not State.SERVING
            ),
            None,
        )
        if generation.state is not State.SERVING:
            return  # and takes leave of all its workers
        if new.exit_code is not None:
            why = new.objection or f"it {new.describe_end()}{new.last_words}"
            self._put_off(old, why, new.reason_to_fail)
            return
        new.is_spare = False
        self._failures = 0
        self._reported.end()
        # fewer where another worker has ended meanwhile: the new one stands in for that
        if generation.has_surplus and old.state is ChildState.READY:
            lifecycle.info("worker %d takes the place of %d: %s", new.pid, old.pid, reason)
            old.retire()

    def _put_off(self, old: Process, why: str, reason: str) -> None:
        seconds = double(FIRST_RETRY_SECONDS, self._failures, MOST_RETRY_SECONDS)
        self._failures += 1
        self._rest_until = time.monotonic() + seconds
        if self._reported.note(reason):
            lifecycle.error(
                "worker %d stays, since the one that was to take its place did not load: %s\n"
                "It is tried again in %g s; %s",
                *(old.pid, why, seconds, SILENCE),
            )


def end_oversized(child: Process, most: int) -> None:
    """Kill a worker that takes ``most`` bytes or more."""
    memory = resident_bytes(child.pid) if child.exit_code is None else 0
    if memory >= most and not child.reason:
        told = (child.pid, memory // MIB, most // MIB)
        lifecycle.error("worker %d is killed: it takes %d MiB (max_memory_hard is %d MiB)", *told)
        child.end(f"it took {memory // MIB} MiB of memory", Cause.MEMORY)
