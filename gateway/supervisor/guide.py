"""Leads the front workers to the servers that pools run: each has an address of its own, which
changes whenever one starts or ends.

Owns no process. Refuses to know why an address has changed.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.config.model import UpstreamTarget
from gateway.config.slices import redirect
from gateway.supervisor import inplace
from gateway.supervisor.generation import Generation
from gateway.supervisor.pool import Pool
from gateway.supervisor.tasks import keep_up


class Guide:
    """``pools`` are those that serve, by name, and ``front`` is the one that asks the others."""

    def __init__(
        self,
        pools: dict[str, Pool],
        front: str,
        start_task: Callable[[Coroutine[Any, Any, Any]], None],
    ) -> None:
        self._pools = pools
        self._front = front
        self._start_task = start_task
        self._leading = asyncio.Lock()

    def find_addresses(self, name: str) -> tuple[str, ...]:
        """Where the servers of a pool are now; none where it has none that answers."""
        pool = self._pools.get(name)
        return pool.current.addresses if pool and pool.current else ()

    def is_asked(self, address: str) -> bool:
        """Whether a front worker may still send requests there."""
        return any(
            isinstance(mount.target, UpstreamTarget) and address in mount.target.addresses
            for generation in self._pools[self._front].generations
            for process in generation.children.values()
            for mount in process.applied.mounts
        )

    def note_change(self) -> None:
        """See whether an address has changed, and tell the front workers of it."""
        if not self._leading.locked() and self._find_misled():
            self._start_task(keep_up(self.lead))

    async def lead(self) -> None:
        """Have all front workers, those that retire too, ask where the servers are now."""
        async with self._leading:
            while misled := self._find_misled():
                for generation in misled:
                    config = redirect(generation.config, self.find_addresses)
                    await inplace.apply(generation, config)

    def _find_misled(self) -> list[Generation]:
        return [
            generation
            for generation in self._pools[self._front].generations
            if redirect(generation.config, self.find_addresses) is not generation.config
        ]
