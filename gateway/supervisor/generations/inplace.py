"""Changing a generation in place: its workers serve another configuration without importing.

In two steps, so that an objection of one worker changes nothing in any. Refuses to know which
changes need no import (``gateway.config.inplace``).
"""

from gateway.config.model import Config
from gateway.errors import AppLoadError
from gateway.supervisor.generations.failures import describe_failure
from gateway.supervisor.generations.generation import Generation
from gateway.supervisor.processes.process import ProcessState

# for a worker that is wedged; it changes when it comes to it
APPLY_SECONDS = 2.0
# those that have loaded and answer, or may do so again
REACHABLE = frozenset(
    (ProcessState.LOADED, ProcessState.READY, ProcessState.PAUSED, ProcessState.RETIRING)
)


async def prepare(generation: Generation, config: Config) -> None:
    """Have every worker make ready for ``config``. Raises AppLoadError with what speaks against it.

    A worker that ends meanwhile is no objection: the one in its place takes over what was applied.
    """
    processes = [c for c in generation.processes.values() if c.state is ProcessState.READY]
    asked = [(process, process.prepare(config)) for process in processes]
    seconds = config.server.limits.start_timeout_seconds
    is_done = await generation.until(
        lambda: all(done.done() or c.exit_code is not None for c, done in asked), seconds
    )
    if not is_done:
        raise AppLoadError(f"a worker had no answer within {seconds:g} s (server.start_timeout)")
    objections = [
        describe_failure(config, each) for _, done in asked if done.done() for each in done.result()
    ]
    if objections:
        raise AppLoadError("\n".join(dict.fromkeys(objections)))


async def apply(generation: Generation, config: Config) -> None:
    """Serve ``config``, which was prepared or leads to other addresses only."""
    generation.adopt(config)
    for process in generation.processes.values():
        if process.state is ProcessState.LOADING:
            process.expect(config)
    reachable = [c for c in generation.processes.values() if c.state in REACHABLE]
    for process in reachable:
        process.apply(config)
    await generation.until(
        lambda: all(c.applied is c.config or c.exit_code is not None for c in reachable),
        APPLY_SECONDS,
    )
