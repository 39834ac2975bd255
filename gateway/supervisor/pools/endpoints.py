"""Leads the front workers to the servers that pools run: each has an address of its own, which
changes whenever one starts or ends.

Owns no process. Refuses to know why an address has changed.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any
from weakref import WeakKeyDictionary

from gateway.config.compare.slices import redirect
from gateway.config.model import UpstreamTarget
from gateway.supervisor.generations import inplace
from gateway.supervisor.generations.generation import Generation
from gateway.supervisor.pools.pool import Pool
from gateway.supervisor.processes.process import Process
from gateway.supervisor.tasks import keep_up

Pauses = dict[str, tuple[str, float]]


class Endpoints:
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
        self._publishing = asyncio.Lock()
        self._published: WeakKeyDictionary[Process, Pauses] = WeakKeyDictionary()

    def find_addresses(self, name: str) -> tuple[str, ...]:
        """Where the servers of a pool are now; none where it has none that answers."""
        pool = self._pools.get(name)
        return pool.current.addresses if pool and pool.current else ()

    def is_asked(self, address: str) -> bool:
        """Whether a front worker may still send requests there."""
        return any(
            isinstance(mount.target, UpstreamTarget) and address in mount.target.addresses
            for generation in self._pools[self._front].generations
            for process in generation.processes.values()
            for mount in process.applied.mounts
        )

    def note_change(self) -> None:
        """See whether an address has changed, or when the next one is to be expected, and tell the
        front workers of it."""
        if self._publishing.locked():
            return  # it does so at its end
        if self._find_outdated():
            self._start_task(keep_up(self.publish))
        else:
            self._put_off()

    async def publish(self) -> None:
        """Have all front workers, those that retire too, ask where the servers are now."""
        async with self._publishing:
            while outdated := self._find_outdated():
                for generation in outdated:
                    config = redirect(generation.config, self.find_addresses)
                    await inplace.apply(generation, config)
        self._published.clear()  # what is applied in place knows nothing of it
        self._put_off()

    def _put_off(self) -> None:
        """Have front workers say when servers that are away are started again."""
        pauses = self._find_pauses()
        for generation in self._pools[self._front].generations:
            for process in generation.processes.values():
                if (
                    process.state in inplace.REACHABLE
                    and self._published.get(process, {}) != pauses
                ):
                    self._published[process] = pauses
                    process.put_off(pauses)

    def _find_pauses(self) -> Pauses:
        now = time.monotonic()
        return {
            mount.name: ("", pool.next_start)
            for pool in self._pools.values()
            if pool.next_start > now and pool.config and pool.config.pool.command
            for mount in pool.config.mounts
        }

    def _find_outdated(self) -> list[Generation]:
        return [
            generation
            for generation in self._pools[self._front].generations
            if redirect(generation.config, self.find_addresses) is not generation.config
        ]
