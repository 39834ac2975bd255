"""Adapts the number of a pool's workers, between the least and the most that the table allows: one
more while all are busy, one fewer once it has not been needed for a while.

One at a time, and a new one counts once it serves. Knows requests by their number alone. Source:
the settings ``workers.min`` and ``workers.max`` of a pool.
"""

import asyncio
import time
from collections.abc import Callable

from gateway.logs import lifecycle
from gateway.supervisor.generations.generation import Generation, GenerationState
from gateway.supervisor.generations.start_failures import SILENCE, StartFailures
from gateway.supervisor.processes.process import Process, ProcessState
from gateway.supervisor.tasks import start
from gateway.uncaught import report_own, summarize

# A worker with this many requests in flight is busy; with native threads, one request in each
# thread. Fewer may be clients that wait for something, which cost a worker nothing.
FULL_REQUESTS = 10
# all have to be busy, and one has to be unneeded, for this long
UP_SECONDS = 5.0
DOWN_SECONDS = 60.0
# the pause after one that did not load
REST_SECONDS = 60.0


class Scaler:
    """Adapts the size of one generation; ``look`` is called once a second."""

    def __init__(self, generation: Generation, clock: Callable[[], float] = time.monotonic) -> None:
        self._generation = generation
        self._clock = clock
        self._busy_since = self._spare_since = clock()
        self._rest_until = 0.0
        self._growing: asyncio.Task[None] | None = None
        self._reported = StartFailures()

    def look(self) -> None:
        """Begin to start another worker, or end one, if it is time for that."""
        generation, now = self._generation, self._clock()
        pool, size = generation.config.pool, generation.size
        least = generation.config.server.workers
        ready = [process for process in generation.workers if process.state is ProcessState.READY]
        is_changing = self._growing is not None and not self._growing.done()
        if is_changing or generation.state is not GenerationState.SERVING or len(ready) != size:
            self._busy_since = self._spare_since = now
            return
        full = pool.threads if pool.concurrency == "threads" else FULL_REQUESTS
        counts = [process.in_flight.count() for process in ready]
        if min(counts) < full or size >= pool.workers.max or now < self._rest_until:
            self._busy_since = now
        # one fewer would be more than half busy with these requests
        if sum(counts) > full * (size - 1) / 2 or size <= least:
            self._spare_since = now
        if now - self._busy_since >= UP_SECONDS:
            self._growing = start(self._grow())
        elif now - self._spare_since >= DOWN_SECONDS:
            self._spare_since = now
            self._shrink(ready)

    async def _grow(self) -> None:
        generation = self._generation
        try:
            new = await generation.add_spare()
        except OSError as error:
            self._put_off(str(error), error.strerror or str(error))
            return
        except Exception as error:  # noqa: BLE001  whatever it is, it would be the same at once
            report_own("the start of a further worker", error)
            self._put_off(summarize(error), summarize(error))
            return
        if new is None:
            return
        if new.exit_code is not None:
            self._put_off(new.objection or f"it {new.describe_end()}", new.reason_to_fail)
            return
        new.join()
        self._reported.end()
        # else another has ended meanwhile, and the new one replaces that
        if generation.has_surplus:
            generation.resize(generation.size + 1)
            self._log(f"worker {new.pid} joins, since all were busy")

    def _shrink(self, ready: list[Process]) -> None:
        youngest = max(ready, key=lambda process: process.started)
        self._generation.resize(self._generation.size - 1)
        self._log(f"worker {youngest.pid} leaves, since the others suffice")
        youngest.retire()

    def _put_off(self, why: str, reason: str) -> None:
        self._rest_until = self._clock() + REST_SECONDS
        if self._reported.note(reason):
            lifecycle.error("a further worker did not load: %s; %s", why, SILENCE)

    def _log(self, what: str) -> None:
        generation = self._generation
        lifecycle.info("pool %s: %s: %d now", generation.config.pool.name, what, generation.size)
