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
# a worker that lived this long did not die of its start
YOUNG_SECONDS = 5.0


class Backoff:
    """How long to wait before each replacement: longer with every round of young deaths.

    Workers that were started together count once, however many of them there were. ``rounds``
    are those in a row, ``seconds`` is the last delay.
    """

    def __init__(self) -> None:
        self.rounds = 0
        self.seconds = 0.0
        self._counted = 0.0

    def note_death(self, started: float, now: float, *, has_served: bool) -> float:
        """The delay after the death, ``now``, of a worker of that start; both monotonic."""
        if now - started > YOUNG_SECONDS:
            self.rounds = 0
        elif started > self._counted:
            self.rounds += 1
            self._counted = now
        rounds = self.rounds - SERVED_ROUNDS if has_served else self.rounds
        delay = backoff_seconds(rounds)
        self.seconds = min(delay, SERVED_BACKOFF_SECONDS) if has_served else delay
        return self.seconds

    def note_failure(self) -> float:
        """The delay after a worker could not even be started."""
        self.rounds += 1
        self.seconds = backoff_seconds(self.rounds)
        return self.seconds


def backoff_seconds(rounds: int) -> float:
    """How long to wait after so many rounds; the first death of an old worker costs nothing."""
    if rounds <= 0:
        return 0.0
    # the exponent is bounded: a worker may die young for days
    return float(min(FIRST_BACKOFF_SECONDS * 2 ** min(rounds - 1, 16), MAX_BACKOFF_SECONDS))
