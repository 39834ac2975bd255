"""What a generation's workers could not load is tried again, alone, in a worker that serves nobody;
once it loads, the workers that lack it are replaced one at a time, and none leaves before another
serves. What loads for long keeps no other mount waiting.

Looks at workers as their reports have left them. Refuses to know why a mount did not load.
"""

import contextlib
import time
from typing import Any

from gateway.logs import lifecycle
from gateway.supervisor.backoff import double
from gateway.supervisor.generations.failures import describe_place
from gateway.supervisor.generations.generation import Generation, GenerationState
from gateway.supervisor.generations.outages import FIRST_TRY_SECONDS, MOST_TRY_SECONDS
from gateway.supervisor.processes.process import Cause, Process, ProcessState

# A mount that loads for longer than this, and than this share of what its worker took before it,
# has no other mount wait for it.
SLOW_SECONDS = 1.0
SLOW_SHARE = 0.25
# where others serve by then, and so many times longer: the workers that wait for it serve, too
HUNG_FACTOR = 10
# workers beyond those that the table asks for, each without a further slow mount
MOST_BESIDE = 3
MOST_TRIALS = 3


class Retrier:
    """Looks at the workers of one generation, each time that it is asked to."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._published: dict[str, tuple[str, float]] = {}
        self._rest_until = 0.0
        self._spares = 0
        self._beside: list[Process] = []

    def look(self) -> None:
        """Begin what it is time for."""
        generation = self._generation
        if generation.state is not GenerationState.SERVING or generation.config.pool.command:
            return
        now = time.monotonic()
        ready = [process for process in generation.workers if process.state is ProcessState.READY]
        loading = [
            process for process in generation.workers if process.state is ProcessState.LOADING
        ]
        self._publish()
        if ready:
            self._end_outages(ready)
            self._replace_lacking(ready, now)
            self._detach_hung(ready, loading, now)
        elif len(loading) == len(generation.workers):  # else one is about to serve
            self._start_without_slow(loading, now)
        if ready or not loading:
            self._try(now)

    def _publish(self) -> None:
        """Workers tell clients when to ask again."""
        pauses = self._generation.outages.pauses
        if pauses != self._published:
            self._published = pauses
            for process in self._generation.workers:
                if process.lacks:
                    process.put_off(pauses)

    def _end_outages(self, ready: list[Process]) -> None:
        generation = self._generation
        for name in generation.outages.loaded:
            if not any(name in process.lacks for process in ready):
                generation.forget_failed(name)
                if generation.outages.end(name):
                    place = describe_place(generation.config, name)
                    lifecycle.info("%s: it has loaded, and serves", place, extra={"mount": name})

    def _replace_lacking(self, ready: list[Process], now: float) -> None:
        """Have workers that lack what could be had replaced."""
        generation = self._generation
        known = generation.outages.pauses.keys() - set(generation.outages.loaded)
        missing = {process: len(process.lacks - known) for process in ready}
        worst = max(ready, key=lambda process: missing[process])
        beside = [process for process in ready if process in self._beside]
        if not missing[worst]:
            self._spares = 0
        if len(ready) > generation.size:
            if missing[worst] > min(missing.values()):
                self._spares = 0
                worst.retire()
            elif beside:
                beside[0].retire()
        elif missing[worst] and len(generation.workers) == len(ready) and now >= self._rest_until:
            self._rest_until = now + double(FIRST_TRY_SECONDS, self._spares, MOST_TRY_SECONDS)
            self._spares += 1
            self._start_beside(is_spare=True)

    def _start_without_slow(self, loading: list[Process], now: float) -> None:
        """Nobody serves: where a mount takes long, one begins that leaves it out."""
        generation = self._generation
        why = "it has not loaded so far, and others serve meanwhile"
        slow = {process.loading: why for process in loading if is_slow(process, now)}
        left_out = generation.outages.left_out | slow
        # whoever is on its way will wait there too, unless it leaves out the same
        is_begun = any(
            slow.keys() <= process.left_out.keys()
            for process in loading
            if not is_slow(process, now)
        )
        is_worth_it = any(mount.name not in left_out for mount in generation.config.mounts)
        beside = sum(process in loading for process in self._beside)
        if slow and is_worth_it and not is_begun and beside < MOST_BESIDE:
            lifecycle.warning(
                "%s: still loading; a further worker starts without it, so that others serve",
                ", ".join(describe_place(generation.config, name) for name in slow),
            )
            self._start_beside(left_out=left_out)

    def _detach_hung(self, ready: list[Process], loading: list[Process], now: float) -> None:
        """Nobody that serves has the mount that a worker has been loading for so long: the others
        are not to wait for it. One goes on with it; those that do the same are started again."""
        generation = self._generation
        for process in loading:
            name, seconds = process.loading, now - process.loading_since
            if not is_slow(process, now, HUNG_FACTOR) or not all(name in c.lacks for c in ready):
                continue
            why = f"worker {process.pid} has been loading it for {seconds:.0f} s"
            report = {"mount": name, "error": why, "traceback": ""}
            limit = generation.config.server.limits.start_timeout_seconds
            generation.outages.note_hang(report, process.started + limit)
            generation.note_failed(generation.failed.get(name, report))
            if any(each.trial == name for each in generation.processes.values()):
                process.end("another goes on with that mount", Cause.BLOCKED)
            else:
                process.begin_trial(name, may_serve=True)
                if generation.is_short:
                    self._spawn()

    def _try(self, now: float) -> None:
        """Begin with one mount, while no other is on its way; one that hangs holds up none."""
        generation = self._generation
        trials = {c.trial: c for c in generation.processes.values() if c.trial}
        is_busy = not all(is_slow(process, now) for process in trials.values())
        if is_busy or len(trials) >= MOST_TRIALS:
            return
        if name := generation.outages.begin_due(now, trials):
            others = {mount.name: "" for mount in generation.config.mounts if mount.name != name}
            self._spawn(left_out=others, trial=name)

    def _start_beside(self, **purpose: Any) -> None:
        """One more than there are to be, for a while."""
        self._beside = [process for process in self._beside if process in self._generation.workers]
        self._beside += self._spawn(**purpose)

    def _spawn(self, **purpose: Any) -> list[Process]:
        """Start a worker. One that cannot be started is none, and tried again, as those are that
        serve, whose failure is reported."""
        with contextlib.suppress(OSError):
            return [self._generation.spawn(**purpose)]
        return []


def is_slow(process: Process, now: float, factor: float = 1) -> bool:
    """Whether a worker has been loading one mount for so long that others should not wait."""
    before = process.loading_since - process.started
    longest = factor * max(SLOW_SECONDS, SLOW_SHARE * before)
    return bool(process.loading) and now - process.loading_since > longest
