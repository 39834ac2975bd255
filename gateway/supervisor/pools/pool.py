"""A pool: the generations of one set of workers, of which one serves.

Owns which generation serves, which is kept for a rollback, and when the others end. Knows neither
the table's text nor what asked for a change.
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
from gateway.config.model import Config, Server
from gateway.environments.cache import Environment
from gateway.environments.client import HeldEnvironment, find_or_build
from gateway.errors import AppLoadError, BuildError
from gateway.logs import builds, lifecycle
from gateway.supervisor.backoff import double
from gateway.supervisor.generations import inplace
from gateway.supervisor.generations.exits import replace
from gateway.supervisor.generations.failures import describe_pool
from gateway.supervisor.generations.generation import Generation, State
from gateway.supervisor.generations.patrol import patrol
from gateway.supervisor.generations.start_failures import StartFailures
from gateway.supervisor.listeners.sockets import Pair, open_handover
from gateway.supervisor.pools.fallback import Doorman
from gateway.supervisor.pools.sleep import Alarm, fall_asleep, has_clients
from gateway.supervisor.pools.succession import hand_on
from gateway.supervisor.processes.launch import build_installation
from gateway.supervisor.processes.process import Process, Purpose, Report
from gateway.supervisor.processes.start_gate import StartGate
from gateway.supervisor.tasks import guarded, keep_up

# Workers that are kept, or have requests in flight, keep their memory: many quick edits must not
# fill the machine. The oldest end sooner, as in a stop.
MOST_RETIRING = 3
# of a pool's current generation: it sleeps, or is about to
AT_REST = (State.ASLEEP, State.STOPPING)
# an environment that could not be built is tried again after 5 s, 10 s … up to this
FIRST_RETRY_SECONDS = 5.0
MOST_RETRY_SECONDS = 60.0
NO_ENVIRONMENT = "The environment of the app mounted here could not be built."


def find_environments(config: Config) -> Path:
    """The directory of ``server.environments``, which is relative to the table's."""
    return Path(config.source).absolute().parent / config.server.environments


class Means(Enum):
    """What serves a change: the same workers, new ones, those that were kept for a rollback, or
    none until somebody asks for them."""

    IN_PLACE = "in place"
    NEW = "new workers"
    KEPT = "kept workers"
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
    """``start`` starts a process of a generation; ``start_task`` runs what ends one in the
    background; ``name_generation`` gives ids. ``on_change`` is called where one may answer
    elsewhere now, or no more. ``trials`` bounds how many sleeping pools are tried at a time, and
    workers wait for ``gate`` to let them start.

    ``current`` serves; ``generations`` are all that have not ended, and ``previous`` is what a
    rollback can go back to. ``refused`` is what could not even be begun, so that all mounts have
    answered 503 since; ``refusal`` is why.
    """

    def __init__(
        self,
        listener: socket.socket,
        start: Callable[[socket.socket, Pair, Generation, Purpose], Process],
        name_generation: Callable[[], int],
        start_task: Callable[[Any], None],
        on_change: Callable[[], None],
        trials: asyncio.Semaphore,
        gate: StartGate,
    ) -> None:
        self.listener = listener
        self._gate = gate
        # by which its workers hand connections over: what is on its way outlives them
        self._handover = open_handover()
        self._start = partial(start, listener, self._handover)
        self._name_generation = name_generation
        self._start_task = start_task
        self._on_change = on_change
        self._trials = trials
        self.generations: list[Generation] = []
        self.current: Generation | None = None
        self.previous: Generation | None = None
        self.refused: Config | None = None
        self.refusal = ""
        self._retry_at = 0.0
        self._doorman = Doorman(listener)
        # a connection that was handed over waits for a worker, too
        self._alarm = Alarm((listener, self._handover[1]), self._wake)
        self._is_closed = False
        self._environments: list[HeldEnvironment] = []

    def let_environments_go(self) -> None:
        """Those that no generation uses any more may be collected."""
        having = [*self.generations, *([self.previous] if self.previous else [])]
        used = {id(generation.environment) for generation in having}
        for environment in self._environments:
            if id(environment) not in used:
                environment.let_go()
        self._environments = [each for each in self._environments if id(each) in used]

    @property
    def config(self) -> Config | None:
        """What it serves, or cannot serve; None before it is asked to."""
        return self.current.config if self.current else self.refused

    @property
    def next_start(self) -> float:
        """When the last of its workers to fail is started again, as a monotonic moment."""
        return self.current.backoff.until if self.current else self._retry_at

    @property
    def failed(self) -> dict[str, Report]:
        """What those mounts report that did not load, or for which no worker is there, by name."""
        if self.current is not None:
            return self.current.find_failed()
        # what failed, and why, which the output of a build has at its end
        error, *more = self.refusal.split("\n")
        if more:
            error = f"{error}; {more.pop().strip().rstrip('.')}"
        report = {"error": error, "traceback": "\n".join(more), "is_alone": True}
        mounts = self.refused.mounts if self.refused else ()
        return {mount.name: {"mount": mount.name, **report} for mount in mounts}

    @property
    def has_never_answered(self) -> bool:
        """Whether nothing becomes worse where it does not start."""
        if self.current is None:
            return self.refused is not None
        return bool(self.current.config.pool.command) and not self.current.was_ready

    async def serve(self, config: Config) -> None:
        """Start for the first time: a mount that does not load answers 503, and others serve. Where
        the environment cannot be built all answer it, and it is tried again until it can."""
        tries, took, failures = 0, 0.0, StartFailures()
        while self.current is None and not self._is_closed:  # else a reload was faster
            began = time.monotonic()
            if tries:
                self._doorman.open(NO_ENVIRONMENT, took)
            try:
                environment = await self._find_environment(config, is_news=not tries)
            except AppLoadError as error:
                self._refuse(config, error, is_news=failures.note(str(error)))
            else:
                if self._may_begin(config):
                    self._begin(config, environment)
                    return
            took = time.monotonic() - began
            pause = max(took, double(FIRST_RETRY_SECONDS, tries, MOST_RETRY_SECONDS))
            tries += 1
            if self.current is None:
                self._doorman.open(NO_ENVIRONMENT, pause)
                self._retry_at = time.monotonic() + pause
                self._on_change()
            await asyncio.sleep(pause)
            config = self.refused or config  # as the table says it now

    def _may_begin(self, config: Config) -> bool:
        is_wanted = self.refused is None or self.refused == config
        return is_wanted and self.current is None and not self._is_closed

    def _refuse(self, config: Config, error: AppLoadError, *, is_news: bool) -> None:
        if self.current is None:
            self.refused, self.refusal = self.refused or config, str(error)
        if is_news:
            lifecycle.error("%s; its mounts answer 503 until a retry succeeds", error)

    def _begin(self, config: Config, environment: Environment | None) -> None:
        """Serve by workers that accept as soon as each has loaded what it can."""
        generation = self._build(config, environment, None)
        generation.serve()
        for _ in range(generation.size):
            self._start_task(keep_up(lambda: replace(generation, 0)))
        self._lead(generation)

    def _lead(self, generation: Generation) -> None:
        """From now on it is this one that serves."""
        self._alarm.clear()
        self.current = generation
        if generation not in self.generations:
            self.generations.append(generation)  # it was asleep
        self._follow(generation)
        self._start_task(keep_up(lambda: self._rest(generation)))

    async def _rest(self, generation: Generation) -> None:
        """Have it sleep once nobody asks for it."""
        if await fall_asleep(generation):
            lifecycle.info("pool %s: asleep until it is asked for", generation.config.pool.name)
            await keep_up(lambda: self._fall_asleep(generation))

    async def _fall_asleep(self, generation: Generation) -> None:
        await generation.sleep(generation.config.server.limits.drain_timeout_seconds)
        if generation is not self.current:
            self._forget(generation)
        elif not self._is_closed:
            self._alarm.set()

    def _wake(self) -> None:
        asleep = self.current
        if asleep is not None and asleep.state is State.ASLEEP and not self._is_closed:
            lifecycle.info("pool %s: awake", asleep.config.pool.name)
            self._forget(asleep)
            # in the environment that it had: what the file asks for now, a reload has to try
            self._begin(asleep.config, asleep.environment)

    def _build(
        self, config: Config, environment: Environment | None, may_fail: frozenset[str] | None
    ) -> Generation:
        is_front = not config.server.is_behind_front  # for which clients may always wait
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
        with guarded(f"who answers instead of generation {generation.id}"):
            self._mind_door(generation)
        with guarded(f"which workers are active, with generation {generation.id}"):
            hand_on(self.current, self.generations)

    def _mind_door(self, generation: Generation) -> None:
        """Have requests answered while nobody else can: from when its workers do not come back at
        once, until one serves where none could be had. Until then they wait in the kernel."""
        if generation is not self.current:
            return
        if generation.is_gone:
            cause = "The workers that answer here have ended; new ones are starting."
            self._doorman.open(cause, generation.backoff.seconds)
        elif not generation.trouble or generation.state is not State.SERVING:
            self._doorman.close()

    async def _find_environment(
        self, config: Config, *, is_news: bool = True
    ) -> Environment | None:
        """Where its Python is another than the gateway's own. Raises AppLoadError. ``is_news``:
        whether its progress is to be logged."""
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
        """Make ready to serve ``config``: in place where nothing is to be imported, or ``anew``, by
        workers that load everything. Raises AppLoadError; then nothing has changed.

        A mount that answers 503 already may go on doing so, any other has to load.
        """
        old = self.current
        if old and not anew and not old.failed and not find_reasons(old.config, config):
            await inplace.prepare(old, config)
            return Change(old, old.config, old, config, Means.IN_PLACE)
        environment = await self._find_environment(config)
        if self._is_closed:
            raise AppLoadError("the gateway is stopping")  # nobody would end what is started now
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
        """See whether it loads, in a worker that ends again, and have it sleep."""
        if generation.config.server.try_asleep:
            async with self._trials:
                generation.size = 1
                await generation.load()
                await generation.stop(0)
        generation.size = generation.config.server.workers
        generation.state = State.ASLEEP

    async def prepare_undo(self, change: Change) -> Change:
        """Make ready to serve what was served before ``change``: at once where that is kept, or
        where it sleeps, or the pool does now."""
        old, now = change.old, self.current
        if old is None or now is None or old is change.new:
            return await self.prepare(change.before, anew=old is not change.new)
        if old.state is State.KEPT and old.is_whole:
            old.is_claimed = True
            return Change(now, now.config, old, change.before, Means.KEPT)
        if old.state is State.ASLEEP:
            return Change(now, now.config, old, change.before, Means.ASLEEP)
        if now.state in AT_REST:
            # it has served already, so that there is nothing to be tried
            old = self._build(change.before, old.environment, frozenset(old.failed))
            old.state = State.ASLEEP
            return Change(now, now.config, old, change.before, Means.ASLEEP)
        return await self.prepare(change.before, anew=True)

    async def commit(self, change: Change) -> None:
        """Serve what was prepared. Raises AppLoadError where its workers end at the last moment;
        then nothing has changed."""
        if change.means is Means.IN_PLACE:
            # somebody may have woken it meanwhile
            await inplace.apply(self.current or change.new, change.after)
            return
        if change.means is not Means.ASLEEP:
            try:
                await change.new.accept()
            except BaseException:
                self._forget(change.new)
                raise
        left = self.current  # another one than before the reload where somebody has woken it
        self._lead(change.new)
        if left is not None:
            await self._leave(left, change.after)
        if change.new is self.current and change.new.state is State.ASLEEP and not self._is_closed:
            self._alarm.set()

    async def _leave(self, old: Generation, after: Config) -> None:
        """Another one serves: keep it, for as long as a rollback may want it."""
        self.let_go(old)
        if old.state is State.ASLEEP:
            self._forget(old)
            return
        self._end_oldest()
        # a server of another make takes none
        await old.leave(hands_over=not after.pool.command)
        self._start_task(keep_up(lambda: self._keep(old, after.server)))

    def let_go(self, previous: Generation | None = None) -> None:
        """No rollback goes back any more to what it went back to until now."""
        gone, self.previous = self.previous, previous
        if gone is not None:
            gone.note_change()

    async def drop(self, change: Change) -> None:
        """Leave what was prepared."""
        if change.new.is_claimed:
            change.new.is_claimed = False
            change.new.note_change()
        if change.new.state is State.STARTING:
            with contextlib.suppress(AppLoadError):
                await change.new.give_up()
            self._forget(change.new)
        elif change.new.state is State.ASLEEP and change.new is not self.current:
            self._forget(change.new)

    async def _keep(self, old: Generation, server: Server) -> None:
        """Keep it loaded for a while, and retire it then, unless it serves again."""
        seconds = max(server.keep_previous_seconds, server.watch.for_seconds if server.watch else 0)
        await old.until(lambda: old.state is not State.KEPT or old is not self.previous, seconds)
        await old.until(lambda: not old.is_claimed, None)
        if old.state in (State.KEPT, State.RETIRING):
            await old.retire()
        elif old.state is State.STOPPING:
            await old.until(lambda: not old.children, None)
        else:
            return  # it serves again
        self._forget(old)

    def _forget(self, generation: Generation) -> None:
        """It has ended; more than one may come to say so."""
        with contextlib.suppress(ValueError):
            self.generations.remove(generation)

    def _end_oldest(self) -> None:
        retiring = [g for g in self.generations if g.state in (State.KEPT, State.RETIRING)]
        for oldest in retiring[: max(0, len(retiring) + 1 - MOST_RETIRING)]:
            drain_seconds = oldest.config.server.limits.drain_timeout_seconds
            self._start_task(oldest.stop(drain_seconds))

    # --- ending -------------------------------------------------------------------------------

    async def stop(self, drain_seconds: float) -> None:
        """End all generations."""
        self._is_closed = True
        self._alarm.clear()
        self._doorman.close()
        await asyncio.gather(*(generation.stop(drain_seconds) for generation in self.generations))

    def close(self) -> None:
        """Close its sockets, once all have ended."""
        for opened in (self.listener, *self._handover):
            opened.close()
        for environment in self._environments:
            environment.let_go()

    def kill(self) -> None:
        """End all workers at once."""
        for generation in self.generations:
            generation.kill()
