"""Which workers are active: their apps may do something beside requests, such as running a
scheduler. Never workers of two generations at once, and no more of them than the pool's size.

A pure rule on the generations of one pool, applied at each change.
"""

from collections.abc import Iterable

from gateway.supervisor.generations.generation import Generation, GenerationState
from gateway.supervisor.processes.process import ProcessState


def activate_workers(current: Generation | None, generations: Iterable[Generation]) -> None:
    """Activate workers of the current generation, once those of all others have settled."""
    if current is None or current.state is not GenerationState.SERVING:
        return
    active = [
        process
        for generation in generations
        for process in generation.processes.values()
        if process.is_active and process.exit_code is None
    ]
    if any(current.processes.get(process.pid) is not process for process in active):
        return
    ready = [c for c in current.workers if c.state is ProcessState.READY and not c.is_active]
    for process in ready[: max(0, current.size - len(active))]:
        process.activate()
