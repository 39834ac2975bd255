"""Greenlets that are parked between requests instead of being made anew.

Refuses to know what they run. CPython maps a 16 KiB stack chunk for each new greenlet and unmaps it
at its end; a parked one keeps its chunk.
"""

from collections.abc import Callable
from typing import Any

from gevent import get_hub
from greenlet import GreenletExit, getcurrent, greenlet


class GreenletPool:
    """Runs ``job.run()`` in a greenlet, each run in a fresh, empty ``contextvars`` context.

    At most ``max_parked`` are kept; more run at the same time when more wait.
    """

    def __init__(self, max_parked: int = 256) -> None:
        self._max_parked = max_parked
        self._parked: list[greenlet] = []
        self._hub = get_hub()
        # the hub's own switch() would look after the event loop first, which is running here
        self._to_hub: Callable[[], Any] = greenlet.switch.__get__(self._hub)

    def start(self, job: Any) -> None:
        """Run ``job`` until it ends or first waits. Only from the hub, never from a greenlet."""
        runner = self._parked.pop() if self._parked else greenlet(self._work, self._hub)
        runner.gr_context = None
        runner.switch(job)

    def _work(self, job: Any) -> None:
        parked, to_hub, job_class = self._parked, self._to_hub, job.__class__
        me = getcurrent()
        while len(parked) < self._max_parked:
            job.run()
            job = None
            parked.append(me)
            while job.__class__ is not job_class:
                # what is no job is a late wake-up, meant for the request that ran here before
                try:
                    job = to_hub()
                except GreenletExit:
                    parked.remove(me)
                    return
                except BaseException:  # noqa: BLE001  a late gevent.Timeout, for one
                    continue
        job.run()
