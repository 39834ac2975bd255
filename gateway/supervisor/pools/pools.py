"""All pools of a table. A reload changes each pool that has to change, and all of them or none.

Owns the pools and their sockets. Knows neither the table's text nor what asked for a change.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

from gateway.config.compare.plan import is_same
from gateway.config.compare.slices import cut, redirect
from gateway.config.model import MAIN, Config
from gateway.environments.client import collect
from gateway.errors import AppLoadError
from gateway.file_tasks import UnreachableError
from gateway.logs import choose_style, lifecycle
from gateway.supervisor.generations.failures import describe_failure
from gateway.supervisor.generations.generation import Generation
from gateway.supervisor.generations.reports import take_report
from gateway.supervisor.listeners.sockets import Pair, open_pool_listener
from gateway.supervisor.pools.edited import find_stale
from gateway.supervisor.pools.endpoints import Endpoints
from gateway.supervisor.pools.memory_kills import MemoryKills
from gateway.supervisor.pools.pool import Change, Means, Pool, find_environments
from gateway.supervisor.pools.quarantine import Quarantines
from gateway.supervisor.processes.command import CommandProcess
from gateway.supervisor.processes.groups import Groups
from gateway.supervisor.processes.launch import find_ids, select_variables
from gateway.supervisor.processes.process import Process, Purpose, Report
from gateway.supervisor.processes.start_gate import StartGate
from gateway.supervisor.processes.worker import WorkerProcess
from gateway.supervisor.tasks import guard, guarded, keep_up

# between two looks at what is in flight
SAMPLE_SECONDS = 0.5
UNCHANGED = "nothing has changed"
# of sleeping pools that are tried at a time, each in one worker
MAX_TRIED = 2


@dataclass(frozen=True, slots=True)
class TableChange:
    """What a reload changes: the tables ``before`` and ``after``, and the ``changes`` by pool."""

    before: Config
    after: Config
    changes: dict[str, Change] = field(default_factory=dict)

    def describe(self) -> str:
        """How the change is made, as text for a person."""
        if not self.changes:
            return UNCHANGED
        parts = [
            _describe(means, [name for name, own in self.changes.items() if own.means is means])
            for means in (Means.NEW, Means.STANDBY, Means.ASLEEP)
        ]
        return "; ".join(filter(None, parts)) or Means.IN_PLACE.value


def _describe(means: Means, names: list[str]) -> str:
    if not names:
        return ""
    if means is Means.ASLEEP:
        return f"{means.value}: {', '.join(names)}"
    return means.value if MAIN in names else f"{means.value} of {', '.join(names)}"


class Pools:
    """``config`` is the table that is served. The pools' sockets are made in ``folder``.

    ``start_task`` runs work in the background. ``style`` is the style of the workers' log, "" for
    that of the table.
    """

    def __init__(
        self,
        listener: socket.socket,
        folder: Path,
        start_task: Callable[[Coroutine[Any, Any, Any]], None],
        style: str = "",
    ) -> None:
        numbers = count(1)
        self._next_number = lambda: next(numbers)
        self._own_sockets = count(1)
        self._try_outs = asyncio.Semaphore(MAX_TRIED)
        self._folder = folder
        self._style = style
        self._start_task = start_task
        self._gate = StartGate()
        self._pools: dict[str, Pool] = {}
        self._endpoints = Endpoints(self._pools, MAIN, start_task)
        self._pools[MAIN] = self._open(listener)
        self._closing: list[Pool] = []
        self.quarantines = Quarantines(self._publish_quarantines)
        self._memory_kills = MemoryKills()
        self.groups = Groups()
        self.is_stopping = False

    def note_stopping(self) -> None:
        """The gateway is stopping: prepare no change, and hold no mount responsible for an exit."""
        self.is_stopping = True

    @property
    def main(self) -> Pool:
        return self._pools[MAIN]

    @property
    def generations(self) -> list[Generation]:
        """All generations that have not ended, of all pools."""
        pools = [*self._pools.values(), *self._closing]
        return [generation for pool in pools for generation in pool.generations]

    @property
    def current(self) -> dict[str, str]:
        """The ids of the generations that serve, by pool."""
        return {name: pool.current.id for name, pool in self._pools.items() if pool.current}

    def find_current(self, name: str) -> Generation | None:
        """The current generation of a pool, None if it has none."""
        pool = self._pools.get(name)
        return pool.current if pool else None

    @property
    def failed(self) -> dict[str, Report]:
        """The reports of mounts that did not load, or whose pool has no worker, by name."""
        pools = self._pools.values()
        return {name: report for pool in pools for name, report in pool.failed.items()}

    def describe_unwell(self) -> list[str]:
        """Place and reason of each mount that fails and does not make a reload fail: its probe
        fails and it serves, or its pool has never had a worker."""
        effects = {"is_loaded": "; it serves", "is_alone": "; it answers 503"}
        return [
            describe_failure(self.config, report, effect)
            for report in self.failed.values()
            for key, effect in effects.items()
            if report.get(key)
        ]

    @property
    def is_whole(self) -> bool:
        """Each mount has a pool that has come up."""
        return not any(report.get("is_alone") for report in self.failed.values())

    def serve(self, config: Config) -> None:
        """Start all pools for the first time."""
        self.config = config
        self._start_task(keep_up(self._watch))
        for name, own in self._cut(config).items():
            self._start_task(keep_up(partial(self._find(name).serve, own)))

    def _cut(self, config: Config) -> dict[str, Config]:
        find_socket = lambda name: str(self._find_socket(name))  # noqa: E731
        return cut(config, find_socket, self._endpoints.find_addresses)

    def _find_socket(self, name: str) -> Path:
        # a mount's own pool has the mount's name, and a socket's path has to be short (unix(7))
        return self._folder / f"{sha256(name.encode()).hexdigest()[:12]}.sock"

    def _find(self, name: str) -> Pool:
        if name not in self._pools:
            listener = self._listen(self._find_socket(name))
            self._pools[name] = self._open(listener)
        return self._pools[name]

    def _listen(self, place: Path) -> socket.socket:
        user, _ = find_ids(self.config.server.user, self.config.server.group)
        return open_pool_listener(place, user)

    def _open(self, listener: socket.socket) -> Pool:
        endpoints, start_task = self._endpoints, self._start_task
        shared = (endpoints.note_change, self._try_outs, self._gate)
        return Pool(listener, self._start, self._next_number, start_task, *shared)

    def _start(
        self, listener: socket.socket, pair: Pair, generation: Generation, purpose: Purpose
    ) -> Process:
        """Start a process of a generation: a worker on its pool's socket, or the pool's command.
        Raises OSError and ConfigError."""
        config, environment = generation.config, generation.environment
        take = partial(self._take_report, generation)
        if config.pool.command:
            shared = (self._endpoints.is_asked, self.groups, take)
            is_retry = bool(generation.failures)
            return CommandProcess(config, self._folder, environment, *shared, is_retry=is_retry)
        style = self._style or choose_style(config.server.access_log)
        if config.pool.sticky == "off":
            return WorkerProcess(
                config, style, generation.id, environment, take, purpose, listener, pair
            )
        # a worker of a sticky pool has a socket of its own, for clients that come back to it
        place = self._folder / f"worker-{next(self._own_sockets)}.sock"
        with self._listen(place) as own:
            return WorkerProcess(
                config, style, generation.id, environment, take, purpose, own, pair, place
            )

    # --- watching -----------------------------------------------------------------------------

    async def _watch(self) -> None:
        looks = [
            guard(self._memory_kills.look),
            guard(lambda: self.quarantines.look(self.generations)),
        ]
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            for look in looks:
                look()

    def note_exit(self, generation: Generation, process: Process, wait_status: int) -> None:
        """A process of a generation was reaped, with ``wait_status`` as of waitpid."""
        is_out_of_memory = False
        with guarded("whether memory has run out"):
            is_out_of_memory = self._memory_kills.is_recent()
        process.note_exit(wait_status, is_out_of_memory=is_out_of_memory)
        if not self.is_stopping:
            with guarded(f"whose request has ended worker {process.pid}"):
                self.quarantines.note_death(generation, process)

    def _take_report(self, generation: Generation, process: Process, report: Report) -> None:
        if report["event"] == "loaded" and generation.config.pool.name == MAIN:
            process.quarantine(self.quarantines.ends)  # before it accepts
        take_report(generation, process, report)

    def _publish_quarantines(self, ends: dict[str, float]) -> None:
        """Send the quarantines to all front workers, those on standby included: they answer for the
        mounts of all pools."""
        for generation in self.main.generations:
            for process in generation.processes.values():
                process.quarantine(ends)

    # --- changing -----------------------------------------------------------------------------

    async def find_stale(self, paths: list[Path]) -> set[str]:
        """The names of the pools that an edit of ``paths`` affects."""
        return await find_stale(self._pools, paths)

    async def prepare(self, config: Config, *, anew: Callable[[str], bool]) -> TableChange:
        """Make ready to serve ``config``, with new workers in each pool for whose name ``anew`` is
        true. Raises AppLoadError; then nothing has changed."""
        if self.is_stopping:
            raise AppLoadError("the gateway is stopping")
        wanted = self._cut(config)
        return await self._prepare(
            config,
            {
                name: self._prepare_one(name, own, anew=anew(name))
                for name, own in wanted.items()
                if anew(name) or not self._serves(name, own)
            },
        )

    async def _prepare_one(self, name: str, config: Config, *, anew: bool) -> Change:
        """Raises AppLoadError, and ConfigError if a new pool's socket cannot be opened."""
        return await self._find(name).prepare(config, anew=anew)

    async def try_out(self, config: Config) -> None:
        """Load everything as a start would, serve nothing, and end all workers. Raises AppLoadError
        with what did not load, that of the front first. For ``gateway check``."""
        self.config = config

        async def try_pool(name: str, own: Config) -> None:
            pool = self._find(name)
            await pool.drop(await pool.prepare(own, anew=True))

        wanted = sorted(self._cut(config).items(), key=lambda each: each[0] != MAIN)
        results = await asyncio.gather(
            *(try_pool(*each) for each in wanted), return_exceptions=True
        )
        failures = [result for result in results if result is not None]
        strange = [f for f in failures if not isinstance(f, AppLoadError)]
        if failures:
            raise strange[0] if strange else AppLoadError("\n".join(map(str, failures)))

    def _serves(self, name: str, config: Config) -> bool:
        served = self._pools[name].config if name in self._pools else None
        return served is not None and is_same(served, config)

    def adopt(self, config: Config) -> None:
        """Take over a table that differs from the one that is served only in its lines: places in
        messages are those of the new one."""
        self.config = config
        for name, own in self._cut(config).items():
            if (generation := self.find_current(name)) is not None:
                generation.adopt(own)

    async def prepare_undo(self, undone: TableChange) -> TableChange:
        """Make ready to serve what was served before ``undone``. Raises AppLoadError."""
        wanted = self._cut(undone.before)
        work = {}
        for name, own in wanted.items():
            if name in undone.changes and undone.changes[name].old:
                work[name] = self._find(name).prepare_undo(undone.changes[name])
            elif not self._serves(name, own):
                work[name] = self._prepare_one(name, own, anew=False)
        return await self._prepare(undone.before, work)

    async def _prepare(
        self, config: Config, work: dict[str, Coroutine[Any, Any, Change]]
    ) -> TableChange:
        results = await asyncio.gather(*work.values(), return_exceptions=True)
        done = {n: r for n, r in zip(work, results, strict=True) if isinstance(r, Change)}
        change = TableChange(self.config, config, done)
        failures = []
        for name, result in zip(work, results, strict=True):
            if isinstance(result, AppLoadError) and self._pools[name].has_never_answered:
                # it failed before, too: that must not keep a reload from the other pools
                self._pools[name].note_refusal(str(result))
                lifecycle.error("%s; its mounts keep answering 503", result)
            elif isinstance(result, BaseException):
                failures.append(result)
        if failures:
            await self.drop(change)
            strange = [f for f in failures if not isinstance(f, AppLoadError)]
            raise strange[0] if strange else AppLoadError("\n".join(map(str, failures)))
        return change

    async def commit(self, change: TableChange) -> None:
        """Serve what was prepared. Raises AppLoadError; then nothing has changed."""
        begun: list[str] = []
        try:
            # the front workers last: what they forward to has to be there
            for name in sorted(change.changes, key=lambda name: name == MAIN):
                own = change.changes[name]
                if name == MAIN:
                    await self._endpoints.publish()
                    own = replace(own, after=redirect(own.after, self._endpoints.find_addresses))
                begun.append(name)
                await self._pools[name].commit(own)
        except Exception:
            await self._take_back(change, begun)
            raise
        self.config = change.after
        # from here on it is served, and a fault in what follows changes nothing of that
        with guarded("the tables of refused pools"):
            self._update_refused()
        if not change.changes:
            return  # a rollback goes back to the same as before
        with guarded("what was served before"):
            self._let_go(change)
        with guarded("the endpoints of front workers"):
            await self._endpoints.publish()
        with guarded("the pages that reload themselves"):
            self._note_reload(change)
        with guarded("the pools that the table does not have any more"):
            self._end_unused(self._cut(change.after))
        self._start_task(self._collect())

    async def _take_back(self, change: TableChange, begun: list[str]) -> None:
        """Undo ``change`` in the pools of which it was ``begun``."""
        for name in begun:
            pool, own = self._pools[name], change.changes[name]
            if own.means is Means.IN_PLACE or pool.current is own.new:
                what = f"taking back the change of pool {name}"
                with guarded(what), contextlib.suppress(AppLoadError):
                    await pool.commit(await pool.prepare_undo(own))
        await self.drop(change)

    def _let_go(self, change: TableChange) -> None:
        for name, pool in self._pools.items():
            renewed = change.changes.get(name)
            if renewed is None or renewed.means is Means.IN_PLACE:
                pool.let_go()
            else:
                self.quarantines.forget(name)

    def _update_refused(self) -> None:
        """Have pools that were refused retry with what the table says now."""
        for name, own in self._cut(self.config).items():
            self._pools[name].note_refused(own)

    def _note_reload(self, change: TableChange) -> None:
        """Have pages reload themselves (``--live``); new front workers have that effect without an
        order."""
        if not change.after.is_live:
            return
        own, serving = change.changes.get(MAIN), self.main.current
        if serving is not None and (own is None or own.old is own.new):
            for process in serving.workers:
                process.order("reloaded")

    async def _collect(self) -> None:
        """Remove environments that no pool uses any more."""
        for pool in [*self._pools.values(), *self._closing]:
            pool.let_environments_go()
        with_variables = {"env": select_variables(())}
        try:
            removed = await collect(find_environments(self.config), with_variables)
        except UnreachableError as error:
            lifecycle.warning("unused environments are not removed: %s", error)
            return
        for name in removed:
            lifecycle.info("the environment %s is not used any more: removed", name)

    async def drop(self, change: TableChange) -> None:
        """Give up what was prepared."""
        for name, own in change.changes.items():
            with guarded(f"giving up the change of pool {name}"):
                await self._pools[name].drop(own)
        self._end_unused(self._cut(self.config))

    def _end_unused(self, used: Iterable[str]) -> None:
        """Close the pools that are not ``used`` any more."""
        for name in [name for name in self._pools if name not in used]:
            pool = self._pools.pop(name)
            self._closing.append(pool)
            self._start_task(self._close(pool))

    async def _close(self, pool: Pool) -> None:
        await _stop(pool, self.config.server.limits.drain_timeout_seconds)
        self._closing.remove(pool)
        pool.close()

    # --- ending -------------------------------------------------------------------------------

    async def stop(self, drain_seconds: float) -> None:
        """Let requests in flight finish and end all workers, first those of the front, which
        forward to the others. Together they have ``drain_seconds``."""
        others = [pool for name, pool in self._pools.items() if name != MAIN] + self._closing
        ends = time.monotonic() + drain_seconds
        await _stop(self.main, drain_seconds)
        left = max(0.0, ends - time.monotonic())
        await asyncio.gather(*(_stop(pool, left) for pool in others))
        with guarded("the processes that commands have started"):
            self.groups.close()

    def close(self) -> None:
        """Close all pools, after ``stop``."""
        for pool in self._pools.values():
            pool.close()

    def kill(self) -> None:
        """End all workers at once."""
        for generation in self.generations:
            generation.kill()


async def _stop(pool: Pool, drain_seconds: float) -> None:
    """A fault in one pool leaves the others stopping; its workers end with this process."""
    with guarded("the stop of a pool"):
        await pool.stop(drain_seconds)
