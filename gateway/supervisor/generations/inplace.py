"""Changes a generation in place: its workers serve another configuration without an import.

In two steps, so that nothing changes in any worker if one refuses. Which changes need no import is
decided in ``gateway.config.compare.inplace``.
"""

from gateway.config.model import Config
from gateway.errors import AppLoadError
from gateway.supervisor.generations.failures import describe_failure
from gateway.supervisor.generations.generation import Generation
from gateway.supervisor.processes.process import ProcessState

# how long a worker that does not respond is waited for; it changes when it goes on
APPLY_SECONDS = 2.0
# workers that have loaded and serve, or may serve again
REACHABLE = frozenset(
    (ProcessState.LOADED, ProcessState.READY, ProcessState.PAUSED, ProcessState.RETIRING)
)


async def prepare(generation: Generation, config: Config) -> None:
    """Order every worker to make ready for ``config``. Raises AppLoadError with what they object.

    A worker that ends meanwhile does not count: its replacement gets what was applied.
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
    """Serve ``config``, which was prepared, or differs in the addresses of servers alone."""
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
