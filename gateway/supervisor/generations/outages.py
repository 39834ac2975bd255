"""The mounts of a generation that have not loaded: why, and when each is tried again.

Owns the rule; refuses to know processes. Source: RFC 9110 §10.2.3 (Retry-After).
"""

from collections.abc import Collection
from dataclasses import dataclass

from gateway.supervisor.backoff import double
from gateway.supervisor.processes.process import Report

# after a try that failed: 1 s, 2 s, 4 s ... but no longer than this, unless the try took longer
FIRST_PAUSE_SECONDS = 1.0
MOST_PAUSE_SECONDS = 60.0
# of one mount, before it is left out where no other would suffer by it: the first may be chance
LEAST_DEATHS = 2


@dataclass(slots=True)
class Outage:
    """That of one mount; ``report`` is what a worker would say of it.

    ``until`` is the monotonic moment of the next try, and ``took`` the seconds of the last one.
    ``deaths`` counts the workers that ended while they loaded it; ``is_left_out``: no worker that
    serves loads it. ``has_loaded``: one has, and those that lack it are to be replaced.
    ``is_reported``: the log has it.
    """

    report: Report
    until: float
    took: float = 0.0
    tries: int = 0
    deaths: int = 0
    is_left_out: bool = False
    has_loaded: bool = False
    is_reported: bool = False

    def put_off(self, report: Report, now: float, took: float) -> None:
        """Once more it has not loaded, after ``took`` seconds."""
        pause = double(FIRST_PAUSE_SECONDS, self.tries, MOST_PAUSE_SECONDS)
        self.report, self.took, self.has_loaded = report, took, False
        self.until = now + max(pause, took)
        self.tries += 1


class Outages:
    """Those of one generation, by mount."""

    def __init__(self) -> None:
        self._outages: dict[str, Outage] = {}

    @property
    def left_out(self) -> dict[str, str]:
        """What the next worker is not to load, and why not."""
        return {
            name: outage.report["error"]
            for name, outage in self._outages.items()
            if outage.is_left_out and not outage.has_loaded
        }

    @property
    def loaded(self) -> list[str]:
        """What has loaded somewhere, and not in all workers so far."""
        return [name for name, outage in self._outages.items() if outage.has_loaded]

    @property
    def pauses(self) -> dict[str, tuple[str, float]]:
        """Why each mount is not there, and until when, as a monotonic moment."""
        return {
            name: (f"{o.report['error']}\n{o.report['traceback']}".strip(), o.until)
            for name, o in self._outages.items()
        }

    def note_error(self, report: Report, now: float, *, took: float, is_trial: bool) -> None:
        """A worker has loaded without this mount, whose error it reports."""
        outage = self._outages.get(report["mount"])
        if outage is None:
            pause = FIRST_PAUSE_SECONDS
            self._outages[report["mount"]] = Outage(report, now + pause, took, is_reported=True)
        elif is_trial or outage.has_loaded:  # else its siblings have reported the same
            outage.is_left_out, outage.deaths = False, 0
            outage.put_off(report, now, took)

    def note_death(
        self, report: Report, now: float, *, took: float, is_trial: bool, is_alone: bool
    ) -> Outage:
        """A worker has ended while it loaded this mount. ``is_alone``: its pool has no other."""
        outage = self._outages.setdefault(report["mount"], Outage(report, now))
        outage.deaths += 1
        if is_trial or outage.has_loaded:
            outage.put_off(report, now, took)
        outage.is_left_out |= is_trial or not is_alone or outage.deaths >= LEAST_DEATHS
        return outage

    def note_hang(self, report: Report, until: float) -> None:
        """A worker has been loading this mount for so long that no other is to wait for it;
        ``until`` is when that one is ended."""
        self._outages.setdefault(report["mount"], Outage(report, until)).is_left_out = True

    def note_loaded(self, lacks: frozenset[str]) -> None:
        """A worker has loaded all but these."""
        for name, outage in self._outages.items():
            outage.has_loaded |= name not in lacks

    def begin_due(self, now: float, trying: Collection[str]) -> str:
        """The mount that is to be tried now, alone, and is not among those that are; "" for
        none."""
        due = [
            (outage.until, name)
            for name, outage in self._outages.items()
            if outage.until <= now
            and name not in trying
            and not outage.has_loaded
            and (outage.is_left_out or not outage.deaths)
        ]
        name = min(due)[1] if due else ""
        if name:
            outage = self._outages[name]
            outage.until = now + max(outage.took, FIRST_PAUSE_SECONDS)
        return name

    def end(self, name: str) -> bool:
        """All workers have it again; whether that is news."""
        outage = self._outages.pop(name)
        return outage.is_reported or outage.is_left_out
