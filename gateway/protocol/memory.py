"""Caches of parsed texts, since the same field lines, names and addresses arrive again and again.

The only place where the engine remembers what clients and servers have sent. A cache is bounded by
its number of entries, by the length of a text, and by additions per second: texts that never repeat
cost a failed look-up, and no more.
"""

from __future__ import annotations

from time import monotonic
from typing import TypeVar

# costs a fraction of one per cent of a CPU core
LEARNT_PER_SECOND = 4096

_Found = TypeVar("_Found")


class Memory(dict[str, _Found]):
    """Maps a text to its parsed value. Subclasses parse in ``__missing__`` and ``keep`` values that
    may be kept. Holds at most ``most`` texts of at most ``longest`` characters; a full cache is
    emptied."""

    # turns all caches off
    is_on = True

    def __init__(self, most: int, longest: int) -> None:
        super().__init__()
        self._most = most
        self._longest = longest
        self._learnable = 0  # additions left in the second that began at ``_second``
        self._second = 0.0

    def keep(self, text: str, found: _Found) -> None:
        """Add an entry, unless the bounds forbid it."""
        if len(text) > self._longest:
            return
        if not self._learnable:
            now = monotonic()
            if now < self._second + 1 or not self.is_on:
                return
            self._second, self._learnable = now, LEARNT_PER_SECOND
        self._learnable -= 1
        if len(self) >= self._most:
            self.clear()
        self[text] = found
