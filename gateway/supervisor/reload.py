"""A reload: read the table, make ready to serve it, and serve it, or change nothing.

Owns the order of these steps and the report of their outcome. Knows neither what asked for it nor
how workers are started.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from gateway.config.compare.named import find_pools, take_over
from gateway.config.compare.plan import IN_PLACE, is_same
from gateway.config.model import Config, ServerSettings
from gateway.errors import AppLoadError, ConfigError, GatewayError
from gateway.limits import fields_marked
from gateway.logs import lifecycle
from gateway.supervisor.pools.canary import Canary
from gateway.supervisor.pools.pools import UNCHANGED, Pools, TableChange
from gateway.supervisor.processes.launch import check_users
from gateway.supervisor.tasks import guarded, keep_up, start

ReadTable = Callable[[], Awaitable[Config]]
EDIT = "edit"
WATCH = "watch"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a reload ended. ``exit_code`` is the command's: 0 done, 2 the table is invalid, 3 an app
    did not load, 1 anything else. ``how`` is "in place", "new workers …" or the like, "" for one
    that failed. 3 with a ``how``: the table is served, but for mounts whose pool has never come up.

    ``seconds`` counts from the save of the file, or from the command, until it was served;
    ``finished`` is Unix time. ``generation`` is the front's that serves now.
    """

    trigger: str
    exit_code: int
    how: str
    generation: str
    messages: tuple[str, ...]
    seconds: float
    finished: float

    def describe(self) -> dict[str, Any]:
        """The outcome for the control socket and ``gateway status``."""
        return asdict(self)


class Reloader:
    """Runs reloads of ``pools`` one after another. ``read`` reads the table; ``read_saved`` does so
    too, and the save still counts as new."""

    def __init__(self, pools: Pools, read: ReadTable, read_saved: ReadTable) -> None:
        self._pools = pools
        self._read = read
        self._read_saved = read_saved
        self._running = asyncio.Lock()
        self._waiting: asyncio.Task[Outcome] | None = None
        self._trigger = ""
        self._stale: set[str] = set()
        self._is_all_stale = False
        self._change: TableChange | None = None
        self._canary: asyncio.Task[None] | None = None
        self.last: Outcome | None = None

    async def reload(
        self, trigger: str, since: float | None = None, stale: set[str] | None = None
    ) -> Outcome:
        """Serve what the file says now. ``since`` is the Unix time of its save. ``stale`` names the
        pools whose code has changed, None if that is not known.

        During a reload this waits for its end; one further reload is the answer for all callers
        that wait.
        """
        self._stale |= stale or set()
        self._is_all_stale |= stale is None and trigger != EDIT
        if self._waiting is None:
            since = time.time() if since is None else since
            self._trigger = trigger
            self._waiting = start(self._run_next(since))
        elif trigger != EDIT:
            self._trigger = trigger  # unlike an edit of the table it loads code again
        return await asyncio.shield(self._waiting)

    async def renew(self, trigger: str, names: list[str]) -> Outcome:
        """Replace the workers of the pools that ``names`` gives by mounts or pools; all others stay
        as they are. A rollback undoes it like any other change."""
        messages: list[str] = []
        async with self._running:
            prepare = partial(self._prepare_named, names, messages)
            return await self._run(trigger, time.time(), prepare, messages)

    async def _prepare_named(self, names: list[str], messages: list[str]) -> TableChange:
        running = self._pools.config
        pools = find_pools(running, names)
        saved = await self._read_saved()
        check_fixed(running, saved)
        check_users(saved)
        config = take_over(running, saved, pools)
        change = await self._pools.prepare(config, anew=pools.__contains__)
        if not is_same(config, saved):
            messages.append("the saved table has more changes: `gateway reload` serves them")
        return change

    async def rollback(self, trigger: str, why: str = "") -> Outcome:
        """Serve what was served before the last reload; a second one undoes the first."""
        async with self._running:
            messages = [why] if why else []
            return await self._run(trigger, time.time(), self._prepare_undo, messages)

    async def _run_next(self, since: float) -> Outcome:
        async with self._running:
            self._waiting = None  # a later call may have seen a newer file
            trigger = self._trigger
            stale, is_all_stale = self._stale, self._is_all_stale
            self._stale, self._is_all_stale = set(), False
            outcome = await self._run(
                trigger,
                since,
                lambda: self._prepare(trigger, stale, is_all_stale=is_all_stale),
                [],
            )
            if outcome.exit_code:  # this code still has to be loaded again
                self._stale |= stale
            return outcome

    async def _prepare(
        self, trigger: str, stale: set[str], *, is_all_stale: bool
    ) -> TableChange | None:
        """Make ready what the file says; None for an edit that changes nothing."""
        config = await self._read()
        running = self._pools.config
        check_fixed(running, config)
        check_users(config)
        if trigger == EDIT and not stale and is_same(config, running):
            self._pools.adopt(config)
            return None
        lifecycle.info("reload (%s): the table is valid", trigger)
        return await self._pools.prepare(config, anew=lambda name: is_all_stale or name in stale)

    async def _prepare_undo(self) -> TableChange:
        if self._change is None:
            raise GatewayError("there was no reload that could be undone")
        return await self._pools.prepare_undo(self._change)

    async def _run(
        self,
        trigger: str,
        since: float,
        prepare: Callable[[], Awaitable[TableChange | None]],
        messages: list[str],
    ) -> Outcome:
        """Prepare, commit, and report. ``messages`` is the report of a reload that succeeds, to
        which ``prepare`` may add."""
        exit_code, how = 0, ""
        try:
            change = await prepare()
            how = UNCHANGED if change is None else change.describe()
            if change is not None:
                await self._pools.commit(change)
                if change.changes:  # else there is nothing that a rollback could undo
                    self._change = change
                    self._begin_canary(change, is_undo=prepare == self._prepare_undo)
            with guarded("the messages about mounts that do not serve"):
                messages += self._pools.describe_unwell()
        except ConfigError as error:
            exit_code, messages = 2, error.problems
        except AppLoadError as error:
            exit_code, messages = 3, str(error).split("\n")
        except GatewayError as error:
            exit_code, messages = 1, [str(error)]
        except Exception as error:  # noqa: BLE001  nothing that a reload meets may end the gateway
            lifecycle.exception("reload (%s): a fault of the gateway's own", trigger)
            exit_code, messages = 1, [f"a fault of the gateway's own: {error!r}"]
        if exit_code:
            how = ""
        elif not self._pools.is_whole:
            exit_code = 3
        now = time.time()
        main = self._pools.main.current
        current = main.id if main else ""
        self.last = Outcome(trigger, exit_code, how, current, tuple(messages), now - since, now)
        log_outcome(self.last)
        return self.last

    def _begin_canary(self, change: TableChange, *, is_undo: bool) -> None:
        """Count the errors of new workers, unless this was a rollback."""
        if self._canary is not None:
            self._canary.cancel()
            self._canary = None
        watch = change.after.server.watch
        if watch is not None and not is_undo:
            canary = Canary(change.changes, watch, self._pools.find_current)
            self._canary = start(self._watch_canary(canary))

    async def _watch_canary(self, canary: Canary) -> None:
        fault = await keep_up(canary.judge)
        if fault:
            self._canary = None  # which is this task, and must not be cancelled
            lifecycle.error("the last reload is taken back: %s", fault)
            await self.rollback(WATCH, fault)


def check_fixed(running: Config, wanted: Config) -> None:
    """Raises ConfigError if ``wanted`` changes a setting that only a restart can change."""
    problems = []
    # sockets are opened once for all generations, and those of pools belong to this user
    for key in fields_marked(ServerSettings, "applies", "restart"):
        old, new = getattr(running.server, key), getattr(wanted.server, key)
        if old != new:
            problems.append(
                f'{wanted.source}: server.{key}: a reload cannot change it from "{old}" to '
                f'"{new}": restart the gateway, or change it back'
            )
    if problems:
        raise ConfigError(problems)


def log_outcome(outcome: Outcome) -> None:
    """Log how a reload ended."""
    if not outcome.how:
        lifecycle.error(
            "reload (%s) failed after %.2f s, nothing has changed: %s",
            *(outcome.trigger, outcome.seconds, "\n".join(outcome.messages)),
        )
    elif outcome.how == UNCHANGED:
        lifecycle.info("reload (%s): %s", outcome.trigger, UNCHANGED)
    else:
        lifecycle.info(
            "reload (%s): generation %s serves after %.2f s, %s",
            *(outcome.trigger, outcome.generation, outcome.seconds, explain(outcome.how)),
        )


def explain(how: str) -> str:
    """The ``how`` of an outcome as text for a person."""
    return IN_PLACE if IN_PLACE.startswith(f"{how}:") else how
