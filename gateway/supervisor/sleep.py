"""A pool that nobody asks for: when it falls asleep, and what wakes it.

Owns no worker. A pool's socket stays open while it sleeps, so the request that wakes it is not
refused: it waits in the kernel's queue for the first worker. Source: systemd.socket(5), which calls
this socket activation.
"""

import asyncio
import socket
import time
from collections.abc import Callable

from gateway.supervisor.generation import Generation, State

LOOK_SECONDS = 1.0


async def fall_asleep(generation: Generation) -> bool:
    """Wait until nobody has asked for so long that its workers may end; False where the generation
    has left by then. The setting may change meanwhile."""
    asked, since = -1, time.monotonic()
    while generation.state is State.SERVING:
        await asyncio.sleep(LOOK_SECONDS)
        idle_seconds = generation.config.pool.idle_seconds
        requests, _ = generation.count()
        if requests != asked or generation.is_busy or not idle_seconds:
            asked, since = requests, time.monotonic()
        elif time.monotonic() - since >= idle_seconds:
            return generation.state is State.SERVING
    return False


class Alarm:
    """Calls ``ring`` once somebody connects to ``listener``, between ``set`` and ``clear``."""

    def __init__(self, listener: socket.socket, ring: Callable[[], None]) -> None:
        self._descriptor = listener.fileno()
        self._ring = ring

    def set(self) -> None:
        """From now on."""
        asyncio.get_running_loop().add_reader(self._descriptor, self._on_connection)

    def clear(self) -> None:
        """No more; safe to call twice."""
        asyncio.get_running_loop().remove_reader(self._descriptor)

    def _on_connection(self) -> None:
        self.clear()
        self._ring()
