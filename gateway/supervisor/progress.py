"""What a command that waits for a reload shows: what is being loaded, and how long requests and
WebSockets in replaced workers stay open.

Only observes.
"""

import asyncio
import time
from collections.abc import Iterable

from gateway.supervisor.generations.generation import Generation, GenerationState
from gateway.supervisor.listeners.control import Notify
from gateway.supervisor.pools.pools import Pools
from gateway.supervisor.processes.process import ProcessState

# a reload that takes less time shows nothing
SHOW_SECONDS = 1.0
MAX_SHOWN = 5


async def show_loading(pools: Pools, notify: Notify) -> None:
    """Report what is being loaded, every SHOW_SECONDS, until it is cancelled."""
    began = time.monotonic()
    while True:
        await asyncio.sleep(SHOW_SECONDS)
        if line := describe_loading(pools.generations):
            notify(f"after {time.monotonic() - began:.0f} s: loading {line}")


def describe_loading(generations: Iterable[Generation]) -> str:
    """What new workers are loading, and for how many seconds; "" for nothing."""
    now = time.monotonic()
    found: dict[str, float] = {}
    for generation in generations:
        for process in list(generation.processes.values()):
            if (
                generation.state is GenerationState.STARTING
                and process.state is ProcessState.LOADING
            ):
                since = process.loading_since if process.loading else process.started
                where = f"pool {generation.config.pool.name}"
                where += f" at {process.loading}" if process.loading else ""
                found[where] = max(found.get(where, 0.0), now - since)
    lines = [f"{where} ({seconds:.0f} s)" for where, seconds in found.items()]
    more = [f"{len(lines) - MAX_SHOWN} more"] if len(lines) > MAX_SHOWN else []
    return ", ".join(lines[:MAX_SHOWN] + more)


def describe_leaving(pools: Pools, before: set[str]) -> str:
    """How many requests and WebSockets are open in replaced workers, and how long they have; "" for
    none. ``before`` are the ids of the generations that were there before the reload."""
    left = [g for g in pools.generations if g.id in before and g.state in _LEFT]
    count = sum(process.in_flight.count() for g in left for process in list(g.processes.values()))
    if not count:
        return ""
    server = pools.config.server
    kept, drain = server.keep_previous_seconds, server.limits.drain_timeout_seconds
    return (
        f"requests and WebSockets open in replaced workers: {count}; they stay there, and what is "
        f"still open after {kept + drain:g} s (keep_previous and drain_timeout) is cut"
    )


_LEFT = (GenerationState.STANDBY, GenerationState.RETIRING, GenerationState.STOPPING)
