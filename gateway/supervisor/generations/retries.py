"""Retries mounts that could not be loaded, and keeps slow ones from delaying others.

A retry is a worker that loads this mount alone and serves nobody. Once one succeeds, the workers
that lack the mount are replaced one at a time, and none leaves before its replacement serves.
"""

import contextlib
import time
from typing import Any

from gateway.logs import lifecycle
from gateway.supervisor.backoff import double
from gateway.supervisor.generations.failures import describe_place
from gateway.supervisor.generations.generation import Generation, GenerationState
from gateway.supervisor.generations.outages import FIRST_TRY_SECONDS, MAX_TRY_SECONDS
from gateway.supervisor.processes.process import Cause, Process, ProcessState

# A mount is slow if it takes longer than this, and than this share of what its worker needed for
# all mounts before it. Other mounts do not wait for a slow one.
SLOW_SECONDS = 1.0
SLOW_SHARE = 0.25
# While others serve, this many times longer is hung: the workers that load it are to serve too.
HUNG_FACTOR = 10
# workers beyond the number of the table, each of which leaves one more slow mount out
MAX_BESIDE = 3
MAX_TRIALS = 3


class Retrier:
    """Retries the mounts of one generation; ``look`` is called four times a second."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._published: dict[str, tuple[str, float]] = {}
        self._rest_until = 0.0
        self._spares = 0
        self._beside: list[Process] = []

    def look(self) -> None:
        """Begin what is due."""
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
        elif len(loading) == len(generation.workers):  # else one will serve soon
            self._start_without_slow(loading, now)
        if ready or not loading:
            self._try(now)

    def _publish(self) -> None:
        """Send workers the moments of the next tries, for Retry-After."""
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
        """Replace a worker that lacks a mount which has loaded elsewhere."""
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
            self._rest_until = now + double(FIRST_TRY_SECONDS, self._spares, MAX_TRY_SECONDS)
            self._spares += 1
            self._start_beside(is_spare=True)

    def _start_without_slow(self, loading: list[Process], now: float) -> None:
        """No worker serves: if a mount is slow, start a worker without it."""
        generation = self._generation
        why = "it has not loaded so far, and others serve meanwhile"
        slow = {process.loading: why for process in loading if is_slow(process, now)}
        left_out = generation.outages.left_out | slow
        # a worker that loads now will wait there too, unless it leaves out the same mounts
        is_begun = any(
            slow.keys() <= process.left_out.keys()
            for process in loading
            if not is_slow(process, now)
        )
        is_worth_it = any(mount.name not in left_out for mount in generation.config.mounts)
        beside = sum(process in loading for process in self._beside)
        if slow and is_worth_it and not is_begun and beside < MAX_BESIDE:
            lifecycle.warning(
                "%s: still loading; a further worker starts without it, so that others serve",
                ", ".join(describe_place(generation.config, name) for name in slow),
            )
            self._start_beside(left_out=left_out)

    def _detach_hung(self, ready: list[Process], loading: list[Process], now: float) -> None:
        """Workers hang at a mount that no serving worker has. Let one go on with it as a trial, end
        the others, and start workers without the mount."""
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
        """Retry one mount at a time; one that is slow does not delay the others."""
        generation = self._generation
        trials = {c.trial: c for c in generation.processes.values() if c.trial}
        is_busy = not all(is_slow(process, now) for process in trials.values())
        if is_busy or len(trials) >= MAX_TRIALS:
            return
        if name := generation.outages.begin_due(now, trials):
            others = {mount.name: "" for mount in generation.config.mounts if mount.name != name}
            self._spawn(left_out=others, trial=name)

    def _start_beside(self, **purpose: Any) -> None:
        """Start one worker more than the table asks for, for a while."""
        self._beside = [process for process in self._beside if process in self._generation.workers]
        self._beside += self._spawn(**purpose)

    def _spawn(self, **purpose: Any) -> list[Process]:
        """Start a worker, none if that fails: it is tried again at the next look, and a failure to
        start is reported for workers that serve."""
        with contextlib.suppress(OSError):
            return [self._generation.spawn(**purpose)]
        return []


def is_slow(process: Process, now: float, factor: float = 1) -> bool:
    """A worker has been loading one mount for longer than ``factor`` times what others wait for."""
    before = process.loading_since - process.started
    longest = factor * max(SLOW_SECONDS, SLOW_SHARE * before)
    return bool(process.loading) and now - process.loading_since > longest
