"""Publishes the addresses of pools' processes to the front workers. A command, or a worker of a
sticky pool, has an address of its own, which changes with each start and exit.

Owns no process.
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
    """``pools`` are all pools by name, and ``front`` is the name of the one that forwards to the
    others."""

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
        """The addresses at which processes of a pool answer now."""
        pool = self._pools.get(name)
        return pool.current.addresses if pool and pool.current else ()

    def is_asked(self, address: str) -> bool:
        """A front worker may still send requests to that address."""
        return any(
            isinstance(mount.target, UpstreamTarget) and address in mount.target.addresses
            for generation in self._pools[self._front].generations
            for process in generation.processes.values()
            for mount in process.applied.mounts
        )

    def note_change(self) -> None:
        """Publish addresses if one has changed, else the moments at which missing ones are expected
        again."""
        if self._publishing.locked():
            return  # which looks again at its end
        if self._find_outdated():
            self._start_task(keep_up(self.publish))
        else:
            self._put_off()

    async def publish(self) -> None:
        """Send the present addresses to all front workers, retiring ones included. Waits until they
        have applied them."""
        async with self._publishing:
            while outdated := self._find_outdated():
                for generation in outdated:
                    config = redirect(generation.config, self.find_addresses)
                    await inplace.apply(generation, config)
        self._published.clear()  # a change in place has discarded that in the workers
        self._put_off()

    def _put_off(self) -> None:
        """Send front workers the moments at which missing servers start again, for Retry-After."""
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
