"""A pool: the generations of one set of workers, of which one serves.

Owns which generation serves, which is on standby for a rollback, and when the others end. Others
read its attributes, and change them by its methods only. Knows neither the table's text nor what
asked for a change.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from gateway.config.compare.inplace import find_reasons
from gateway.config.model import Config, ServerSettings
from gateway.environments.cache import Environment
from gateway.environments.client import HeldEnvironment, find_or_build
from gateway.errors import AppLoadError, BuildError
from gateway.logs import builds, lifecycle
from gateway.states import Machine, State
from gateway.supervisor.backoff import double
from gateway.supervisor.generations import inplace
from gateway.supervisor.generations.exits import replace
from gateway.supervisor.generations.failures import describe_pool
from gateway.supervisor.generations.generation import Generation, GenerationState
from gateway.supervisor.generations.patrol import patrol
from gateway.supervisor.generations.start_failures import StartFailures
from gateway.supervisor.listeners.sockets import Pair, open_handover
from gateway.supervisor.pools.fallback import FallbackResponder
from gateway.supervisor.pools.sleep import Alarm, fall_asleep, has_clients
from gateway.supervisor.pools.succession import activate_workers
from gateway.supervisor.processes.launch import build_installation
from gateway.supervisor.processes.process import Process, Purpose, Report
from gateway.supervisor.processes.start_gate import StartGate
from gateway.supervisor.tasks import guarded, keep_up

# Workers on standby, or with requests in flight, keep their memory: many quick edits must not fill
# the machine. With more generations than this the oldest end at once, as in a stop.
MAX_RETIRING = 3
# states of the current generation of a pool that is asleep or falling asleep
AT_REST = (GenerationState.ASLEEP, GenerationState.STOPPING)
# an environment that could not be built is tried again after 5 s, 10 s … up to this
FIRST_BUILD_RETRY_SECONDS = 5.0
MAX_BUILD_RETRY_SECONDS = 60.0
NO_ENVIRONMENT = "The environment of the app mounted here could not be built."


def find_environments(config: Config) -> Path:
    """The directory of ``server.environments``, which is relative to the table's."""
    return Path(config.source).absolute().parent / config.server.environments


class PoolState(State):
    """The life of a pool, whose table is ``POOL``."""

    NEW = "new", "it has nothing to serve yet"
    STARTING = "starting", "its environment is looked for, or built, for the first time"
    REFUSED = "refused", "that failed: its mounts answer 503 until a retry or a reload succeeds"
    SERVING = "serving", "it has a generation that serves"
    FALLING_ASLEEP = "falling asleep", "nobody has asked for it for long: its workers end"
    ASLEEP = "asleep", "it has no workers; the next connection wakes it"
    CLOSED = "closed", "it ends, with the gateway or because the table has it no more"


_S = PoolState
POOL = Machine(
    "pool",
    _S.NEW,
    {
        _S.NEW: frozenset((_S.STARTING, _S.SERVING, _S.CLOSED)),
        _S.STARTING: frozenset((_S.REFUSED, _S.SERVING, _S.CLOSED)),
        _S.REFUSED: frozenset((_S.SERVING, _S.CLOSED)),
        _S.SERVING: frozenset((_S.FALLING_ASLEEP, _S.ASLEEP, _S.CLOSED)),
        _S.FALLING_ASLEEP: frozenset((_S.ASLEEP, _S.SERVING, _S.CLOSED)),
        _S.ASLEEP: frozenset((_S.SERVING, _S.CLOSED)),
        _S.CLOSED: frozenset(),
    },
)


class Means(Enum):
    """What serves a change: the same workers, new ones, those on standby for a rollback, or none
    until a request wakes the pool."""

    IN_PLACE = "in place"
    NEW = "new workers"
    STANDBY = "standby workers"
    ASLEEP = "asleep"


@dataclass(frozen=True, slots=True)
class Change:
    """What a reload changes of a pool. ``old`` and ``new`` are one where it changes in place;
    without ``old`` the pool is new."""

    old: Generation | None
    before: Config
    new: Generation
    after: Config
    means: Means


class Pool:
    """``start`` starts a process of a generation; ``start_task`` runs work in the background;
    ``name_generation`` gives the number of the next one. ``on_change`` is called after each change
    of a generation. ``try_outs`` bounds how many sleeping pools are tried at a time, and processes
    wait for ``gate`` before they start.

    ``current`` is the generation that serves or sleeps, ``generations`` are all that have not
    ended, and ``previous`` is the one that a rollback goes back to. ``refused`` is the
    configuration whose environment could not be built, and ``refusal`` why.
    """

    def __init__(
        self,
        listener: socket.socket,
        start: Callable[[socket.socket, Pair, Generation, Purpose], Process],
        name_generation: Callable[[], int],
        start_task: Callable[[Any], None],
        on_change: Callable[[], None],
        try_outs: asyncio.Semaphore,
        gate: StartGate,
    ) -> None:
        self.listener = listener
        self._gate = gate
        # on which its workers hand connections over; one in transit outlives its worker
        self._handover = open_handover()
        self._start = partial(start, listener, self._handover)
        self._name_generation = name_generation
        self._start_task = start_task
        self._on_change = on_change
        self._try_outs = try_outs
        self.state = POOL.first
        self.generations: list[Generation] = []
        self.current: Generation | None = None
        self.previous: Generation | None = None
        self.refused: Config | None = None
        self.refusal = ""
        self._retry_at = 0.0
        self._fallback = FallbackResponder(listener)
        # a connection that was handed over waits for a worker, too
        self._alarm = Alarm((listener, self._handover[1]), self._wake)
        self._environments: list[HeldEnvironment] = []

    def _enter(self, state: PoolState) -> None:
        """A pool that is closed stays so, whatever was under way."""
        if self.state is not PoolState.CLOSED:
            self.state = POOL.step(self.state, state, self._name)

    @property
    def _is_closed(self) -> bool:
        return self.state is PoolState.CLOSED

    @property
    def _name(self) -> str:
        return self.config.pool.name if self.config else "(new)"

    def let_environments_go(self) -> None:
        """Release the environments that no generation uses any more."""
        having = [*self.generations, *([self.previous] if self.previous else [])]
        used = {id(generation.environment) for generation in having}
        for environment in self._environments:
            if id(environment) not in used:
                environment.let_go()
        self._environments = [each for each in self._environments if id(each) in used]

    @property
    def config(self) -> Config | None:
        """The configuration that it serves, or could not start; None for a new pool."""
        return self.current.config if self.current else self.refused

    @property
    def next_start(self) -> float:
        """The monotonic moment at which what failed last is started again."""
        return self.current.backoff.until if self.current else self._retry_at

    @property
    def failed(self) -> dict[str, Report]:
        """The reports of mounts that did not load, or have no worker, by name."""
        if self.current is not None:
            return self.current.find_failed()
        # the first line says what failed, and the last line of a build's output why
        error, *more = self.refusal.split("\n")
        if more:
            error = f"{error}; {more.pop().strip().rstrip('.')}"
        report = {"error": error, "traceback": "\n".join(more), "is_alone": True}
        mounts = self.refused.mounts if self.refused else ()
        return {mount.name: {"mount": mount.name, **report} for mount in mounts}

    @property
    def has_never_answered(self) -> bool:
        """It has never served, so that nothing becomes worse if it does not start now."""
        if self.current is None:
            return self.refused is not None
        return bool(self.current.config.pool.command) and not self.current.was_ready

    async def serve(self, config: Config) -> None:
        """Start for the first time. A mount that does not load answers 503, the others serve. While
        the environment cannot be built all answer 503, and the build is tried again."""
        if self.state is PoolState.NEW:
            self._enter(PoolState.STARTING)
        tries, took, failures = 0, 0.0, StartFailures()
        while self.current is None and not self._is_closed:  # else a reload was faster
            began = time.monotonic()
            if tries:
                self._fallback.open(NO_ENVIRONMENT, took)
            try:
                environment = await self._find_environment(config, is_news=not tries)
            except AppLoadError as error:
                self._refuse(config, error, is_news=failures.note(str(error)))
            else:
                if self._may_begin(config):
                    self._begin(config, environment)
                    return
            took = time.monotonic() - began
            pause = max(took, double(FIRST_BUILD_RETRY_SECONDS, tries, MAX_BUILD_RETRY_SECONDS))
            tries += 1
            if self.current is None:
                self._fallback.open(NO_ENVIRONMENT, pause)
                self._retry_at = time.monotonic() + pause
                self._on_change()
            await asyncio.sleep(pause)
            config = self.refused or config  # which the table may have changed

    def _may_begin(self, config: Config) -> bool:
        is_wanted = self.refused is None or self.refused == config
        return is_wanted and self.current is None and not self._is_closed

    def _refuse(self, config: Config, error: AppLoadError, *, is_news: bool) -> None:
        if self.current is None:
            self.refused, self.refusal = self.refused or config, str(error)
            self._enter(PoolState.REFUSED)
        if is_news:
            lifecycle.error("%s; its mounts answer 503 until a retry succeeds", error)

    def note_refused(self, config: Config) -> None:
        """The table says ``config`` now: the next retry is of that. For a pool that was refused;
        another one is left as it is."""
        if self.current is None and self.refused is not None:
            self.refused = config

    def note_refusal(self, refusal: str) -> None:
        """A reload could not start it either, for this reason."""
        self.refusal = refusal

    def _begin(self, config: Config, environment: Environment | None) -> None:
        """Serve ``config`` by workers each of which accepts as soon as it has loaded."""
        generation = self._build(config, environment, None)
        generation.serve()
        for _ in range(generation.size):
            self._start_task(keep_up(lambda: replace(generation, 0)))
        self._switch_to(generation)

    def _switch_to(self, generation: Generation) -> None:
        """Make it the generation that serves, or sleeps if it is asleep."""
        self._alarm.clear()
        self.current = generation
        is_asleep = generation.state is GenerationState.ASLEEP
        self._enter(PoolState.ASLEEP if is_asleep else PoolState.SERVING)
        if generation not in self.generations:
            self.generations.append(generation)  # it was asleep
        self._follow(generation)
        self._start_task(keep_up(lambda: self._rest(generation)))

    async def _rest(self, generation: Generation) -> None:
        """Wait until the pool may fall asleep, and let it."""
        if await fall_asleep(generation):
            self._enter(PoolState.FALLING_ASLEEP)
            lifecycle.info("pool %s: asleep until its next request", generation.config.pool.name)
            await keep_up(lambda: self._fall_asleep(generation))

    async def _fall_asleep(self, generation: Generation) -> None:
        await generation.sleep(generation.config.server.limits.drain_timeout_seconds)
        if generation is not self.current:
            self._forget(generation)
        elif not self._is_closed:
            self._enter(PoolState.ASLEEP)
            self._alarm.set()

    def _wake(self) -> None:
        asleep = self.current
        if asleep is not None and self.state is PoolState.ASLEEP:
            lifecycle.info("pool %s: awake", asleep.config.pool.name)
            self._forget(asleep)
            # in the environment that it had; a changed requirements file takes a reload
            self._begin(asleep.config, asleep.environment)

    def _build(
        self, config: Config, environment: Environment | None, may_fail: frozenset[str] | None
    ) -> Generation:
        is_front = not config.server.is_behind_front  # clients may be waiting at any time
        generation = Generation(
            self._name_generation(),
            config,
            self._start,
            environment,
            may_fail,
            self._note_change,
            self._gate,
            lambda: is_front or has_clients(self.listener),
        )
        self.generations.append(generation)
        self._start_task(keep_up(lambda: patrol(generation)))
        return generation

    def _note_change(self, generation: Generation) -> None:
        self._follow(generation)
        self._on_change()

    def _follow(self, generation: Generation) -> None:
        with guarded(f"the fallback answers for generation {generation.id}"):
            self._update_fallback(generation)
        with guarded(f"which workers are active, with generation {generation.id}"):
            activate_workers(self.current, self.generations)

    def _update_fallback(self, generation: Generation) -> None:
        """Answer 503 from the moment at which no worker is expected soon until one serves. In
        between, requests wait in the kernel's queue."""
        if generation is not self.current:
            return
        if generation.is_gone:
            cause = "The workers that answer here have ended; new ones are starting."
            self._fallback.open(cause, generation.backoff.seconds)
        elif not generation.trouble or generation.state is not GenerationState.SERVING:
            self._fallback.close()

    async def _find_environment(
        self, config: Config, *, is_news: bool = True
    ) -> Environment | None:
        """The environment that the pool asks for, built if it is not there; None for the gateway's
        own. Raises AppLoadError. ``is_news``: the progress of a build is logged."""
        pool = config.pool
        python = str(pool.venv / "bin" / "python") if pool.venv else pool.python
        if not python and not pool.requirements:
            return None
        place = describe_pool(config)
        try:
            environment = await find_or_build(
                root=find_environments(config),
                python=python,
                requirements=str(pool.requirements or ""),
                directory=config.directory,
                for_workers=not pool.command,
                surroundings=build_installation(pool),
                turn=self._gate.turn_to_build,
                on_progress=(lambda line: builds.info("%s: %s", place, line)) if is_news else id,
                timeout_seconds=config.server.limits.build_timeout_seconds,
            )
        except (BuildError, OSError) as error:
            raise AppLoadError(f"{place}: {error}") from error
        self._environments.append(environment)
        return environment

    # --- changing -----------------------------------------------------------------------------

    async def prepare(self, config: Config, *, anew: bool) -> Change:
        """Make ready to serve ``config``: in place where that needs no import and ``anew`` does not
        ask for new workers. Raises AppLoadError; then nothing has changed.

        Every mount has to load, but for those that answer 503 already.
        """
        old = self.current
        if old and not anew and not old.failed and not find_reasons(old.config, config):
            await inplace.prepare(old, config)
            return Change(old, old.config, old, config, Means.IN_PLACE)
        environment = await self._find_environment(config)
        if self._is_closed:
            raise AppLoadError("the gateway is stopping")  # and would not end new workers
        new = self._build(config, environment, frozenset(old.failed if old else ()))
        is_asleep = old is not None and old.state in AT_REST
        try:
            if is_asleep:
                await self._try_out(new)
            else:
                await new.load()
        except BaseException:
            self._forget(new)
            raise
        means = Means.ASLEEP if is_asleep else Means.NEW
        return Change(old, old.config if old else config, new, config, means)

    async def _try_out(self, generation: Generation) -> None:
        """See whether it loads, in one worker that ends again, and leave it asleep."""
        if generation.config.server.try_asleep:
            async with self._try_outs:
                generation.resize(1)
                await generation.load()
                await generation.stop(0)
        generation.resize(generation.config.server.workers)
        generation.rest()

    async def prepare_undo(self, change: Change) -> Change:
        """Make ready to serve what was served before ``change``: at once if that is on standby or
        asleep, or if the pool is asleep now."""
        old, now = change.old, self.current
        if old is None or now is None or old is change.new:
            return await self.prepare(change.before, anew=old is not change.new)
        if old.state is GenerationState.STANDBY and old.is_whole:
            old.claim()
            return Change(now, now.config, old, change.before, Means.STANDBY)
        if old.state is GenerationState.ASLEEP:
            return Change(now, now.config, old, change.before, Means.ASLEEP)
        if now.state in AT_REST:
            # it has served before: there is nothing to try out
            old = self._build(change.before, old.environment, frozenset(old.failed))
            old.rest()
            return Change(now, now.config, old, change.before, Means.ASLEEP)
        return await self.prepare(change.before, anew=True)

    async def commit(self, change: Change) -> None:
        """Serve what was prepared. Raises AppLoadError if its workers have ended meanwhile; then
        nothing has changed."""
        if change.means is Means.IN_PLACE:
            # a pool that was woken meanwhile has another generation
            await inplace.apply(self.current or change.new, change.after)
            return
        if change.means is not Means.ASLEEP:
            try:
                await change.new.accept()
            except BaseException:
                self._forget(change.new)
                raise
        left = self.current  # not the one of the preparation if it was woken meanwhile
        self._switch_to(change.new)
        if left is not None:
            await self._leave(left, change.after)
        if change.new is self.current and self.state is PoolState.ASLEEP:
            self._alarm.set()

    async def _leave(self, old: Generation, after: Config) -> None:
        """Another one serves: put it on standby for as long as a rollback may want it."""
        self.let_go(old)
        if old.state is GenerationState.ASLEEP:
            self._forget(old)
            return
        self._end_oldest()
        # a command takes none
        await old.leave(hands_over=not after.pool.command)
        self._start_task(keep_up(lambda: self._keep(old, after.server)))

    def let_go(self, previous: Generation | None = None) -> None:
        """Make ``previous`` the generation that a rollback goes back to, None for none."""
        gone, self.previous = self.previous, previous
        if gone is not None:
            gone.note_change()

    async def drop(self, change: Change) -> None:
        """Give up what was prepared."""
        if change.new.is_claimed:
            change.new.release()
        if change.new.state is GenerationState.STARTING:
            with contextlib.suppress(AppLoadError):
                await change.new.give_up()
            self._forget(change.new)
        elif change.new.state is GenerationState.ASLEEP and change.new is not self.current:
            self._forget(change.new)

    async def _keep(self, old: Generation, server: ServerSettings) -> None:
        """Retire it once it has been on standby for long enough, unless it serves again."""
        seconds = max(server.keep_previous_seconds, server.watch.for_seconds if server.watch else 0)
        await old.until(
            lambda: old.state is not GenerationState.STANDBY or old is not self.previous, seconds
        )
        await old.until(lambda: not old.is_claimed, None)
        if old.state in (GenerationState.STANDBY, GenerationState.RETIRING):
            await old.retire()
        elif old.state is GenerationState.STOPPING:
            await old.until(lambda: not old.processes, None)
        else:
            return  # it serves again
        self._forget(old)

    def _forget(self, generation: Generation) -> None:
        """It has ended; safe to call twice."""
        with contextlib.suppress(ValueError):
            self.generations.remove(generation)

    def _end_oldest(self) -> None:
        retiring = [
            g
            for g in self.generations
            if g.state in (GenerationState.STANDBY, GenerationState.RETIRING)
        ]
        for oldest in retiring[: max(0, len(retiring) + 1 - MAX_RETIRING)]:
            drain_seconds = oldest.config.server.limits.drain_timeout_seconds
            self._start_task(oldest.stop(drain_seconds))

    # --- ending -------------------------------------------------------------------------------

    async def stop(self, drain_seconds: float) -> None:
        """End all generations; their requests in flight have so many seconds."""
        self._enter(PoolState.CLOSED)
        self._alarm.clear()
        self._fallback.close()
        await asyncio.gather(*(generation.stop(drain_seconds) for generation in self.generations))

    def close(self) -> None:
        """Close its sockets and release its environments, after ``stop``."""
        for opened in (self.listener, *self._handover):
            opened.close()
        for environment in self._environments:
            environment.let_go()

    def kill(self) -> None:
        """End all workers at once."""
        for generation in self.generations:
            generation.kill()
