"""One generation: a single, immutable start of the workers, from one reading of the table.

Owns its workers' lives and the reasons why it could not be served. Knows neither the generations
beside it nor what asked for it.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from gateway.config.model import Config
from gateway.environments.cache import Environment
from gateway.errors import AppLoadError, GatewayError
from gateway.logs import lifecycle
from gateway.supervisor.backoff import Backoff
from gateway.supervisor.generations.failures import describe_place, describe_pool
from gateway.supervisor.generations.outages import Outages
from gateway.supervisor.generations.start_failures import StartFailures
from gateway.supervisor.processes.process import LEAVING, ChildState, Process, Purpose, Report
from gateway.supervisor.processes.start_gate import Load, StartGate, Urgency
from gateway.supervisor.tasks import guarded
from gateway.supervisor.tasks import start as start_task
from gateway.uncaught import report_own, summarize

# Without workers for so long, requests are better answered than kept waiting. Those of workers that
# had served are back sooner.
GONE_SECONDS = 0.8
# until it is of interest why a worker is not ready
SLOW_START_SECONDS = 2.0
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
    """The workers of ``config``. ``start`` starts one of them, for a purpose, and raises OSError;
    ``may_fail`` names mounts that may answer 503; None is any. ``on_change`` is called after each
    report and each end of a worker. Workers wait for ``gate`` to let them start; ``is_asked`` is
    whether clients wait for one.

    ``size`` is how many workers there are to be. ``failed`` has the report of each mount that did
    not load, by name, and ``outages`` when it is tried again; ``noted`` what apps have changed for
    others; ``faults`` are why the generation cannot serve, each as a person reads it. ``trouble``
    is why no worker could be had lately, "" once one accepts, and ``failures`` what the log has of
    that. ``queued`` are those that are to
    start as soon as it is their turn.
    """

    def __init__(
        self,
        number: int,
        config: Config,
        start: Callable[["Generation", "Purpose"], Process],
        environment: Environment | None = None,
        may_fail: frozenset[str] | None = None,
        on_change: Callable[["Generation"], object] = id,
        gate: StartGate | None = None,
        is_asked: Callable[[], bool] = bool,
    ) -> None:
        self.id = f"g{number}"
        self.config = config
        self.size = config.server.workers
        self.state = State.STARTING
        self.children: dict[int, Process] = {}
        self.failed: dict[str, Report] = {}
        self.noted: set[str] = set()
        self.faults: list[str] = []
        self.trouble = ""
        self.began = time.monotonic()
        self.backoff = Backoff()
        self.outages = Outages()
        self.failures = StartFailures()
        self.queued = 0
        self._gate = gate or StartGate()
        self._is_asked = is_asked
        self._start = start
        self.environment = environment
        self.may_fail = may_fail
        self._on_change = on_change
        self._ended = (0, 0)
        self.was_ready = False
        self.was_asked = False  # whether it may have connections
        self.is_claimed = False  # whether a rollback is about to have it serve again
        self._changed = asyncio.Event()

    # --- starting -----------------------------------------------------------------------------

    def serve(self) -> None:
        """From now on each worker accepts as soon as it has loaded."""
        self.state = State.SERVING

    async def load(self) -> None:
        """Start, and wait until every worker has loaded all it should. Else all workers are ended
        again, and AppLoadError is raised with the reasons."""
        adding = [start_task(self._try_add()) for _ in range(self.size)]
        try:
            is_loaded = await self._has_reached(ChildState.LOADED)
        finally:
            for each in adding:
                each.cancel()
        if not is_loaded:
            await self.give_up()

    async def _try_add(self) -> None:
        try:
            await self.add()
        except OSError as error:
            self.note_fault(self.locate("", f"a worker could not be started: {error}"))

    async def accept(self) -> None:
        """Have all workers accept, which have loaded or are kept. Raises AppLoadError as ``load``,
        and for one that is no longer whole."""
        if self.state is State.KEPT:
            self.faults = [] if self.is_whole else [f"a worker of {self.id} has ended meanwhile"]
            self.state = State.STARTING
            self.is_claimed = False
        for child in self.crew:
            child.accept()
        if not await self._has_reached(ChildState.READY):
            await self.give_up()
        self.state = State.SERVING

    @property
    def crew(self) -> list[Process]:
        """The workers that are to stay."""
        return [child for child in self.children.values() if child.state not in LEAVING]

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where those of its servers that answer are to be asked, that have an address each."""
        answering = (c for c in self.crew if c.state is not ChildState.LOADING)
        return tuple(c.address for c in answering if c.address and c.exit_code is None)

    def find_failed(self) -> dict[str, Report]:
        """``failed``, or why all its mounts answer 503, as reports by mount."""
        children = list(self.children.values())
        latest = time.monotonic() - SLOW_START_SECONDS
        slow = [child.last_words.removeprefix(": ") for child in children if child.started < latest]
        why = self.trouble or next(filter(None, slow), "")
        ready = [child for child in children if child.accepts]
        if ready:
            lacking = frozenset.intersection(*(child.lacks for child in ready))
            error = "it has not loaded so far"
            return {name: _report(name, error) for name in lacking} | self.failed
        if not why:
            return self.failed
        why = "its pool has no worker: " + why.partition("\n")[0]
        reports = (_report(mount.name, why, is_alone=True) for mount in self.config.mounts)
        return {report["mount"]: report for report in reports} | self.failed

    @property
    def is_short(self) -> bool:
        """Whether a worker is missing; those that leave do not count."""
        return len(self.crew) < self.size

    @property
    def has_surplus(self) -> bool:
        """Whether one worker may go."""
        return len(self.crew) > self.size

    @property
    def is_whole(self) -> bool:
        """Whether no worker has ended since it was kept."""
        states = [child.state for child in self.crew]
        return states == [ChildState.PAUSED] * self.size

    async def give_up(self) -> None:
        """End a start that has failed. Raises AppLoadError with the reasons."""
        limits = self.config.server.limits
        await self.stop(limits.drain_timeout_seconds if self.was_asked else 0)
        raise AppLoadError("\n".join(self.faults or ["the gateway is stopping"]))

    @property
    def is_gone(self) -> bool:
        """Whether it should serve, and has no worker that could for a while."""
        is_alone = self.state is State.SERVING and not self.crew
        return is_alone and self.backoff.seconds >= GONE_SECONDS

    async def add(self, *, is_spare: bool = False) -> Process | None:
        """Start a worker as soon as it is its turn, as a spare one beside those that serve; None
        where none is wanted any more by then. Raises OSError."""
        self.queued += 1
        try:
            # the first worker of each pool goes before the second of any
            load = await self._gate.enter(self._find_urgency, len(self.crew) + self.queued)
        finally:
            self.queued -= 1
        child = None
        try:
            is_alive = self.state in (State.STARTING, State.SERVING) and not self.faults
            if is_alive and (is_spare or self.is_short):
                child = self.spawn(is_spare=is_spare)
                self._let_load(load, child)
        finally:
            if child is None:
                self._gate.leave(load)
        return child

    def _find_urgency(self) -> Urgency:
        is_awaited = self.state is State.SERVING and self._is_asked()
        return Urgency.AWAITED if is_awaited else Urgency.START

    def _let_load(self, load: Load, child: Process) -> None:
        load.pid = child.pid
        load.is_over = lambda: child.state is not ChildState.LOADING or child.exit_code is not None

    def spawn(
        self,
        *,
        is_spare: bool = False,
        left_out: Mapping[str, str] | None = None,
        trial: str = "",
    ) -> Process:
        """Start a worker, as a spare one beside those that serve, or for a ``trial`` of that mount.
        It leaves out what cannot be loaded, unless told otherwise. Raises OSError."""
        left_out = self.outages.left_out if left_out is None else left_out
        child = self._start_one(Purpose(left_out, trial))
        self.children[child.pid] = child
        child.is_spare, child.left_out = is_spare, left_out
        if trial:
            child.state, child.trial, child.may_serve = ChildState.TRYING, trial, False
        seconds = self.config.server.limits.start_timeout_seconds
        asyncio.get_running_loop().call_later(seconds, self._end_overdue, child)
        self._tell_observers()
        return child

    def _start_one(self, purpose: Purpose) -> Process:
        """Raises OSError, whatever has gone wrong: who asks for a worker can cope with that."""
        try:
            return self._start(self, purpose)
        except OSError:
            raise
        except GatewayError as error:  # the socket of its own cannot be had
            raise OSError(str(error)) from error
        except Exception as error:
            report_own("the start of a worker", error)
            raise OSError(summarize(error)) from error

    def _end_overdue(self, child: Process) -> None:
        is_loading = child.state in (ChildState.LOADING, ChildState.TRYING)
        if not is_loading or child.exit_code is not None:
            return
        seconds = self.config.server.limits.start_timeout_seconds
        what = f"worker {child.pid} did not load within {seconds:g} s (server.start_timeout)"
        child.objection = what + child.last_words
        try:
            if not child.trial:
                self.note_trouble(child, child.objection)
                fault = self.locate(child.loading, self.trouble)
                reason = f"{child.loading} is overdue: {child.reason_to_fail}"
                if self.state is not State.SERVING or (
                    not child.is_spare and self.failures.note(reason)
                ):
                    self.note_fault(fault, child.loading)
        finally:
            child.kill()

    def may_lack(self, mount: str) -> bool:
        """Whether it may serve although that mount does not load."""
        return bool(mount) and (self.may_fail is None or mount in self.may_fail)

    def locate(self, mount: str, what: str) -> str:
        """``what`` with the place in the table of the mount that was being loaded, or the pool."""
        if mount:
            return f"{describe_place(self.config, mount)}: {what}"
        return what if self.config.pool.name == "main" else f"{describe_pool(self.config)}: {what}"

    def note_trouble(self, child: Process, why: str) -> None:
        """Why one never came to serve: the first cause that was seen, not how it was ended then."""
        if not self.trouble.startswith(f"worker {child.pid} "):
            self.trouble = why

    def note_change(self) -> None:
        """Have those look who wait in ``until``, and who was to be told of changes."""
        self._changed.set()
        with guarded("whose turn it is to start"):
            self._gate.look()
        self._tell_observers()

    def _tell_observers(self) -> None:
        """What they cannot do now, they do at the next change."""
        with guarded(f"a change of generation {self.id}"):
            self._on_change(self)

    def note_fault(self, fault: str, mount: str = "") -> None:
        """Why it cannot serve, or what is to be known of one that does, or may without ``mount``,
        where that is at fault."""
        if self.state is State.STARTING and not self.may_lack(mount):
            self.faults.append(fault)
        else:
            lifecycle.error("%s", fault)
        self.note_change()

    # --- ending -------------------------------------------------------------------------------

    async def leave(self, *, hands_over: bool) -> None:
        """Accept no more, and stay loaded; with ``hands_over`` the generation that serves gets the
        idle connections. Waits, but not long for a worker that is wedged."""
        if self.state is State.STOPPING:
            return  # it falls asleep just now
        self.state = State.KEPT
        self._each(lambda child: child.pause(hands_over=hands_over))
        await self.until(
            lambda: not any(child.accepts for child in self.children.values()), KILL_GRACE_SECONDS
        )

    async def retire(self) -> None:
        """After ``leave``: end with the last kept-alive connection. Waits for that."""
        self.state = State.RETIRING
        self._each(lambda child: child.retire())
        limits = self.config.server.limits
        if not await self.until(
            lambda: not self.children, limits.keep_alive_seconds + limits.drain_timeout_seconds
        ):
            await self.stop(limits.drain_timeout_seconds)

    async def stop(self, drain_seconds: float) -> None:
        """Let requests in flight finish, and end. Waits for that; kills what takes too long."""
        self.state = State.STOPPING
        self.note_change()
        self._each(lambda child: child.terminate())
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
        self._each(lambda child: child.kill())

    def _each(self, order: Callable[[Process], object]) -> None:
        """Give ``order`` to every worker; one that cannot have it is no reason to leave others."""
        for child in list(self.children.values()):
            with guarded(f"an order to worker {child.pid}"):
                order(child)

    # --- waiting ------------------------------------------------------------------------------

    async def _has_reached(self, state: ChildState) -> bool:
        """Whether every worker comes to be in ``state`` while nothing speaks against the start."""

        def is_hopeless() -> bool:
            return bool(self.faults) or self.state is not State.STARTING

        def is_reached() -> bool:
            return not self.is_short and all(child.state is state for child in self.crew)

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
        counts = [child.in_flight.counts() for child in list(self.children.values())]
        requests, failures = self._ended
        return (
            requests + sum(each.requests for each in counts),
            failures + sum(each.failures for each in counts),
        )

    @property
    def is_busy(self) -> bool:
        """Whether a worker has a request in flight, or is no longer or not yet one that serves, if
        only because it is not its turn to start."""
        is_waiting = self.is_short and not self.trouble
        return is_waiting or any(
            child.state not in (ChildState.READY, ChildState.TRYING) or child.in_flight.count()
            for child in self.children.values()
        )

    def remove(self, child: Process) -> None:
        """It has ended; what it counted stays."""
        del self.children[child.pid]
        counts = child.in_flight.counts()
        self._ended = self._ended[0] + counts.requests, self._ended[1] + counts.failures

    def describe(self) -> dict[str, Any]:
        """The generation for ``gateway status``; durations in seconds. ``crashes`` are those in a
        row of workers that died young, ``delay`` is what their replacement waits; ``queued`` wait
        for their turn to start."""
        return {
            "generation": self.id,
            "pool": self.config.pool.name,
            "state": self.state.value,
            "age": round(time.monotonic() - self.began, 3),
            "crashes": self.backoff.rounds,
            "delay": self.backoff.seconds,
            "queued": self.queued,
            "workers": [child.describe() for child in self.children.values()],
        }


def _report(mount: str, error: str, **more: bool) -> Report:
    return {"mount": mount, "error": error, "traceback": "", **more}
