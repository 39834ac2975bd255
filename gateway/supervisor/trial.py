"""The trial of new workers: for a while after a swap their server errors are counted.

An observer; refuses to know what follows from its verdict. Source: the setting ``server.watch``.
"""

import asyncio
import time

from gateway.config.model import Watch
from gateway.supervisor.pool import Change

LOOK_SECONDS = 0.25
# of fewer responses a share says nothing
LEAST_RESPONSES = 20


class Trial:
    """Begins with the swap that ``changes`` made, by pool."""

    def __init__(self, changes: dict[str, Change], watch: Watch) -> None:
        self._watch = watch
        self._ends = time.monotonic() + watch.for_seconds
        self._candidates = [
            # what their probes were answered does not count
            (name, change, change.new.count())
            for name, change in changes.items()
            if change.old is not None and change.new is not change.old
        ]

    async def judge(self) -> str:
        """Wait for the end, or for too many errors: why the new workers are worse, "" if not."""
        while self._candidates and time.monotonic() < self._ends:
            await asyncio.sleep(LOOK_SECONDS)
            for name, change, (requests, failures) in self._candidates:
                now = change.new.count()
                fault = self._find_fault(change, now[0] - requests, now[1] - failures)
                if fault:
                    return f"pool {name}: {fault}"
        return ""

    def _find_fault(self, change: Change, responses: int, failures: int) -> str:
        if change.old is None or responses < LEAST_RESPONSES:
            return ""
        before, failed_before = change.old.count()
        share, share_before = failures / responses, failed_before / max(before, 1)
        if share <= max(self._watch.max_error_rate, share_before):
            return ""
        return (
            f"{failures} of {responses} responses were server errors, {share:.1%}; "
            f"{self._watch.max_error_rate:.1%} are allowed (server.watch), and {share_before:.1%} "
            "were of the workers before"
        )
