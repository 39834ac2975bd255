"""Replaces workers that have served for long enough or take too much memory.

One at a time, and none ends before its replacement serves: if that does not load, the old one
stays. Knows requests by their number alone. Source: the settings ``max_requests``,
``max_lifetime``, ``max_memory`` and ``max_memory_hard``.
"""

import asyncio
import time

from gateway.limits import PoolLimits
from gateway.logs import lifecycle
from gateway.supervisor.backoff import double
from gateway.supervisor.generations.generation import Generation, GenerationState
from gateway.supervisor.generations.start_failures import SILENCE, StartFailures
from gateway.supervisor.processes.process import Cause, Process, ProcessState, resident_bytes
from gateway.supervisor.tasks import start
from gateway.uncaught import report_own, summarize

# the pause after a replacement that did not load: 5 s, 10 s, 20 s ... up to this
FIRST_RETRY_SECONDS = 5.0
MAX_RETRY_SECONDS = 300.0
# between two replacements for memory: a limit that is too low must not keep the machine busy
MEMORY_REST_SECONDS = 10.0
# Workers that leave keep their memory until their last request has ended. No more than this many,
# or than there are workers, may be leaving when another one is replaced.
MAX_LEAVING = 3
MIB = 2**20


class Recycler:
    """Replaces the workers of one generation; ``look`` is called once a second."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._failures = 0
        self._reported = StartFailures()
        self._rest_until = 0.0
        self._memory_rest_until = 0.0
        self._is_warned = False
        self._replacing: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Kill workers above ``max_memory_hard``, and begin to replace one that has to go."""
        generation = self._generation
        limits = generation.config.server.pool_limits
        if limits.max_memory_hard_bytes:
            for process in list(generation.processes.values()):
                end_oversized(process, limits.max_memory_hard_bytes)
        is_busy = self._replacing is not None and not self._replacing.done()
        leaving = len(generation.processes) - len(generation.workers)
        is_full = leaving >= max(MAX_LEAVING, generation.size)
        may_begin = generation.state is GenerationState.SERVING and not generation.is_short
        if is_busy or is_full or not may_begin or time.monotonic() < self._rest_until:
            return
        for process in generation.workers:
            reason = self._find_reason(process, limits)
            if reason:
                self._replacing = start(self._replace(process, reason))
                return

    def _find_reason(self, process: Process, limits: PoolLimits) -> str:
        """Why a worker has to be replaced; "" for one that may stay."""
        if process.state is not ProcessState.READY or process.reason:
            return ""
        now = time.monotonic()
        requests, age = process.in_flight.counts().requests, now - process.started
        if 0 < limits.max_requests * process.jitter <= requests:
            return f"it has answered {requests} requests (max_requests)"
        if 0 < limits.max_lifetime_seconds <= age:
            return f"it is {age:.0f} s old (max_lifetime)"
        if 0 < limits.max_memory_bytes <= (memory := resident_bytes(process.pid)):
            return self._judge_memory(process, memory, limits.max_memory_bytes, now)
        return ""

    def _judge_memory(self, process: Process, memory: int, most: int, now: float) -> str:
        if process.loaded_bytes >= most:
            if not self._is_warned:
                self._is_warned = True
                lifecycle.warning(
                    "max_memory (%d MiB) is less than a worker takes that has only loaded its apps "
                    "(%d MiB): no worker is replaced for it",
                    *(most // MIB, process.loaded_bytes // MIB),
                )
            return ""
        if now < self._memory_rest_until:
            return ""
        self._memory_rest_until = now + MEMORY_REST_SECONDS
        return f"it takes {memory // MIB} MiB (max_memory)"

    async def _replace(self, old: Process, reason: str) -> None:
        generation = self._generation
        try:
            new = await generation.add_spare()
        except OSError as error:
            self._put_off(old, str(error), error.strerror or str(error))
            return
        except Exception as error:  # noqa: BLE001  whatever it is, it would be the same at once
            report_own(f"the replacement of worker {old.pid}", error)
            self._put_off(old, summarize(error), summarize(error))
            return
        if new is None:
            return
        if new.exit_code is not None:
            why = new.objection or f"it {new.describe_end()}{new.last_output}"
            self._put_off(old, why, new.reason_to_fail)
            return
        new.join()
        self._failures = 0
        self._reported.end()
        # no surplus if another worker has ended meanwhile: the new one replaces that
        if generation.has_surplus and old.state is ProcessState.READY:
            lifecycle.info("worker %d replaces worker %d: %s", new.pid, old.pid, reason)
            old.retire()

    def _put_off(self, old: Process, why: str, reason: str) -> None:
        seconds = double(FIRST_RETRY_SECONDS, self._failures, MAX_RETRY_SECONDS)
        self._failures += 1
        self._rest_until = time.monotonic() + seconds
        if self._reported.note(reason):
            lifecycle.error(
                "worker %d stays, since its replacement did not load: %s\n"
                "The next try is in %g s; %s",
                *(old.pid, why, seconds, SILENCE),
            )


def end_oversized(process: Process, most: int) -> None:
    """Kill a worker that takes ``most`` bytes or more."""
    memory = resident_bytes(process.pid) if process.exit_code is None else 0
    if memory >= most and not process.reason:
        figures = (process.pid, memory // MIB, most // MIB)
        lifecycle.error(
            "worker %d is killed: it takes %d MiB (max_memory_hard is %d MiB)", *figures
        )
        process.end(f"it took {memory // MIB} MiB of memory", Cause.MEMORY)
