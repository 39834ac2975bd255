"""When a pool without requests falls asleep, and what wakes it.

A pool's socket stays open while it sleeps: the request that wakes it is not refused, but waits in
the kernel's queue for the first worker. Source: systemd.socket(5), which calls this socket
activation; the setting ``idle`` of a pool.
"""

import asyncio
import select
import socket
import time
from collections.abc import Callable, Iterable

from gateway.supervisor.generations.generation import Generation, GenerationState

IDLE_LOOK_SECONDS = 1.0


async def fall_asleep(generation: Generation) -> bool:
    """Wait until the generation has had no request for as long as the setting says, which may
    change meanwhile. False if it does not serve any more."""
    asked, since = -1, time.monotonic()
    while generation.state is GenerationState.SERVING:
        await asyncio.sleep(IDLE_LOOK_SECONDS)
        idle_seconds = generation.config.pool.idle_seconds
        requests, _ = generation.count()
        if requests != asked or generation.is_busy or not idle_seconds:
            asked, since = requests, time.monotonic()
        elif time.monotonic() - since >= idle_seconds:
            return generation.state is GenerationState.SERVING
    return False


def has_clients(listener: socket.socket) -> bool:
    """A connection waits to be accepted."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))


class Alarm:
    """Calls ``ring`` once, when one of ``sockets`` is readable between ``set`` and ``clear``."""

    def __init__(self, sockets: Iterable[socket.socket], ring: Callable[[], None]) -> None:
        self._descriptors = [each.fileno() for each in sockets]
        self._ring = ring

    def set(self) -> None:
        """Watch from now on."""
        for descriptor in self._descriptors:
            asyncio.get_running_loop().add_reader(descriptor, self._on_connection)

    def clear(self) -> None:
        """Stop watching; safe to call twice."""
        for descriptor in self._descriptors:
            asyncio.get_running_loop().remove_reader(descriptor)

    def _on_connection(self) -> None:
        self.clear()
        self._ring()
