"""Which failures to start are news: what is tried again and again and fails for one reason is
reported once, and once more when it serves.

Knows failures by their reasons alone.
"""

import re

# what differs from one try to the next in what servers write: times, pids, ports, addresses
_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|\d+(?:[.,:]\d+)*")
# of one outage, however its reasons vary
MOST_REASONS = 8

# what a person is told, who would wait for the next entry
SILENCE = "further attempts are logged only if the reason changes"


class StartFailures:
    """Those since a process last served; false where there are none.

    ``has_served``: one of them ended after it had served for a short time, so that to serve again
    says little.
    """

    def __init__(self) -> None:
        self._reasons: set[str] = set()
        self.has_served = False

    def __bool__(self) -> bool:
        return bool(self._reasons)

    def note(self, reason: str, *, has_served: bool = False) -> bool:
        """Whether a failure is news, that is, for a reason which the log does not have yet, but for
        its numbers."""
        self.has_served |= has_served
        reason = _NUMBERS.sub("#", reason)
        if reason in self._reasons or len(self._reasons) >= MOST_REASONS:
            return False
        self._reasons.add(reason)
        return True

    def end(self) -> bool:
        """One serves, and is expected to go on; whether that is news."""
        is_news = bool(self)
        self._reasons.clear()
        self.has_served = False
        return is_news
