"""How long a worker waits that is started in the place of one that ended.

Knows deaths by their moments alone.
"""

# a worker that dies young is started again after 0.1 s, 0.2 s, 0.4 s ... but no later than this
MAX_BACKOFF_SECONDS = 10.0
FIRST_BACKOFF_SECONDS = 0.1
# Where it had served its start is not at fault, and clients wait: no later than this, and so many
# rounds at once.
SERVED_BACKOFF_SECONDS = 0.5
SERVED_ROUNDS = 2
# a worker that had loaded and lived this long did not die of its start
YOUNG_SECONDS = 5.0
# One that never loaded took the processor for as long as it tried: the first pause is this share of
# that, and the longest as long, unless the above are longer.
FIRST_SHARE = 1 / 8


class Backoff:
    """How long to wait before each replacement: longer with every round of young deaths.

    Workers that were started together count once, however many of them there were. ``rounds``
    are those in a row, ``seconds`` is the last delay, which ends at ``until``, a monotonic moment.
    """

    def __init__(self) -> None:
        self.rounds = 0
        self.seconds = 0.0
        self.until = 0.0
        self._counted = 0.0

    def note_death(
        self, started: float, now: float, *, has_served: bool, has_loaded: bool = True
    ) -> float:
        """The delay after the death, ``now``, of a worker of that start; both monotonic."""
        lived = now - started
        if has_loaded and lived > YOUNG_SECONDS:
            self.rounds = 0
        elif started > self._counted:
            self.rounds += 1
            self._counted = now
        rounds = self.rounds - SERVED_ROUNDS if has_served else self.rounds
        delay = backoff_seconds(rounds, 0.0 if has_loaded else lived)
        return self._delay(min(delay, SERVED_BACKOFF_SECONDS) if has_served else delay, now)

    def note_failure(self, now: float, lived: float = 0.0) -> float:
        """The delay after what could not even be started, or has failed after ``lived`` seconds."""
        self.rounds += 1
        return self._delay(backoff_seconds(self.rounds, lived), now)

    def reset(self) -> None:
        """It went well: the next failure is the first again."""
        self.rounds = 0

    def _delay(self, seconds: float, now: float) -> float:
        self.seconds, self.until = seconds, now + seconds
        return seconds


def backoff_seconds(rounds: int, lived: float = 0.0) -> float:
    """How long to wait after so many rounds of starts that took ``lived`` seconds; the first death
    of an old worker costs nothing."""
    if rounds <= 0:
        return 0.0
    first = max(FIRST_BACKOFF_SECONDS, lived * FIRST_SHARE)
    return double(first, rounds - 1, max(MAX_BACKOFF_SECONDS, lived))


def double(first: float, times: int, most: float) -> float:
    """``first``, twice as much after each of so many times, but no more than ``most``."""
    # the exponent is bounded: what fails may fail for days
    return float(min(first * 2 ** min(times, 16), most))
