"""A reload: read the table, start a generation of it, swap, or leave all as it was.

Owns the order of these steps and what is told of their outcome. Knows neither what asked for it
nor how workers are kept.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

from gateway.config.model import Config
from gateway.errors import AppLoadError, ConfigError
from gateway.logs import lifecycle
from gateway.supervisor.generation import Generation

# the sockets are the gateway's own, opened once for all generations
KEPT = ("listen", "admin", "control")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a reload ended. ``exit_code`` is the command's: 0, 2 bad table, 3 an app did not load.

    ``seconds`` are from the save of the file (where a save was the trigger) to serving, else from
    the request; ``generation`` is the one that serves now.
    """

    trigger: str
    exit_code: int
    generation: str
    messages: tuple[str, ...]
    seconds: float
    finished: float

    def describe(self) -> dict[str, Any]:
        """For the control socket and ``status``; ``finished`` is Unix time."""
        return asdict(self)


class Reloader:
    """Runs reloads one after another.

    ``read`` gives the newest table, ``start(config)`` a generation of it that accepts, and
    ``current()`` the one that serves. ``start`` raises AppLoadError.
    """

    def __init__(
        self,
        read: Callable[[], Config],
        start: Callable[[Config], Awaitable[None]],
        current: Callable[[], Generation],
    ) -> None:
        self._read = read
        self._start = start
        self._current = current
        self._running = asyncio.Lock()
        self._waiting: asyncio.Task[Outcome] | None = None
        self.last: Outcome | None = None

    async def reload(self, trigger: str, since: float | None = None) -> Outcome:
        """Serve what the file says now. ``since`` is when it was saved, in Unix time.

        During a reload this waits for its end, and one further reload answers all who wait.
        """
        if self._waiting is None:
            since = time.time() if since is None else since
            self._waiting = asyncio.create_task(self._run_next(trigger, since))
        return await asyncio.shield(self._waiting)

    async def rollback(self, config: Config) -> Outcome:
        """Serve ``config``, which was served before."""
        async with self._running:
            return await self._run("rollback", time.time(), lambda: config)

    async def _run_next(self, trigger: str, since: float) -> Outcome:
        async with self._running:
            self._waiting = None  # what is asked from here on may have seen a newer file
            return await self._run(trigger, since, self._read)

    async def _run(self, trigger: str, since: float, read: Callable[[], Config]) -> Outcome:
        exit_code, messages = 0, []
        try:
            config = await asyncio.to_thread(read)
            check_kept(self._current().config, config)
            lifecycle.info("reload (%s): the table is right, new workers load", trigger)
            await self._start(config)
        except ConfigError as error:
            exit_code, messages = 2, error.problems
        except AppLoadError as error:
            exit_code, messages = 3, str(error).split("\n")
        except Exception as error:  # noqa: BLE001  nothing that a reload meets may end the gateway
            lifecycle.exception("reload (%s): a fault of the gateway's own", trigger)
            exit_code, messages = 1, [f"a fault of the gateway's own: {error!r}"]
        now = time.time()
        current = self._current().id
        outcome = Outcome(trigger, exit_code, current, tuple(messages), now - since, now)
        self.last = outcome
        tell(outcome)
        return outcome


def check_kept(running: Config, wanted: Config) -> None:
    """Refuse what only a restart can change. Raises ConfigError."""
    problems = []
    for key in KEPT:
        old, new = getattr(running.server, key), getattr(wanted.server, key)
        if old != new:
            problems.append(
                f'{wanted.source}: server.{key}: a reload cannot change it from "{old}" to '
                f'"{new}": restart the gateway, or change it back'
            )
    if problems:
        raise ConfigError(problems)


def tell(outcome: Outcome) -> None:
    """Log it."""
    if outcome.exit_code:
        lifecycle.error(
            "reload (%s) failed after %.2f s, nothing has changed: %s",
            *(outcome.trigger, outcome.seconds, "\n".join(outcome.messages)),
        )
    else:
        lifecycle.info(
            "reload (%s): generation %s serves after %.2f s",
            *(outcome.trigger, outcome.generation, outcome.seconds),
        )
