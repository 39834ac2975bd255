"""One generation: the workers that were started together, from one reading of the table.

Owns its processes and the reasons why it cannot serve. Others read its attributes, and change them
by its methods only. Knows neither the generations beside it nor what asked for it.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from gateway.config.model import Config
from gateway.environments.cache import Environment
from gateway.errors import AppLoadError, GatewayError
from gateway.logs import lifecycle
from gateway.states import Machine, State
from gateway.supervisor.backoff import Backoff
from gateway.supervisor.generations.failures import describe_place, describe_pool
from gateway.supervisor.generations.outages import Outages
from gateway.supervisor.generations.start_failures import StartFailures
from gateway.supervisor.processes.process import LEAVING, Process, ProcessState, Purpose, Report
from gateway.supervisor.processes.start_gate import Load, StartGate, Urgency
from gateway.supervisor.tasks import guarded
from gateway.supervisor.tasks import start as start_task
from gateway.uncaught import report_own, summarize

# A pool without workers for longer than this answers 503 instead of keeping requests waiting.
# Workers that had served are replaced sooner.
GONE_SECONDS = 0.8
# a worker that is not ready after this long has its reason shown in the status
SLOW_START_SECONDS = 2.0
# of entries about what apps have changed for others: apps decide their texts
MAX_NOTED = 100
# beyond the time that a worker was given to end, before it is killed
KILL_GRACE_SECONDS = 2.0


class GenerationState(State):
    """The life of a generation, whose table is ``GENERATION``."""

    STARTING = "starting", "its workers load; none accepts before all have loaded"
    SERVING = "serving", "its workers accept as soon as each has loaded, and are replaced"
    STANDBY = "standby", "another one serves; its workers stay loaded for a rollback"
    ASLEEP = "asleep", "it has no workers until a request wakes its pool"
    RETIRING = "retiring", "its workers end with their last connections"
    STOPPING = "stopping", "its workers finish their requests in flight and end"


_S = GenerationState
GENERATION = Machine(
    "generation",
    _S.STARTING,
    {
        _S.STARTING: frozenset((_S.SERVING, _S.ASLEEP, _S.STOPPING)),
        _S.SERVING: frozenset((_S.STANDBY, _S.STOPPING)),
        _S.STANDBY: frozenset((_S.STARTING, _S.RETIRING, _S.STOPPING)),
        _S.ASLEEP: frozenset((_S.STOPPING,)),
        _S.RETIRING: frozenset((_S.STOPPING,)),
        _S.STOPPING: frozenset((_S.ASLEEP,)),
    },
)


class Generation:
    """The workers of ``config``. ``start`` starts a process for a purpose, and raises OSError.
    ``may_fail`` names the mounts that may answer 503, None for any. ``on_change`` is called after
    each report and each end of a process. Processes wait for ``gate`` before they start;
    ``is_asked`` is true while clients wait for one.

    ``processes`` are all that have not ended, by pid, and ``workers`` those of them that stay, of
    which there should be ``size``; ``queued`` counts those that wait for the gate.
    ``failed`` has the report of each mount that did not load, by name, ``outages`` when each is
    tried again, and ``noted`` what apps have changed for others. ``faults`` are the reasons why
    the generation cannot serve, for a person. ``trouble`` is why no worker could be started
    lately, "" once one accepts, and ``failures`` what the log has of that.
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
        self.state = GENERATION.first
        self.processes: dict[int, Process] = {}
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
        self.has_accepted = False  # so that it may have connections
        self.is_claimed = False  # by a rollback that is about to have it serve again
        self._changed = asyncio.Event()

    def _enter(self, state: GenerationState) -> None:
        self.state = GENERATION.step(self.state, state, self.id)

    # --- starting -----------------------------------------------------------------------------

    def serve(self) -> None:
        """From now on each worker accepts as soon as it has loaded."""
        self._enter(GenerationState.SERVING)

    async def load(self) -> None:
        """Start all workers, and wait until each has loaded all that it has to. Raises AppLoadError
        with the reasons if one has not; then all have ended again."""
        adding = [start_task(self._try_add()) for _ in range(self.size)]
        try:
            is_loaded = await self._has_reached(ProcessState.LOADED)
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
        """Have all workers accept, which have loaded or are on standby. Raises AppLoadError as
        ``load`` does, and if a worker on standby has ended."""
        if self.state is GenerationState.STANDBY:
            self.faults = [] if self.is_whole else [f"a worker of {self.id} has ended meanwhile"]
            self._enter(GenerationState.STARTING)
            self.is_claimed = False
        for process in self.workers:
            process.accept()
        if not await self._has_reached(ProcessState.READY):
            await self.give_up()
        self._enter(GenerationState.SERVING)

    @property
    def workers(self) -> list[Process]:
        """The processes that serve, or will."""
        return [process for process in self.processes.values() if process.state not in LEAVING]

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses of its processes that answer, of those that have one of their own."""
        answering = (c for c in self.workers if c.state is not ProcessState.LOADING)
        return tuple(c.address for c in answering if c.address and c.exit_code is None)

    def find_failed(self) -> dict[str, Report]:
        """The reports of mounts that answer 503, by name: ``failed``, or all where no worker is
        there."""
        processes = list(self.processes.values())
        latest = time.monotonic() - SLOW_START_SECONDS
        slow = [
            process.last_output.removeprefix(": ")
            for process in processes
            if process.started < latest
        ]
        why = self.trouble or next(filter(None, slow), "")
        ready = [process for process in processes if process.accepts]
        if ready:
            lacking = frozenset.intersection(*(process.lacks for process in ready))
            error = "it has not loaded so far"
            return {name: _describe_missing(name, error) for name in lacking} | self.failed
        if not why:
            return self.failed
        why = "its pool has no worker: " + why.partition("\n")[0]
        reports = (
            _describe_missing(mount.name, why, is_alone=True) for mount in self.config.mounts
        )
        return {report["mount"]: report for report in reports} | self.failed

    @property
    def is_short(self) -> bool:
        """A worker is missing; those that leave do not count."""
        return len(self.workers) < self.size

    @property
    def has_surplus(self) -> bool:
        """One worker more than needed is there."""
        return len(self.workers) > self.size

    @property
    def is_whole(self) -> bool:
        """No worker has ended since it went on standby."""
        states = [process.state for process in self.workers]
        return states == [ProcessState.PAUSED] * self.size

    async def give_up(self) -> None:
        """End a start that has failed. Raises AppLoadError with the reasons."""
        limits = self.config.server.limits
        await self.stop(limits.drain_timeout_seconds if self.has_accepted else 0)
        raise AppLoadError("\n".join(self.faults or ["the gateway is stopping"]))

    @property
    def is_gone(self) -> bool:
        """It should serve, and has no worker that could for a while."""
        is_alone = self.state is GenerationState.SERVING and not self.workers
        return is_alone and self.backoff.seconds >= GONE_SECONDS

    async def add(self, *, is_spare: bool = False) -> Process | None:
        """Start a worker as soon as the gate admits it, as a spare beside those that serve if
        ``is_spare``; None if none is needed any more then. Raises OSError."""
        self.queued += 1
        try:
            # the first worker of each pool goes before the second of any
            load = await self._gate.enter(self._find_urgency, len(self.workers) + self.queued)
        finally:
            self.queued -= 1
        process = None
        try:
            is_alive = (
                self.state in (GenerationState.STARTING, GenerationState.SERVING)
                and not self.faults
            )
            if is_alive and (is_spare or self.is_short):
                process = self.spawn(is_spare=is_spare)
                self._let_load(load, process)
        finally:
            if process is None:
                self._gate.leave(load)
        return process

    async def add_spare(self) -> Process | None:
        """Start a worker beside those that serve, and wait until it serves too or has ended; None
        where it is not needed any more, or the generation does not serve any more. Raises
        OSError."""
        spare = await self.add(is_spare=True)
        if spare is None:
            return None
        await self.until(
            lambda: (
                spare.state is ProcessState.READY
                or spare.exit_code is not None
                or self.state is not GenerationState.SERVING
            ),
            None,
        )
        return spare if self.state is GenerationState.SERVING else None

    def _find_urgency(self) -> Urgency:
        is_awaited = self.state is GenerationState.SERVING and self._is_asked()
        return Urgency.AWAITED if is_awaited else Urgency.START

    def _let_load(self, load: Load, process: Process) -> None:
        def is_over() -> bool:
            return process.state is not ProcessState.LOADING or process.exit_code is not None

        load.note_started(process.pid, is_over)

    def spawn(
        self,
        *,
        is_spare: bool = False,
        left_out: Mapping[str, str] | None = None,
        trial: str = "",
    ) -> Process:
        """Start a worker at once: a spare beside those that serve if ``is_spare``, or a ``trial``
        of that mount. It does not load the mounts of ``left_out``, by default those that have
        ended workers. Raises OSError."""
        left_out = self.outages.left_out if left_out is None else left_out
        process = self._start_one(Purpose(left_out, trial))
        self.processes[process.pid] = process
        process.assign(left_out, is_spare=is_spare)
        if trial:
            process.begin_trial(trial, may_serve=False)
        seconds = self.config.server.limits.start_timeout_seconds
        asyncio.get_running_loop().call_later(seconds, self._end_overdue, process)
        self._notify_observers()
        return process

    def _start_one(self, purpose: Purpose) -> Process:
        """Raises OSError, whatever has gone wrong: callers can deal with that."""
        try:
            return self._start(self, purpose)
        except OSError:
            raise
        except GatewayError as error:  # the socket of its own cannot be had
            raise OSError(str(error)) from error
        except Exception as error:
            report_own("the start of a worker", error)
            raise OSError(summarize(error)) from error

    def _end_overdue(self, process: Process) -> None:
        is_loading = process.state in (ProcessState.LOADING, ProcessState.TRYING)
        if not is_loading or process.exit_code is not None:
            return
        seconds = self.config.server.limits.start_timeout_seconds
        what = f"worker {process.pid} did not load within {seconds:g} s (server.start_timeout)"
        process.refuse(what + process.last_output)
        try:
            if not process.trial:
                self.note_trouble(process, process.objection)
                fault = self.locate(process.loading, self.trouble)
                reason = f"{process.loading} is overdue: {process.reason_to_fail}"
                if self.state is not GenerationState.SERVING or (
                    not process.is_spare and self.failures.note(reason)
                ):
                    self.note_fault(fault, process.loading)
        finally:
            process.kill()

    def may_lack(self, mount: str) -> bool:
        """It may serve although that mount does not load."""
        return bool(mount) and (self.may_fail is None or mount in self.may_fail)

    def locate(self, mount: str, what: str) -> str:
        """``what``, behind the place in the table of that mount, or of the pool for ""."""
        if mount:
            return f"{describe_place(self.config, mount)}: {what}"
        return what if self.config.pool.name == "main" else f"{describe_pool(self.config)}: {what}"

    def note_trouble(self, process: Process, why: str) -> None:
        """A process never came to serve. Of one process the first reason counts, and not how it
        was ended because of that."""
        if not self.trouble.startswith(f"worker {process.pid} "):
            self.trouble = why

    def note_no_start(self, error: OSError) -> float:
        """No process could be started; the seconds until the next try."""
        self.trouble = f"a worker could not be started: {error}"
        return self.backoff.note_failure(time.monotonic())

    def note_ready(self) -> None:
        """A worker accepts connections."""
        self.has_accepted, self.trouble = True, ""

    def note_all_ready(self) -> None:
        """All workers have accepted for the first time."""
        self.was_ready = True

    def note_failed(self, report: Report) -> None:
        """The mount of ``report`` answers 503 for that reason."""
        self.failed[report["mount"]] = report

    def note_app_change(self, text: str) -> bool:
        """An app has changed something for others; whether to log that, which is done once."""
        is_news = text not in self.noted and len(self.noted) < MAX_NOTED
        if is_news:
            self.noted.add(text)
        return is_news

    def forget_failed(self, mount: str) -> None:
        """It has loaded, or was never among those that had not."""
        self.failed.pop(mount, None)

    def note_change(self) -> None:
        """Wake those that wait in ``until``, and notify the gate and ``on_change``."""
        self._changed.set()
        with guarded("the gate for starts"):
            self._gate.look()
        self._notify_observers()

    def _notify_observers(self) -> None:
        """What fails for them now is done at the next change."""
        with guarded(f"a change of generation {self.id}"):
            self._on_change(self)

    def note_fault(self, fault: str, mount: str = "") -> None:
        """A reason why it cannot serve while it starts, unless only ``mount`` is at fault, which
        it may lack; else an entry in the log."""
        if self.state is GenerationState.STARTING and not self.may_lack(mount):
            self.add_fault(fault)
        else:
            lifecycle.error("%s", fault)
        self.note_change()

    def add_fault(self, fault: str) -> None:
        """It cannot serve for this reason."""
        self.faults.append(fault)

    # --- changing -----------------------------------------------------------------------------

    def adopt(self, config: Config) -> None:
        """Serve ``config`` from now on, in place; its processes get it from the caller, where it
        means something else for them."""
        self.config = config

    def resize(self, size: int) -> None:
        """Have ``size`` workers; the caller starts or retires the difference."""
        self.size = size

    def claim(self) -> None:
        """A rollback is about to have it serve again: it does not retire before ``release``."""
        self.is_claimed = True

    def release(self) -> None:
        """The rollback has not taken place."""
        self.is_claimed = False
        self.note_change()

    # --- ending -------------------------------------------------------------------------------

    async def leave(self, *, hands_over: bool) -> None:
        """Accept no more, and go on standby; with ``hands_over`` the generation that serves gets
        the idle connections. Waits for that, KILL_GRACE_SECONDS at most."""
        if self.state is GenerationState.STOPPING:
            return  # it is falling asleep
        self._enter(GenerationState.STANDBY)
        self._each(lambda process: process.pause(hands_over=hands_over))
        await self.until(
            lambda: not any(process.accepts for process in self.processes.values()),
            KILL_GRACE_SECONDS,
        )

    async def retire(self) -> None:
        """After ``leave``: have each worker end with its last kept-alive connection. Waits for
        that."""
        self._enter(GenerationState.RETIRING)
        self._each(lambda process: process.retire())
        limits = self.config.server.limits
        if not await self.until(
            lambda: not self.processes, limits.keep_alive_seconds + limits.drain_timeout_seconds
        ):
            await self.stop(limits.drain_timeout_seconds)

    async def stop(self, drain_seconds: float) -> None:
        """Let requests in flight finish for so many seconds, and end all workers. Waits for that;
        kills what takes longer."""
        self._enter(GenerationState.STOPPING)
        self.note_change()
        self._each(lambda process: process.terminate())
        if await self.until(lambda: not self.processes, drain_seconds + KILL_GRACE_SECONDS):
            return
        for process in self.processes.values():
            lifecycle.error("worker %d did not end; killed", process.pid)
        self.kill()
        await self.until(lambda: not self.processes, None)

    async def sleep(self, drain_seconds: float) -> None:
        """``stop``, and ``rest``."""
        await self.stop(drain_seconds)
        self.rest()

    def rest(self) -> None:
        """Be asleep: it has no workers, or has not begun to start any."""
        self._enter(GenerationState.ASLEEP)

    def kill(self) -> None:
        """End all workers at once."""
        self._each(lambda process: process.kill())

    def _each(self, order: Callable[[Process], object]) -> None:
        """Call ``order`` with every process; where that fails for one, the others get it too."""
        for process in list(self.processes.values()):
            with guarded(f"an order to worker {process.pid}"):
                order(process)

    # --- waiting ------------------------------------------------------------------------------

    async def _has_reached(self, state: ProcessState) -> bool:
        """Wait until every worker is in ``state``; False as soon as the start has failed."""

        def is_hopeless() -> bool:
            return bool(self.faults) or self.state is not GenerationState.STARTING

        def is_reached() -> bool:
            return not self.is_short and all(process.state is state for process in self.workers)

        await self.until(lambda: is_hopeless() or is_reached(), None)
        return not is_hopeless()

    async def until(self, condition: Callable[[], bool], seconds: float | None) -> bool:
        """Wait for ``condition``, which is looked at after each report and each end of a process;
        False if it was not true in so many seconds, None for any time."""
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
        up to a second late."""
        counts = [process.in_flight.counts() for process in list(self.processes.values())]
        requests, failures = self._ended
        return (
            requests + sum(each.requests for each in counts),
            failures + sum(each.failures for each in counts),
        )

    @property
    def is_busy(self) -> bool:
        """A worker has a request in flight, or one starts, is about to start, or ends."""
        is_waiting = self.is_short and not self.trouble
        return is_waiting or any(
            process.state not in (ProcessState.READY, ProcessState.TRYING)
            or process.in_flight.count()
            for process in self.processes.values()
        )

    def remove(self, process: Process) -> None:
        """A process has ended; what it counted stays."""
        del self.processes[process.pid]
        pulse = process.in_flight.counts()
        self._ended = self._ended[0] + pulse.requests, self._ended[1] + pulse.failures

    def describe(self) -> dict[str, Any]:
        """The generation for ``gateway status``; durations in seconds. ``crashes`` counts early
        ends in a row, ``delay`` is how long the last replacement waits, and ``queued`` counts
        those that wait for the gate."""
        return {
            "generation": self.id,
            "pool": self.config.pool.name,
            "state": self.state.value,
            "age": round(time.monotonic() - self.began, 3),
            "crashes": self.backoff.rounds,
            "delay": self.backoff.seconds,
            "queued": self.queued,
            "workers": [process.describe() for process in self.processes.values()],
        }


def _describe_missing(mount: str, error: str, **more: bool) -> Report:
    return {"mount": mount, "error": error, "traceback": "", **more}
