"""Quarantine: a mount whose requests end workers again and again answers 503 for a while, so that
the other mounts keep their workers.

Owns which mounts are in quarantine, and for how long. Why a mount is held responsible is decided in
``evidence``.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from gateway.config.model import AppTarget
from gateway.inflight import InFlightRequest
from gateway.logs import lifecycle
from gateway.supervisor.backoff import double
from gateway.supervisor.generations.failures import describe_place
from gateway.supervisor.generations.generation import Generation, GenerationState
from gateway.supervisor.pools.evidence import MIN_DEATHS, WINDOW_SECONDS, Evidence, keys_of
from gateway.supervisor.processes.process import (
    NORMAL_SILENCE_SECONDS,
    Cause,
    Process,
    ProcessState,
)

FIRST_QUARANTINE_SECONDS = 10.0
MAX_QUARANTINE_SECONDS = 300.0
# after this long without another quarantine, the next one counts as the first
GOOD_SECONDS = WINDOW_SECONDS
# deaths without a certain cause, before that is reported
UNSOLVED_DEATHS = 2 * MIN_DEATHS


@dataclass(slots=True)
class Quarantine:
    """The quarantine of one mount of ``pool``.

    ``until`` is the monotonic moment of its end; ``times`` counts quarantines in a row, and
    ``seconds`` is their sum. ``deaths`` counts the workers that the mount ended, the last one with
    ``request`` (method and path), and ``ended`` says how.
    """

    pool: str
    until: float = 0.0
    times: int = 0
    seconds: float = 0.0
    deaths: int = 0
    request: str = ""
    request_id: str = ""
    ended: str = ""
    is_over: bool = False

    def begin(self, now: float) -> float:
        """Begin again, for twice as long as the last time; the seconds."""
        pause = double(FIRST_QUARANTINE_SECONDS, self.times, MAX_QUARANTINE_SECONDS)
        self.until = now + pause
        self.seconds += pause
        self.times += 1
        self.is_over = False
        return pause

    def note_deaths(self, deaths: int, request: InFlightRequest, ended: str) -> None:
        """This many workers have ended, the last of them with ``request``."""
        self.deaths, self.ended = deaths, ended
        self.request = f"{request.method} {request.target.partition('?')[0]}"
        self.request_id = request.request_id

    def end(self) -> None:
        """Its time is over."""
        self.is_over = True

    def describe(self, now: float) -> dict[str, Any]:
        """The quarantine for ``gateway status``; ``for`` is the number of seconds left."""
        return {
            "for": round(max(0.0, self.until - now), 1),
            "times": self.times,
            "deaths": self.deaths,
            "request": self.request,
            "request_id": self.request_id,
            "ended": self.ended,
        }


class Quarantines:
    """All quarantines of a gateway, by mount. ``publish`` is called with ``ends`` whenever one
    begins or ends."""

    def __init__(self, publish: Callable[[dict[str, float]], None]) -> None:
        self._publish = publish
        self._evidence: dict[str, Evidence] = {}
        self._quarantines: dict[str, Quarantine] = {}
        self._unsolved_until = 0.0

    @property
    def ends(self) -> dict[str, float]:
        """The monotonic moments at which present quarantines end, by mount."""
        return {name: q.until for name, q in self._quarantines.items() if not q.is_over}

    def describe(self, mount: str) -> dict[str, Any] | None:
        """The quarantine of a mount, None if it is in none."""
        quarantine = self._quarantines.get(mount)
        if quarantine is None or quarantine.is_over:
            return None
        return quarantine.describe(time.monotonic())

    def look(self, generations: Collection[Generation]) -> None:
        """Count what is in flight, and end quarantines. To be called twice a second."""
        for generation in generations:
            if generation.state is GenerationState.SERVING:
                self._look_at(generation)
        now, has_changed = time.monotonic(), False
        for name, quarantine in list(self._quarantines.items()):
            if not quarantine.is_over and now >= quarantine.until:
                quarantine.end()
                has_changed = True
                lifecycle.info("mounts.%s: its quarantine is over", name, extra={"mount": name})
            elif now >= quarantine.until + GOOD_SECONDS:
                del self._quarantines[name]
        if has_changed:
            self._publish(self.ends)

    def _look_at(self, generation: Generation) -> Evidence:
        evidence = self._evidence.setdefault(generation.config.pool.name, Evidence())
        workers = [process for process in generation.processes.values() if is_well(process)]
        if workers:
            evidence.look([find_requests(process) for process in workers])
        return evidence

    def note_death(self, generation: Generation, process: Process) -> None:
        """A worker has ended: put the mount that is responsible in quarantine, if one is."""
        cause = process.cause
        requests = find_requests(process)
        if cause is None or not requests:
            return
        holder = process.in_flight.blocking_request() if cause is Cause.BLOCKED else ""
        # if one blocked the event loop, all others only waited for it
        requests = [r for r in requests if r.request_id == holder] or requests
        evidence = self._look_at(generation)  # there may be no other look if all workers die soon
        evidence.add(time.monotonic(), requests, is_sure=cause is not Cause.MEMORY)
        self._judge(evidence, generation, process, requests)

    def _judge(
        self,
        evidence: Evidence,
        generation: Generation,
        process: Process,
        requests: list[InFlightRequest],
    ) -> None:
        key = evidence.judge({name: q.seconds for name, q in self._quarantines.items()})
        if key is None:
            self._report_unsolved(evidence, generation, requests)
        elif key[0] not in self.ends:
            request = [each for each in requests if key in keys_of(each)][-1]
            self._begin(
                evidence, generation, request, f"worker {process.pid} {process.describe_end()}"
            )

    def _begin(
        self, evidence: Evidence, generation: Generation, request: InFlightRequest, ended: str
    ) -> None:
        config, mount = generation.config, request.mount
        quarantine = self._quarantines.setdefault(mount, Quarantine(config.pool.name))
        quarantine.note_deaths(evidence.count(mount, quarantine.seconds), request, ended)
        pause = quarantine.begin(time.monotonic())
        lifecycle.error(
            "%s: in quarantine for %g s: it answers 503, since its requests have ended %d workers, "
            "the last of them with %s (request %s): %s",
            *(describe_place(config, mount), pause, quarantine.deaths),
            *(quarantine.request, quarantine.request_id, ended),
            extra={"mount": mount, "request_id": quarantine.request_id},
        )
        self._publish(self.ends)

    def _report_unsolved(
        self, evidence: Evidence, generation: Generation, requests: list[InFlightRequest]
    ) -> None:
        now, names = time.monotonic(), sorted({request.mount for request in requests})
        if evidence.count() < UNSOLVED_DEATHS or len(names) < 2 or now < self._unsolved_until:
            return
        self._unsolved_until = now + WINDOW_SECONDS
        lifecycle.warning(
            "pool %s: %d workers have ended within %g minutes, and it is not certain whose "
            "requests ended them. In flight at the last: %s. Pools of their own would show it",
            *(generation.config.pool.name, evidence.count(), WINDOW_SECONDS / 60, ", ".join(names)),
        )

    def forget(self, pool: str) -> None:
        """Other code serves in that pool now: drop its evidence and its quarantines."""
        self._evidence.pop(pool, None)
        released = [name for name, q in self._quarantines.items() if q.pool == pool]
        for name in released:
            del self._quarantines[name]
        if released:
            self._publish(self.ends)


def is_well(process: Process) -> bool:
    """It serves, and its event loop turns: a worker that hangs is no sample."""
    is_ready = process.state is ProcessState.READY and process.exit_code is None
    return is_ready and process.silent < NORMAL_SILENCE_SECONDS


def find_requests(process: Process) -> list[InFlightRequest]:
    """The requests in flight that run an app's code, oldest first: others end no worker."""
    apps = {mount.name for mount in process.applied.mounts if isinstance(mount.target, AppTarget)}
    return [request for request in process.in_flight.requests() if request.mount in apps]
