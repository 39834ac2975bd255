"""One generation: a single, immutable start of the workers, from one reading of the table.

Owns its workers' lives and the reasons why it could not be served. Knows neither the generations
beside it nor what asked for it.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from enum import Enum
from typing import Any

from gateway.config.model import Config
from gateway.environments.cache import Environment
from gateway.errors import AppLoadError
from gateway.logs import lifecycle
from gateway.supervisor.backoff import Backoff
from gateway.supervisor.children import LEAVING, Child, ChildState, Report, resident_bytes
from gateway.supervisor.failures import describe_failure, describe_place

# without workers for so long, requests are better answered than kept waiting
GONE_SECONDS = 0.5
# beyond the time that a worker was given to end, for one that is wedged
KILL_GRACE_SECONDS = 2.0


class State(Enum):
    """A generation's life, in order. One that fails to start goes from the first to the last, one
    that is kept for a rollback may serve again; one that is asleep has no workers."""

    STARTING = "starting"
    SERVING = "serving"
    KEPT = "kept"
    ASLEEP = "asleep"
    RETIRING = "retiring"
    STOPPING = "stopping"


class Generation:
    """The workers of ``config``. ``may_fail`` names mounts that may answer 503; None is any.
    ``on_change`` is called after each report and each end of a worker.

    ``failed`` has the report of each mount that did not load, by name; ``faults`` are why the
    generation cannot serve, each as a person reads it.
    """

    def __init__(
        self,
        number: int,
        config: Config,
        style: str,
        listener: socket.socket,
        environment: Environment | None,
        may_fail: frozenset[str] | None = None,
        on_change: Callable[["Generation"], object] = id,
    ) -> None:
        self.id = f"g{number}"
        self.config = config
        self.state = State.STARTING
        self.children: dict[int, Child] = {}
        self.failed: dict[str, Report] = {}
        self.faults: list[str] = []
        self.began = time.monotonic()
        self._style = style
        self.log_style = "off" if config.server.access_log == "off" else style
        self.backoff = Backoff()
        self._listener = listener
        self.environment = environment
        self._may_fail = may_fail
        self._on_change = on_change
        self._ended = (0, 0)
        self._was_ready = False
        self._was_asked = False  # whether it may have connections
        self._changed = asyncio.Event()

    # --- starting -----------------------------------------------------------------------------

    def serve(self) -> None:
        """Start; each worker accepts as soon as it has loaded. The gateway's first generation."""
        self.state = State.SERVING
        for _ in range(self.config.server.workers):
            self.spawn()

    async def load(self) -> None:
        """Start, and wait until every worker has loaded all it should. Else all workers are ended
        again, and AppLoadError is raised with the reasons."""
        try:
            for _ in range(self.config.server.workers):
                self.spawn()
        except OSError as error:
            self.faults.append(f"a worker could not be started: {error}")
        if not await self._has_reached(ChildState.LOADED):
            await self.give_up()

    async def accept(self) -> None:
        """Have all workers accept, which have loaded or are kept. Raises AppLoadError as ``load``,
        and for one that is no longer whole."""
        if self.state is State.KEPT:
            self.faults = [] if self.is_whole else [f"a worker of {self.id} has ended meanwhile"]
            self.state = State.STARTING
        for child in self.crew:
            child.accept()
        if not await self._has_reached(ChildState.READY):
            await self.give_up()
        self.state = State.SERVING

    @property
    def crew(self) -> list[Child]:
        """The workers that are to stay."""
        return [child for child in self.children.values() if child.state not in LEAVING]

    @property
    def is_short(self) -> bool:
        """Whether a worker is missing; those that leave do not count."""
        return len(self.crew) < self.config.server.workers

    @property
    def has_surplus(self) -> bool:
        """Whether one worker may go."""
        return len(self.crew) > self.config.server.workers

    @property
    def is_whole(self) -> bool:
        """Whether no worker has ended since it was kept."""
        states = [child.state for child in self.crew]
        return states == [ChildState.PAUSED] * self.config.server.workers

    async def give_up(self) -> None:
        """End a start that has failed. Raises AppLoadError with the reasons."""
        limits = self.config.server.limits
        await self.stop(limits.drain_timeout_seconds if self._was_asked else 0)
        raise AppLoadError("\n".join(self.faults or ["the gateway is stopping"]))

    @property
    def is_gone(self) -> bool:
        """Whether it should serve, and has no worker that could for a while."""
        is_alone = self.state is State.SERVING and not self.children
        return is_alone and self.backoff.seconds >= GONE_SECONDS

    def spawn(self, *, is_spare: bool = False) -> Child:
        """Start a worker, as a spare one beside those that serve. Raises OSError."""
        child = Child(
            self.config, self._style, self.id, self._listener, self.environment, self.on_report
        )
        self.children[child.pid] = child
        child.is_spare = is_spare
        seconds = self.config.server.limits.start_timeout_seconds
        asyncio.get_running_loop().call_later(seconds, self._end_overdue, child)
        self._on_change(self)
        return child

    def _end_overdue(self, child: Child) -> None:
        if child.state is not ChildState.LOADING or child.exit_code is not None:
            return
        seconds = self.config.server.limits.start_timeout_seconds
        what = f"worker {child.pid} did not load within {seconds:g} s (server.start_timeout)"
        self.note_fault(self.at_mount(child.loading, what))
        child.kill()

    def at_mount(self, name: str, what: str) -> str:
        """``what`` with the place in the table of the mount that was being loaded."""
        return f"{describe_place(self.config, name)}: {what}" if name else what

    def note_change(self) -> None:
        """Have those look who wait in ``until``, and who was to be told of changes."""
        self._changed.set()
        self._on_change(self)

    def note_fault(self, fault: str) -> None:
        """Why it cannot serve, or what is to be known of one that does."""
        if self.state is State.STARTING:
            self.faults.append(fault)
        else:
            lifecycle.error("%s", fault)
        self.note_change()

    # --- what workers report ------------------------------------------------------------------

    def on_report(self, child: Child, report: Report) -> None:
        """Take note of what a worker says of itself."""
        event = report["event"]
        if event == "loading":
            child.loading = report["mount"]
        elif event == "loaded":
            self._on_loaded(child, report)
        elif event == "prepared":
            child.note_prepared(report)
        elif event == "applied":
            child.applied = child.config
        elif event == "ready":
            if child.state is ChildState.LOADED:
                child.state = ChildState.READY
                child.accepts = self._was_asked = True
            self._tell_when_ready()
        elif event in ("paused", "retired"):
            child.accepts = False
        elif event == "drained" and report["cut"]:
            lifecycle.warning("worker %d cut requests: %d", child.pid, report["cut"])
        self.note_change()

    def _on_loaded(self, child: Child, report: Report) -> None:
        child.loading = ""
        child.loaded_bytes = resident_bytes(child.pid)
        if child.is_spare and self._has_objections(child, report["mounts"]):
            child.terminate()
            return
        self._note_mounts(report["mounts"])
        if child.state is ChildState.LOADING:
            child.state = ChildState.LOADED
            if child.config is not self.config:
                child.apply(self.config)  # which has changed in place while it was loading
            if self.state is State.SERVING:
                child.accept()

    def _has_objections(self, child: Child, reports: list[Report]) -> bool:
        """Whether a spare worker failed to load what others have loaded."""
        new = [report for report in reports if report["mount"] not in self.failed]
        child.objection = "\n".join(describe_failure(self.config, report) for report in new)
        return bool(new)

    def _tell_when_ready(self) -> None:
        states = {child.state for child in self.children.values()}
        if not self._was_ready and states == {ChildState.READY}:
            self._was_ready = True
            if self.state is State.SERVING:
                lifecycle.info("ready after %.2f s", time.monotonic() - self.began)

    def _note_mounts(self, reports: list[Report]) -> None:
        """Each mount that did not load counts once, and not for every worker."""
        for report in reports:
            name = report["mount"]
            known = self.failed.get(name)
            if known is not None and known["error"] == report["error"]:
                continue
            self.failed[name] = report
            if self._may_fail is None or name in self._may_fail:
                is_loaded = report.get("is_loaded")
                effect = "; it serves" if is_loaded else "; it answers 503, the others serve"
                text = describe_failure(self.config, report, effect)
                lifecycle.error("%s", text, extra={"mount": name})
            else:
                self.note_fault(describe_failure(self.config, report))

    # --- ending -------------------------------------------------------------------------------

    async def leave(self) -> None:
        """Accept no more, and stay loaded. Waits, but not long for a worker that is wedged."""
        if self.state is State.STOPPING:
            return  # it falls asleep just now
        self.state = State.KEPT
        for child in self.children.values():
            child.pause()
        await self.until(
            lambda: not any(child.accepts for child in self.children.values()), KILL_GRACE_SECONDS
        )

    async def retire(self) -> None:
        """After ``leave``: end with the last kept-alive connection. Waits for that."""
        self.state = State.RETIRING
        for child in self.children.values():
            child.retire()
        limits = self.config.server.limits
        if not await self.until(
            lambda: not self.children, limits.keep_alive_seconds + limits.drain_timeout_seconds
        ):
            await self.stop(limits.drain_timeout_seconds)

    async def stop(self, drain_seconds: float) -> None:
        """Let requests in flight finish, and end. Waits for that; kills what takes too long."""
        self.state = State.STOPPING
        self.note_change()
        for child in self.children.values():
            child.terminate()
        if await self.until(lambda: not self.children, drain_seconds + KILL_GRACE_SECONDS):
            return
        for child in self.children.values():
            lifecycle.error("worker %d did not end; killed", child.pid)
        self.kill()
        await self.until(lambda: not self.children, None)

    async def sleep(self, drain_seconds: float) -> None:
        """``stop``, to be woken when it is asked for."""
        await self.stop(drain_seconds)
        if self.state is State.STOPPING:  # else another has taken its place meanwhile
            self.state = State.ASLEEP

    def kill(self) -> None:
        """End all workers at once."""
        for child in self.children.values():
            child.kill()

    # --- waiting ------------------------------------------------------------------------------

    async def _has_reached(self, state: ChildState) -> bool:
        """Whether every worker comes to be in ``state`` while nothing speaks against the start."""

        def is_hopeless() -> bool:
            return bool(self.faults) or self.state is not State.STARTING

        def is_reached() -> bool:
            return all(child.state is state for child in self.crew)

        await self.until(lambda: is_hopeless() or is_reached(), None)
        return not is_hopeless()

    async def until(self, condition: Callable[[], bool], seconds: float | None) -> bool:
        """Whether ``condition`` comes true in time; asked after each report and each end."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return condition()
        return True

    def count(self) -> tuple[int, int]:
        """How many requests its workers have answered, and how many of them with a server error;
        a second may pass before they are told."""
        pulses = [child.in_flight.pulse() for child in list(self.children.values())]
        requests, failures = self._ended
        return (
            requests + sum(pulse.requests for pulse in pulses),
            failures + sum(pulse.failures for pulse in pulses),
        )

    @property
    def is_busy(self) -> bool:
        """Whether a worker has a request in flight, or is no longer or not yet one that serves."""
        return any(
            child.state is not ChildState.READY or child.in_flight.count()
            for child in self.children.values()
        )

    def remove(self, child: Child) -> None:
        """It has ended; what it counted stays."""
        del self.children[child.pid]
        pulse = child.in_flight.pulse()
        self._ended = self._ended[0] + pulse.requests, self._ended[1] + pulse.failures

    def describe(self) -> dict[str, Any]:
        """The generation for ``gateway status``; durations in seconds. ``crashes`` are those in a
        row of workers that died young, ``delay`` is what their replacement waits."""
        return {
            "generation": self.id,
            "pool": self.config.pool.name,
            "state": self.state.value,
            "age": round(time.monotonic() - self.began, 3),
            "crashes": self.backoff.rounds,
            "delay": self.backoff.seconds,
            "workers": [child.describe() for child in self.children.values()],
        }
