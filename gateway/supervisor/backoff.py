"""The pause before a worker is started in place of one that ended.

Knows exits by their moments alone.
"""

# the pause after a worker that ended soon after its start: 0.1 s, 0.2 s, 0.4 s ... up to this
MAX_BACKOFF_SECONDS = 10.0
FIRST_BACKOFF_SECONDS = 0.1
# If it had served, its start is not at fault, and clients wait: no pause for this many rounds, and
# then up to this.
SERVED_BACKOFF_SECONDS = 0.5
SERVED_ROUNDS = 2
# the exit of a worker that had loaded and lived this long has nothing to do with its start
YOUNG_SECONDS = 5.0
# A worker that never loaded used the processor for as long as it tried: the first pause is this
# share of that time, and the longest is that time, unless the values above are larger.
FIRST_SHARE = 1 / 8


class Backoff:
    """The pause before each replacement: longer with every round of early exits.

    Workers that were started together are one round. ``rounds`` counts those in a row, ``seconds``
    is the last pause, and ``until`` the monotonic moment at which it ends.
    """

    def __init__(self) -> None:
        self.rounds = 0
        self.seconds = 0.0
        self.until = 0.0
        self._counted = 0.0

    def note_death(
        self, started: float, now: float, *, has_served: bool, has_loaded: bool = True
    ) -> float:
        """The pause after a worker that ``started`` then has ended ``now``; both monotonic."""
        lived = now - started
        if has_loaded and lived > YOUNG_SECONDS:
            self.rounds = 0
        elif started > self._counted:
            self.rounds += 1
            self._counted = now
        rounds = self.rounds - SERVED_ROUNDS if has_served else self.rounds
        delay = backoff_seconds(rounds, 0.0 if has_loaded else lived)
        return self._delay(min(delay, SERVED_BACKOFF_SECONDS) if has_served else delay, now)

    def note_failure(self, now: float) -> float:
        """The pause after a start or other work that failed."""
        self.rounds += 1
        return self._delay(backoff_seconds(self.rounds), now)

    def reset(self) -> None:
        """All is well: the next failure counts as the first."""
        self.rounds = 0

    def _delay(self, seconds: float, now: float) -> float:
        self.seconds, self.until = seconds, now + seconds
        return seconds


def backoff_seconds(rounds: int, lived: float = 0.0) -> float:
    """The pause after so many rounds of starts that took ``lived`` seconds each; 0 after none."""
    if rounds <= 0:
        return 0.0
    first = max(FIRST_BACKOFF_SECONDS, lived * FIRST_SHARE)
    return double(first, rounds - 1, max(MAX_BACKOFF_SECONDS, lived))


def double(first: float, times: int, most: float) -> float:
    """``first``, doubled so many times, and at most ``most``."""
    # the exponent is bounded: something may fail for days
    return float(min(first * 2 ** min(times, 16), most))
