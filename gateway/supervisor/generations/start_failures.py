"""Which failures to start are logged: what is tried again and again and fails for one reason is
logged once, and once more when it serves.

Knows failures by their reasons alone.
"""

import re

# parts of messages that differ from one try to the next: times, pids, ports, addresses
_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|\d+(?:[.,:]\d+)*")
# of reasons that are logged for one outage
MAX_REASONS = 8

# for a reader who would wait for the next entry
SILENCE = "further attempts are logged only if the reason changes"


class StartFailures:
    """The failures since a process last served; false if there are none.

    ``has_served``: a process failed after it had served for a short time, so that to serve again
    proves little.
    """

    def __init__(self) -> None:
        self._reasons: set[str] = set()
        self.has_served = False

    def __bool__(self) -> bool:
        return bool(self._reasons)

    def note(self, reason: str, *, has_served: bool = False) -> bool:
        """Whether to log a failure: the log does not have its reason yet, apart from numbers."""
        self.has_served |= has_served
        reason = _NUMBERS.sub("#", reason)
        if reason in self._reasons or len(self._reasons) >= MAX_REASONS:
            return False
        self._reasons.add(reason)
        return True

    def end(self) -> bool:
        """A process serves and is expected to last; whether there were failures before."""
        is_news = bool(self)
        self._reasons.clear()
        self.has_served = False
        return is_news
