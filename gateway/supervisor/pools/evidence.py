"""Whose requests end workers: compares what was in flight at their deaths with other moments.

A pure rule, without processes; the caller acts on the verdict. One death proves nothing, since
requests of several mounts may be in flight, and a busy mount is in flight at every death. A mount
is held responsible in two cases:

- at ``MIN_DEATHS`` deaths it was the only one that could be
- it, or one of its requests, was in flight at so many of the deaths that chance would bring that
  about less than once in a thousand times, given how often it is in flight at any other moment
"""

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import comb

from gateway.inflight import InFlightRequest

# a death counts for this long
WINDOW_SECONDS = 600.0
MIN_DEATHS = 3
MAX_DEATHS = 100
CHANCE = 0.001
# weight of a look at the next one, half a second later: about a third is left after ten minutes
DECAY = 1 - 1 / 1200
# of requests that were in flight at a death and are counted from then on
MAX_REQUESTS = 200

# a mount, or one request of it: its method and target
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Death:
    """``moment`` is monotonic. ``mounts`` are those that may have caused it; with ``is_sure`` one
    of them has. ``keys`` are these mounts and their requests."""

    moment: float
    mounts: frozenset[str]
    keys: frozenset[Key]
    is_sure: bool


class Presence:
    """How often something is in flight in a worker, at any moment: looks, and how many saw it."""

    __slots__ = ("_looks", "_seen")

    def __init__(self, looks: float = 0.0) -> None:
        self._looks = looks
        self._seen = 0.0

    def note(self, share: float) -> None:
        """A look, at which that share of the workers had it in flight."""
        self._looks = self._looks * DECAY + 1
        self._seen = self._seen * DECAY + share

    @property
    def share(self) -> float:
        """The share of looks that see it, rather too high: 1 while nothing is known."""
        return min(1.0, (self._seen + 2) / (self._looks + 2))


class Evidence:
    """The evidence of one pool."""

    def __init__(self) -> None:
        self._deaths: deque[Death] = deque(maxlen=MAX_DEATHS)
        self._presence: dict[Key, Presence] = {}
        self._looks = 0.0

    def look(self, workers: Collection[Collection[InFlightRequest]]) -> None:
        """Count what is in flight in each worker that is well."""
        seen: dict[Key, int] = {}
        for requests in workers:
            for key in {key for request in requests for key in keys_of(request)}:
                seen[key] = seen.get(key, 0) + 1
        for key in seen:
            if not key[1]:  # a mount is counted from its first request on
                self._find(key)
        for key, presence in self._presence.items():
            presence.note(seen.get(key, 0) / len(workers))
        self._looks = self._looks * DECAY + 1

    def add(self, moment: float, requests: Collection[InFlightRequest], *, is_sure: bool) -> None:
        """A worker died with ``requests`` in flight, one of which may be the cause."""
        suspected = list(requests)[:MAX_REQUESTS]
        mounts = frozenset(request.mount for request in requests)
        keys = frozenset(key for request in suspected for key in keys_of(request))
        keys |= {(mount, "") for mount in mounts}
        self._deaths.append(Death(moment, mounts, keys, is_sure))
        for key in keys:
            self._find(key)
        known = {key for death in self._deaths for key in death.keys}
        self._presence = {k: p for k, p in self._presence.items() if not k[1] or k in known}

    def _find(self, key: Key) -> Presence:
        if key not in self._presence:
            # a mount without looks was never in flight so far; a request was not looked for
            self._presence[key] = Presence(0.0 if key[1] else self._looks)
        return self._presence[key]

    def judge(self, more_seconds: Mapping[str, float]) -> Key | None:
        """The mount that is responsible for the last death, with the request if that is the
        evidence; None if it is not certain.

        ``more_seconds`` extends the window of a mount: the time that it spent in quarantine.
        """
        last = self._deaths[-1]
        found = []
        for mount in last.mounts:
            deaths = self._deaths_since(last.moment - WINDOW_SECONDS - more_seconds.get(mount, 0))
            alone = sum(death.is_sure and death.mounts == {mount} for death in deaths)
            keys = (key for key in last.keys if key[0] == mount)
            chance, key = min((self._chance(key, deaths), key) for key in keys)
            # chance could have picked any of those in flight
            if alone >= MIN_DEATHS or chance * len(last.keys) < CHANCE:
                found.append((alone, -chance, key))
        return max(found)[2] if found else None

    def count(self, mount: str = "", more_seconds: float = 0) -> int:
        """The number of recent deaths at which ``mount`` was in flight; "" is any mount."""
        since = self._deaths[-1].moment - WINDOW_SECONDS - more_seconds
        return sum(not mount or mount in death.mounts for death in self._deaths_since(since))

    def _deaths_since(self, moment: float) -> list[Death]:
        return [death for death in self._deaths if death.moment >= moment]

    def _chance(self, key: Key, deaths: list[Death]) -> float:
        """The probability that it is in flight at this many deaths, or more, by chance alone."""
        found = sum(key in death.keys for death in deaths)
        share, count = self._presence[key].share, len(deaths)
        if found < MIN_DEATHS:
            return 1.0
        return sum(
            comb(count, each) * share**each * (1 - share) ** (count - each)
            for each in range(found, count + 1)
        )


def keys_of(request: InFlightRequest) -> tuple[Key, Key]:
    """The mount and the request itself."""
    return (request.mount, ""), (request.mount, f"{request.method} {request.target}")
