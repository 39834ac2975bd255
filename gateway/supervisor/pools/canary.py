"""The canary: counts the server errors of new workers for a while after a reload.

Only observes; the caller acts on the verdict. Source: the setting ``server.watch``.
"""

import asyncio
import time
from collections.abc import Callable

from gateway.config.model import Watch
from gateway.supervisor.generations.generation import Generation
from gateway.supervisor.pools.pool import Change, Means

COUNT_SECONDS = 0.25
# with fewer responses a share means nothing
MIN_RESPONSES = 20


class Canary:
    """Begins with the commit of ``changes``, by pool. ``find`` gives the current generation of a
    pool, which is another one each time that the pool has been woken."""

    def __init__(
        self,
        changes: dict[str, Change],
        watch: Watch,
        find: Callable[[str], Generation | None],
    ) -> None:
        self._watch = watch
        self._find = find
        self._ends = time.monotonic() + watch.for_seconds
        # with the counts so far of each new generation: answers to probes do not count
        self._candidates = {
            name: (change.old, {change.new: change.new.count()})
            for name, change in changes.items()
            if change.old is not None and change.means is not Means.IN_PLACE
        }

    async def judge(self) -> str:
        """Wait for the end of the time, or for too many errors. Why the new workers are worse, ""
        if they are not."""
        while self._candidates and time.monotonic() < self._ends:
            await asyncio.sleep(COUNT_SECONDS)
            for name, (old, news) in self._candidates.items():
                if (woken := self._find(name)) is not None:
                    news.setdefault(woken, (0, 0))
                if fault := self._find_fault(old, *_count_since(news)):
                    return f"pool {name}: {fault}"
        return ""

    def _find_fault(self, old: Generation, responses: int, failures: int) -> str:
        if responses < MIN_RESPONSES:
            return ""
        before, failed_before = old.count()
        share, share_before = failures / responses, failed_before / max(before, 1)
        if share <= max(self._watch.max_error_rate, share_before):
            return ""
        return (
            f"{failures} of {responses} responses were server errors, {share:.1%}; "
            f"{self._watch.max_error_rate:.1%} are allowed (server.watch), and {share_before:.1%} "
            "were those of the previous workers"
        )


def _count_since(generations: dict[Generation, tuple[int, int]]) -> tuple[int, int]:
    """Responses and failures of all generations together, beyond their earlier counts."""
    counts = [(*each.count(), *before) for each, before in generations.items()]
    return sum(r - b for r, _, b, _ in counts), sum(f - b for _, f, _, b in counts)
