"""What was found out of a text before, since texts come again: field lines, names, addresses.

The one place where the engine remembers what clients and servers have sent. A memory is bounded by
entries, by the length of a text, and by how much it learns in a second: whoever sends ever new
texts makes it cost no more than the look-up that fails. Refuses to know what the texts mean.
"""

from __future__ import annotations

from time import monotonic
from typing import TypeVar

# a fraction of a per cent of a processor
LEARNT_PER_SECOND = 4096

_Found = TypeVar("_Found")


class Memory(dict[str, _Found]):
    """Text to what was found out of it. A subclass has ``__missing__`` find it out, and ``keep`` it
    where it may be kept. At most ``most`` texts of at most ``longest`` characters; begun anew when
    there are more."""

    # whether anything is kept: the one switch
    is_on = True

    def __init__(self, most: int, longest: int) -> None:
        super().__init__()
        self._most = most
        self._longest = longest
        self._learnable = 0  # until the second ends that began at ``_second``
        self._second = 0.0

    def keep(self, text: str, found: _Found) -> None:
        """Remember it, if there is room for it now."""
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
