"""Whoever asks one thing after the other is answered sooner: the loop looks on for the next request
before it sleeps.

To be woken takes the kernel longer than a small answer takes here. What is spent on it is bounded:
nothing is, unless the last request came within ``LOOK_SECONDS`` of the answer before, and
``REST_SECONDS`` pass after a look in vain. Refuses to know what a request is.
"""

from time import monotonic
from typing import Any

from gevent import get_hub

LOOK_SECONDS = 40e-6
# a client that needs this very core to ask again finds it free
REST_SECONDS = 0.01


class Lookout:
    """``note_turn`` is told of each turn of the event loop that had one request, in the hub.

    Not for the workers of pools, nor where an answer comes from one: what others need to answer is
    the processor.
    """

    def __init__(self) -> None:
        # as long as it is active, the loop polls instead of waiting
        self._watcher: Any = get_hub().loop.idle(ref=False)
        self._until = 0.0
        self._rests_until = 0.0

    @property
    def is_looking(self) -> bool:
        """Whether the loop will not sleep now."""
        return bool(self._watcher.active)

    def note_turn(self, began: float, ended: float) -> None:
        """A request was begun and answered between these moments (monotonic)."""
        is_expected = self._rests_until <= began < self._until
        self._until = ended + LOOK_SECONDS
        if is_expected and not self._watcher.active:
            self._watcher.start(self._look)

    def close(self) -> None:
        """Look no more."""
        self._watcher.stop()

    def _look(self) -> None:
        """Called by the loop whenever it has found nothing."""
        now = monotonic()
        if now >= self._until:
            self._watcher.stop()
            self._rests_until = now + REST_SECONDS
