"""What was learnt from a text before: the same field lines, names and addresses come again.

The one place where the engine remembers what clients and servers have sent. A memory is bounded by
entries, by the length of a text, and by how much it learns in a second: where ever new texts are
sent, it costs a look-up that fails, and no more. Refuses to know what the texts mean.
"""

from __future__ import annotations

from time import monotonic
from typing import TypeVar

# a fraction of a per cent of a processor
LEARNT_PER_SECOND = 4096

_Found = TypeVar("_Found")


class Memory(dict[str, _Found]):
    """Maps a text to what it says. Subclasses find that out in ``__missing__``, and ``keep`` it
    where it may be kept. Holds at most ``most`` texts of at most ``longest`` characters; emptied
    when it is full."""

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
