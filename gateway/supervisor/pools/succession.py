"""Which workers' apps may do something beside requests, such as running a scheduler: never those of
two generations at once, and no more workers than there are to be.

A pure look at the generations of one pool, at each change. Refuses to know what apps do.
"""

from collections.abc import Iterable

from gateway.supervisor.generations.generation import Generation, State
from gateway.supervisor.processes.process import ChildState


def hand_on(current: Generation | None, generations: Iterable[Generation]) -> None:
    """Activate workers of the generation that serves, as far as all others have settled."""
    if current is None or current.state is not State.SERVING:
        return
    active = [
        child
        for generation in generations
        for child in generation.children.values()
        if child.is_active and child.exit_code is None
    ]
    if any(current.children.get(child.pid) is not child for child in active):
        return
    ready = [c for c in current.crew if c.state is ChildState.READY and not c.is_active]
    for child in ready[: max(0, current.size - len(active))]:
        child.activate()
