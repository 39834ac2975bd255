"""The mounts of a generation that have not loaded: why, and when each is tried again.

A pure rule, without processes. Source of the moments that clients get: RFC 9110 §10.2.3
(Retry-After).
"""

from collections.abc import Collection
from dataclasses import dataclass

from gateway.supervisor.backoff import double
from gateway.supervisor.processes.process import Report

# the pause after a try that failed: 1 s, 2 s, 4 s ... up to this, or as long as the try took
FIRST_TRY_SECONDS = 1.0
MAX_TRY_SECONDS = 60.0
# exits at one mount before it is left out of a pool that has no other mount: one may be chance
MIN_EXITS = 2


@dataclass(slots=True)
class Outage:
    """The outage of one mount. ``report`` has the error, in the form of a worker's report.

    ``until`` is the monotonic moment of the next try, and ``took`` the seconds of the last one.
    ``deaths`` counts the workers that ended while they loaded it. ``is_left_out``: workers that
    serve do not load it. ``has_loaded``: a worker has loaded it, and those without it will be
    replaced. ``is_reported``: the log has it.
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
        """A worker has ended while it loaded the mount, which is left out from now on if that
        ``is_hopeless`` or has happened MIN_EXITS times."""
        self.deaths += 1
        self.is_left_out |= is_hopeless or self.deaths >= MIN_EXITS

    def note_error(self, report: Report, now: float, took: float) -> None:
        """It has raised an error, which ends no worker."""
        self.is_left_out, self.deaths = False, 0
        self.put_off(report, now, took)

    def leave_out(self) -> None:
        """Workers that serve do not load it any more."""
        self.is_left_out = True

    def note_loaded(self) -> None:
        """A worker has loaded it."""
        self.has_loaded = True

    def note_report(self) -> bool:
        """The log has it from now on; whether that is news."""
        is_news, self.is_reported = not self.is_reported, True
        return is_news

    def begin(self, now: float) -> None:
        """It is tried now, and not again while that try may still run."""
        self.until = now + max(self.took, FIRST_TRY_SECONDS)

    def put_off(self, report: Report, now: float, took: float) -> None:
        """It has failed again, after ``took`` seconds."""
        pause = double(FIRST_TRY_SECONDS, self.tries, MAX_TRY_SECONDS)
        self.report, self.took, self.has_loaded = report, took, False
        self.until = now + max(pause, took)
        self.tries += 1


class Outages:
    """All outages of one generation, by mount."""

    def __init__(self) -> None:
        self._outages: dict[str, Outage] = {}

    @property
    def left_out(self) -> dict[str, str]:
        """The mounts that the next worker does not load, with the reason of each."""
        return {
            name: outage.report["error"]
            for name, outage in self._outages.items()
            if outage.is_left_out and not outage.has_loaded
        }

    @property
    def loaded(self) -> list[str]:
        """The mounts that have loaded in a worker, and not in all so far."""
        return [name for name, outage in self._outages.items() if outage.has_loaded]

    @property
    def pauses(self) -> dict[str, tuple[str, float]]:
        """For each mount why it is missing, and the monotonic moment of the next try."""
        return {
            name: (f"{o.report['error']}\n{o.report['traceback']}".strip(), o.until)
            for name, o in self._outages.items()
        }

    def note_error(self, report: Report, now: float, *, took: float, is_trial: bool) -> None:
        """A worker has loaded all but this mount, and reports its error."""
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
        """A worker has been loading this mount for so long that others leave it out; ``until`` is
        when that worker is ended."""
        self._outages.setdefault(report["mount"], Outage(report, until)).leave_out()

    def note_loaded(self, lacks: frozenset[str]) -> None:
        """A worker has loaded all mounts but ``lacks``."""
        for name, outage in self._outages.items():
            if name not in lacks:
                outage.note_loaded()

    def begin_due(self, now: float, trying: Collection[str]) -> str:
        """Begin the next try that is due: its mount, which is none of ``trying``; "" for none."""
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
        """All workers have loaded it; whether the log has had the outage."""
        outage = self._outages.pop(name)
        return outage.is_reported or outage.is_left_out
