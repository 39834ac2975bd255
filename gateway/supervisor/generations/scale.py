"""How many workers a pool has, between the least and the most that the table allows: one more while
all are busy, one fewer once it has not been needed for a while.

One at a time, and none is counted before it serves. Knows requests by their number alone.
"""

import asyncio
import time
from collections.abc import Callable

from gateway.logs import lifecycle
from gateway.supervisor.generations.generation import Generation, State
from gateway.supervisor.generations.start_failures import SILENCE, StartFailures
from gateway.supervisor.processes.process import ChildState, Process
from gateway.supervisor.tasks import start

# Requests in flight of a worker that is busy; with native threads it is one in each. Fewer would be
# a few clients that wait for something, of which a worker can have any number.
FULL_REQUESTS = 10
# all have to be busy for so long, and one to be spare for so long
UP_SECONDS = 5.0
DOWN_SECONDS = 60.0
# after one that did not load
REST_SECONDS = 60.0


class Scaler:
    """Looks at the workers of one generation, each time that it is asked to."""

    def __init__(self, generation: Generation, clock: Callable[[], float] = time.monotonic) -> None:
        self._generation = generation
        self._clock = clock
        self._busy_since = self._spare_since = clock()
        self._rest_until = 0.0
        self._growing: asyncio.Task[None] | None = None
        self._reported = StartFailures()

    def look(self) -> None:
        """Begin to start another, or end one, where it is time for that."""
        generation, now = self._generation, self._clock()
        pool, size = generation.config.pool, generation.size
        least = generation.config.server.workers
        ready = [child for child in generation.crew if child.state is ChildState.READY]
        is_changing = self._growing is not None and not self._growing.done()
        if is_changing or generation.state is not State.SERVING or len(ready) != size:
            self._busy_since = self._spare_since = now
            return
        full = pool.threads if pool.concurrency == "threads" else FULL_REQUESTS
        counts = [child.in_flight.count() for child in ready]
        if min(counts) < full or size >= pool.workers.max or now < self._rest_until:
            self._busy_since = now
        # what they have would keep one fewer half busy at most
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
            new = await generation.add(is_spare=True)
        except OSError as error:
            self._put_off(str(error), error.strerror or str(error))
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
            self._put_off(new.objection or f"it {new.describe_end()}", new.reason_to_fail)
            return
        new.is_spare = False
        self._reported.end()
        # else another has ended meanwhile, and the new one stands in for that
        if generation.has_surplus:
            generation.size += 1
            self._tell(f"worker {new.pid} joins, since all were busy")

    def _shrink(self, ready: list[Process]) -> None:
        youngest = max(ready, key=lambda child: child.started)
        self._generation.size -= 1
        self._tell(f"worker {youngest.pid} leaves, since the others suffice")
        youngest.retire()

    def _put_off(self, why: str, reason: str) -> None:
        self._rest_until = self._clock() + REST_SECONDS
        if self._reported.note(reason):
            lifecycle.error(
                "the worker that was to join the busy ones did not load: %s; %s", why, SILENCE
            )

    def _tell(self, what: str) -> None:
        generation = self._generation
        lifecycle.info("pool %s: %s: %d now", generation.config.pool.name, what, generation.size)
