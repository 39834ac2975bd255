"""A pool: the generations of one set of workers, of which one serves.

Owns which generation serves, which is kept for a rollback, and when the others end. Knows neither
the table's text nor what asked for a change.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gateway.config.inplace import find_reasons
from gateway.config.model import Config
from gateway.errors import AppLoadError
from gateway.logs import choose_style
from gateway.supervisor import inplace
from gateway.supervisor.generation import Generation, State

# Retired workers keep their memory until nginx has closed its idle connections to them, for up to
# a minute: many quick edits must not fill the machine. The oldest end sooner, as in a stop.
MOST_RETIRING = 3


@dataclass(frozen=True, slots=True)
class Change:
    """What a reload changes of a pool. ``old`` and ``new`` are one where it changes in place."""

    old: Generation
    before: Config
    new: Generation
    after: Config
    reasons: tuple[str, ...] = ()


class Pool:
    """``start_task`` runs what ends a generation in the background; ``name_generation`` gives ids.

    ``current`` serves; ``generations`` are all that have not ended. Nothing starts any more once
    ``is_stopping``.
    """

    def __init__(
        self,
        listener: socket.socket,
        name_generation: Callable[[], int],
        start_task: Callable[[Any], None],
    ) -> None:
        self._listener = listener
        self._name_generation = name_generation
        self._start_task = start_task
        self.generations: list[Generation] = []
        self.is_stopping = False

    def serve(self, config: Config) -> None:
        """Start for the first time: a mount that does not load answers 503, and others serve."""
        self.current = self._build(config, None)
        self.current.serve()

    def _build(self, config: Config, may_fail: frozenset[str] | None) -> Generation:
        style = choose_style(config.server.access_log)
        number = self._name_generation()
        generation = Generation(number, config, style, self._listener, may_fail)
        self.generations.append(generation)
        return generation

    # --- changing -----------------------------------------------------------------------------

    async def prepare(self, config: Config, *, anew: bool) -> Change:
        """Make ready to serve ``config``: in place where nothing is to be imported, or ``anew``, by
        workers that load everything. Raises AppLoadError; then nothing has changed.

        A mount that answers 503 already may go on doing so, any other has to load.
        """
        if self.is_stopping:
            raise AppLoadError("the gateway is stopping")
        old = self.current
        reasons = find_reasons(old.config, config)
        if old.failed:
            reasons.append(f"{', '.join(old.failed)} may load now")
        if not anew and not reasons:
            await inplace.prepare(old, config)
            return Change(old, old.config, old, config)
        new = self._build(config, frozenset(old.failed))
        try:
            await new.load()
        except BaseException:
            self.generations.remove(new)
            raise
        return Change(old, old.config, new, config, tuple(reasons))

    async def prepare_undo(self, change: Change) -> Change:
        """Make ready to serve what was served before ``change``, at once where it is kept."""
        if change.old is change.new:
            return await self.prepare(change.before, anew=False)
        if change.old.state is State.KEPT and change.old.is_whole:
            return Change(self.current, self.current.config, change.old, change.before)
        return await self.prepare(change.before, anew=True)

    async def commit(self, change: Change) -> None:
        """Serve what was prepared. Raises AppLoadError where its workers end at the last moment;
        then nothing has changed."""
        if change.new is change.old:
            await inplace.apply(change.new, change.after)
            return
        try:
            await change.new.accept()
        except BaseException:
            self.generations.remove(change.new)
            raise
        self.current = change.new
        self._end_oldest()
        await change.old.leave()
        self._start_task(self._keep(change.old))

    async def drop(self, change: Change) -> None:
        """Leave what was prepared."""
        if change.new.state is State.STARTING:
            with contextlib.suppress(AppLoadError):
                await change.new.give_up()
            self.generations.remove(change.new)

    async def _keep(self, old: Generation) -> None:
        """Keep it loaded for a while, and retire it then, unless it serves again."""
        server = self.current.config.server
        seconds = max(server.keep_previous_seconds, server.watch.for_seconds if server.watch else 0)
        await old.until(lambda: old.state is not State.KEPT, seconds)
        if old.state is State.KEPT:
            await old.retire()
        elif old.state is State.STOPPING:
            await old.until(lambda: not old.children, None)
        else:
            return  # it serves again
        self.generations.remove(old)

    def _end_oldest(self) -> None:
        retiring = [g for g in self.generations if g.state in (State.KEPT, State.RETIRING)]
        for oldest in retiring[: max(0, len(retiring) + 1 - MOST_RETIRING)]:
            drain_seconds = oldest.config.server.limits.drain_timeout_seconds
            self._start_task(oldest.stop(drain_seconds))

    # --- ending -------------------------------------------------------------------------------

    async def stop(self, drain_seconds: float) -> None:
        """End all generations."""
        await asyncio.gather(*(generation.stop(drain_seconds) for generation in self.generations))

    def kill(self) -> None:
        """End all workers at once."""
        for generation in self.generations:
            generation.kill()
