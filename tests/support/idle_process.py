"""A process of a pool without any process of the system: what it is ordered is kept."""

from collections.abc import Callable
from typing import Any

from one_mount import CONFIG

from gateway.config.model import Config
from gateway.supervisor.processes.process import Cause, Process, ProcessState


class IdleProcess(Process):
    """``orders`` are the words that it was ordered. No signal is ever sent to ``pid``."""

    def __init__(
        self,
        pid: int,
        state: ProcessState = ProcessState.LOADING,
        config: Config = CONFIG,
        on_report: Callable[[Process, Any], None] = lambda *_: None,
    ) -> None:
        super().__init__(config, 1, on_report)
        self._pid = pid
        self.state = state
        self.orders: list[str] = []

    @property
    def pid(self) -> int:
        return self._pid

    def order(self, word: str, value: object = None) -> None:
        self.orders.append(word)

    def terminate(self) -> None:
        if self.exit_code is None:
            self._enter(ProcessState.DRAINING)

    def kill(self) -> None:
        self.orders.append("kill")

    def end(self, reason: str, cause: Cause, signal_number: int = 9) -> None:
        self.reason, self.cause = reason, cause

    def die(self, exit_code: int = 1) -> None:
        """It has ended and was reaped."""
        self.exit_code = exit_code

    async def finish(self) -> None:
        self._enter(ProcessState.DEAD)
