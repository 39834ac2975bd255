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
from gateway.errors import AppLoadError
from gateway.logs import lifecycle
from gateway.supervisor.children import Child, ChildState, Report, describe_exit
from gateway.supervisor.failures import describe_failure, describe_place

# a worker that dies young is started again after 0.1 s, 0.2 s, 0.4 s ... but no later than this
MAX_BACKOFF_SECONDS = 10.0
FIRST_BACKOFF_SECONDS = 0.1
# a worker that lived this long did not die of its start
YOUNG_SECONDS = 5.0
# beyond the time that a worker was given to end, for one that is wedged
KILL_GRACE_SECONDS = 2.0


class State(Enum):
    """A generation's life, in order. One that fails to start goes from the first to the last, one
    that is kept for a rollback may serve again."""

    STARTING = "starting"
    SERVING = "serving"
    KEPT = "kept"
    RETIRING = "retiring"
    STOPPING = "stopping"


class Generation:
    """The workers of ``config``. ``may_fail`` names mounts that may answer 503; None is any.

    ``failed`` has the report of each mount that did not load, by name; ``faults`` are why the
    generation cannot serve, each as a person reads it.
    """

    def __init__(
        self,
        number: int,
        config: Config,
        style: str,
        listener: socket.socket,
        may_fail: frozenset[str] | None = None,
    ) -> None:
        self.id = f"g{number}"
        self.config = config
        self.state = State.STARTING
        self.children: dict[int, Child] = {}
        self.failed: dict[str, Report] = {}
        self.faults: list[str] = []
        self.began = time.monotonic()
        self.young_deaths = 0
        self._style = style
        self._listener = listener
        self._may_fail = may_fail
        self._was_ready = False
        self._was_asked = False  # whether it may have connections
        self._changed = asyncio.Event()

    # --- starting -----------------------------------------------------------------------------

    def serve(self) -> None:
        """Start; each worker accepts as soon as it has loaded. The gateway's first generation."""
        self.state = State.SERVING
        for _ in range(self.config.server.workers):
            self._spawn()

    async def load(self) -> None:
        """Start, and wait until every worker has loaded all it should. Else all workers are ended
        again, and AppLoadError is raised with the reasons."""
        try:
            for _ in range(self.config.server.workers):
                self._spawn()
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
        for child in self.children.values():
            child.accept()
        if not await self._has_reached(ChildState.READY):
            await self.give_up()
        self.state = State.SERVING

    @property
    def is_whole(self) -> bool:
        """Whether no worker has ended since it was kept."""
        states = [child.state for child in self.children.values()]
        return states == [ChildState.PAUSED] * self.config.server.workers

    async def give_up(self) -> None:
        """End a start that has failed. Raises AppLoadError with the reasons."""
        limits = self.config.server.limits
        await self.stop(limits.drain_timeout_seconds if self._was_asked else 0)
        raise AppLoadError("\n".join(self.faults or ["the gateway is stopping"]))

    def _spawn(self) -> None:
        child = Child(self.config, self._style, self.id, self._listener, self.on_report)
        self.children[child.pid] = child
        seconds = self.config.server.limits.start_timeout_seconds
        asyncio.get_running_loop().call_later(seconds, self._end_overdue, child)

    def _end_overdue(self, child: Child) -> None:
        if child.state is not ChildState.LOADING or child.exit_code is not None:
            return
        seconds = self.config.server.limits.start_timeout_seconds
        what = f"worker {child.pid} did not load within {seconds:g} s (server.start_timeout)"
        self._note_fault(self._at_mount(child.loading, what))
        child.kill()

    def _at_mount(self, name: str, what: str) -> str:
        """``what`` with the place in the table of the mount that was being loaded."""
        return f"{describe_place(self.config, name)}: {what}" if name else what

    def _note_fault(self, fault: str) -> None:
        if self.state is State.STARTING:
            self.faults.append(fault)
        else:
            lifecycle.error("%s", fault)
        self._changed.set()

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
        self._changed.set()

    def _on_loaded(self, child: Child, report: Report) -> None:
        child.loading = ""
        self._note_mounts(report["mounts"])
        if child.state is ChildState.LOADING:
            child.state = ChildState.LOADED
            if child.config is not self.config:
                child.apply(self.config)  # which has changed in place while it was loading
            if self.state is State.SERVING:
                child.accept()

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
                self._note_fault(describe_failure(self.config, report))

    # --- workers that end ---------------------------------------------------------------------

    async def bury(self, child: Child) -> None:
        """A worker has ended: mourn, and replace it where the generation serves."""
        was = child.state
        await child.finish()
        del self.children[child.pid]
        lived = time.monotonic() - child.started
        ended = f"worker {child.pid} ({was.value}) {describe_exit(child.exit_code)}"
        if self.state is State.STARTING:
            if not self.faults:
                self._note_fault(self._at_mount(child.loading, f"{ended} while it was loading"))
        elif self.state is State.SERVING:
            self.young_deaths = 0 if lived > YOUNG_SECONDS else self.young_deaths + 1
            delay = backoff_seconds(self.young_deaths)
            when = f"in {delay:g} s" if delay else "now"
            lifecycle.error("%s after %.1f s; a new one starts %s", ended, lived, when)
            await self._replace(delay)
        self._changed.set()

    async def _replace(self, delay: float) -> None:
        await asyncio.sleep(delay)
        while self.state is State.SERVING:
            try:
                self._spawn()
                break
            except OSError as error:
                self.young_deaths += 1
                delay = backoff_seconds(self.young_deaths)
                lifecycle.error("a worker could not be started: %s; again in %g s", error, delay)
                await asyncio.sleep(delay)

    # --- ending -------------------------------------------------------------------------------

    async def leave(self) -> None:
        """Accept no more, and stay loaded. Waits, but not long for a worker that is wedged."""
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
        self._changed.set()
        for child in self.children.values():
            child.terminate()
        if await self.until(lambda: not self.children, drain_seconds + KILL_GRACE_SECONDS):
            return
        for child in self.children.values():
            lifecycle.error("worker %d did not end; killed", child.pid)
        self.kill()
        await self.until(lambda: not self.children, None)

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
            return all(child.state is state for child in self.children.values())

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

    def describe(self) -> dict[str, Any]:
        """The generation for ``gateway status``; durations in seconds."""
        return {
            "generation": self.id,
            "state": self.state.value,
            "age": round(time.monotonic() - self.began, 3),
            "workers": [child.describe() for child in self.children.values()],
        }


def backoff_seconds(young_deaths: int) -> float:
    """How long to wait after so many deaths in a row; the first of an old worker costs nothing."""
    if not young_deaths:
        return 0.0
    # the exponent is bounded: a worker may die young for days
    return float(min(FIRST_BACKOFF_SECONDS * 2 ** min(young_deaths - 1, 16), MAX_BACKOFF_SECONDS))
