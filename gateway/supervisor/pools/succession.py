"""Which workers' apps may do something beside requests, such as running a scheduler: never those of
two generations at once, and no more workers than there are to be.

A pure look at the generations of one pool, at each change. Refuses to know what apps do.
"""

from collections.abc import Iterable

from gateway.supervisor.generations.generation import Generation, GenerationState
from gateway.supervisor.processes.process import ProcessState


def activate_workers(current: Generation | None, generations: Iterable[Generation]) -> None:
    """Activate workers of the generation that serves, as far as all others have settled."""
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
