"""A pool of greenlets that run requests at the end of each iteration of the event loop.

CPython maps a 16 KiB stack chunk for each new greenlet and unmaps it at its end; a parked greenlet
keeps its chunk.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from gevent import get_hub
from greenlet import GreenletExit, getcurrent, greenlet

# a parked greenlet ends after this long without a job, at most twice as long: what apps keep for
# each thread, such as database connections, is freed with it
UNUSED_SECONDS = 10.0
# maximum number of parked greenlets
MAX_PARKED = 256
# asks a parked greenlet whether it is unused
_IS_UNUSED = object()


class GreenletPool:
    """Runs the jobs that are submitted at the end of a turn of the event loop, by
    ``job.run(greenlet, now)``: ``now`` is the monotonic time, and a job returns that of its end.
    Where that raises, ``job.abandon(error)`` is called, which returns the same and may not wait.

    One greenlet runs them one after the other; where a job waits, another greenlet takes the next.
    Each run begins in a fresh, empty ``contextvars`` context. At most MAX_PARKED greenlets are
    kept, the last parked is used first, and those unused end; more run when more wait.
    """

    def __init__(self) -> None:
        self._parked: list[greenlet] = []  # in the order of their parking
        self._swept = monotonic()
        self._queue: deque[Any] = deque()
        # Run a job at the end of this iteration. Call it only from an io or timer watcher, or from
        # another job: after callbacks the loop waits.
        self.submit: Callable[[Any], None] = self._queue.append
        self._hub = get_hub()
        # called once an iteration, with the lowest priority: after all input
        self._turn_end = self._hub.loop.check(ref=False, priority=-2)
        self._turn_end.start(self._run_queued)
        # not hub.switch(), which would first check the event loop, which is running here
        self._to_hub: Callable[..., Any] = greenlet.switch.__get__(self._hub)

    def close(self) -> None:
        """Run no further jobs."""
        self._turn_end.stop()

    def sweep(self, now: float) -> None:
        """End unused greenlets. Call it in the hub, from time to time."""
        if now - self._swept < UNUSED_SECONDS:
            return
        self._swept = now
        parked, count = self._parked, 0
        while count < len(parked) and parked[count].switch(_IS_UNUSED):
            count += 1
        if count:
            # in a greenlet, since finalizers may wait
            greenlet(self._end, self._hub).switch(parked[:count])

    def _end(self, unused: list[greenlet]) -> None:
        del self._parked[: len(unused)]
        while unused:
            unused[-1].parent = getcurrent()
            unused.pop().throw()
        gc.collect()  # what apps keep for each thread is mostly part of a cycle

    def _run_queued(self) -> None:
        queue = self._queue
        parked = self._parked
        while queue:
            runner = parked.pop() if parked else greenlet(self._work, self._hub)
            runner.switch(self)

    def _work(self, _: Any) -> None:
        parked, to_hub, queue = self._parked, self._to_hub, self._queue
        me = getcurrent()
        while True:
            now = monotonic()
            while queue:
                me.gr_context = None
                job = queue.popleft()
                try:
                    now = job.run(me, now)
                except BaseException as error:  # noqa: BLE001  the other jobs must run
                    now = job.abandon(error)
            if len(parked) >= MAX_PARKED:
                return
            parked.append(me)
            called_by = None
            while called_by is not self:
                # anything else is a late wake-up for an earlier request
                try:
                    called_by = to_hub()
                    while called_by is _IS_UNUSED:
                        called_by = to_hub(now <= self._swept - UNUSED_SECONDS)
                except GreenletExit:
                    if me in parked:
                        parked.remove(me)
                    return
                except BaseException:  # noqa: BLE001  a late gevent.Timeout, for one
                    continue
