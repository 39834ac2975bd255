"""The mounts of a generation that have not loaded: why, and when each is tried again.

Owns the rule; refuses to know processes. Source: RFC 9110 §10.2.3 (Retry-After).
"""

from collections.abc import Collection
from dataclasses import dataclass

from gateway.supervisor.backoff import double
from gateway.supervisor.processes.process import Report

# after a try that failed: 1 s, 2 s, 4 s ... but no longer than this, unless the try took longer
FIRST_TRY_SECONDS = 1.0
MOST_TRY_SECONDS = 60.0
# of one mount, before it is left out where no other would suffer by it: the first may be chance
LEAST_EXITS = 2


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

    def note_death(self, *, is_hopeless: bool) -> None:
        """A worker has ended while it loaded the mount; ``is_hopeless``: the next one is not to try
        it, unless too few have ended so far."""
        self.deaths += 1
        self.is_left_out |= is_hopeless or self.deaths >= LEAST_EXITS

    def note_error(self, report: Report, now: float, took: float) -> None:
        """It has failed by an error of its own, which ends no worker."""
        self.is_left_out, self.deaths = False, 0
        self.put_off(report, now, took)

    def leave_out(self) -> None:
        """No worker that serves is to load it."""
        self.is_left_out = True

    def note_loaded(self) -> None:
        """A worker has loaded it."""
        self.has_loaded = True

    def note_report(self) -> bool:
        """The log has it from now on; whether that is news."""
        is_news, self.is_reported = not self.is_reported, True
        return is_news

    def begin(self, now: float) -> None:
        """It is tried now, and not again before that may have ended."""
        self.until = now + max(self.took, FIRST_TRY_SECONDS)

    def put_off(self, report: Report, now: float, took: float) -> None:
        """Once more it has not loaded, after ``took`` seconds."""
        pause = double(FIRST_TRY_SECONDS, self.tries, MOST_TRY_SECONDS)
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
            pause = FIRST_TRY_SECONDS
            self._outages[report["mount"]] = Outage(report, now + pause, took, is_reported=True)
        elif is_trial or outage.has_loaded:  # else its siblings have reported the same
            outage.note_error(report, now, took)

    def note_death(
        self, report: Report, now: float, *, took: float, is_trial: bool, is_alone: bool
    ) -> Outage:
        """A worker has ended while it loaded this mount. ``is_alone``: its pool has no other."""
        outage = self._outages.setdefault(report["mount"], Outage(report, now))
        if is_trial or outage.has_loaded:
            outage.put_off(report, now, took)
        outage.note_death(is_hopeless=is_trial or not is_alone)
        return outage

    def note_hang(self, report: Report, until: float) -> None:
        """A worker has been loading this mount for so long that no other is to wait for it;
        ``until`` is when that one is ended."""
        self._outages.setdefault(report["mount"], Outage(report, until)).leave_out()

    def note_loaded(self, lacks: frozenset[str]) -> None:
        """A worker has loaded all but these."""
        for name, outage in self._outages.items():
            if name not in lacks:
                outage.note_loaded()

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
            self._outages[name].begin(now)
        return name

    def end(self, name: str) -> bool:
        """All workers have it again; whether that is news."""
        outage = self._outages.pop(name)
        return outage.is_reported or outage.is_left_out
