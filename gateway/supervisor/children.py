"""One worker process as its supervisor sees it: start, what it reports, end.

Knows nothing of the table. A worker is a fresh interpreter, never a fork of the supervisor.
"""

import asyncio
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from enum import Enum
from typing import Any

from gateway.config.model import Config

Report = dict[str, Any]


class ChildState(Enum):
    """A worker's life, in order."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    DEAD = "dead"


class Child:
    """A worker process. ``on_report(child, report)`` is called with each object it sends.

    ``exit_code`` is negative for a signal, as in ``subprocess``; None while it lives.
    """

    def __init__(
        self,
        config: Config,
        style: str,
        listener: socket.socket,
        on_report: Callable[["Child", Report], None],
    ) -> None:
        self.state = ChildState.LOADING
        self.started = time.monotonic()
        self.exit_code: int | None = None
        self._on_report = on_report
        ours, theirs = socket.socketpair()
        with theirs, pickled(config) as order:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "gateway.worker", style),
                    *(str(theirs.fileno()), str(listener.fileno())),
                ],
                stdin=order,
                pass_fds=(theirs.fileno(), listener.fileno()),
            )
        self._control = ours
        self._listening = asyncio.create_task(self._listen())

    @property
    def pid(self) -> int:
        return self._process.pid

    async def _listen(self) -> None:
        reader, writer = await asyncio.open_connection(sock=self._control, limit=2**24)
        try:
            while line := await reader.readline():
                self._on_report(self, json.loads(line))
        except OSError:
            pass  # it died with a report on its way; its exit says the rest
        finally:
            writer.close()

    def terminate(self) -> None:
        """Ask it to drain and end."""
        if self.exit_code is None:
            self.state = ChildState.DRAINING
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        if self.exit_code is None:
            os.kill(self.pid, signal.SIGKILL)

    async def reaped(self, wait_status: int) -> None:
        """Take note of its end; ``wait_status`` is waitpid's. What it had sent is read first."""
        self.exit_code = self._process.returncode = os.waitstatus_to_exitcode(wait_status)
        await asyncio.wait([self._listening], timeout=1)
        self._listening.cancel()
        self.state = ChildState.DEAD


def pickled(config: Config):  # type: ignore[no-untyped-def]
    """The configuration in an open temporary file, at its beginning: a worker's stdin."""
    order = tempfile.TemporaryFile()  # noqa: SIM115
    pickle.dump(config, order)
    order.seek(0)
    return order


def describe_exit(exit_code: int | None) -> str:
    """How a process ended, for a person; ``exit_code`` as in ``subprocess``."""
    if exit_code is None or exit_code >= 0:
        return f"exited with {exit_code}"
    try:
        return f"was ended by {signal.Signals(-exit_code).name}"
    except ValueError:  # the real-time signals have numbers only
        return f"was ended by signal {-exit_code}"
