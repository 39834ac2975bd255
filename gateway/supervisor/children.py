"""One worker process as its supervisor sees it: start, what it reports, end.

Knows nothing of the table. A worker is a fresh interpreter, never a fork of the supervisor.
"""

import asyncio
import io
import json
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

from gateway.config.model import Config, as_path

Report = dict[str, Any]


class ChildState(Enum):
    """A worker's life, in order. One that stops at once goes from READY to DRAINING, and PAUSED may
    become READY again."""

    LOADING = "loading"
    LOADED = "loaded"
    READY = "ready"
    PAUSED = "paused"
    RETIRING = "retiring"
    DRAINING = "draining"
    DEAD = "dead"


class Child:
    """A worker process. ``on_report(child, report)`` is called with each object it sends.

    ``exit_code`` is negative for a signal, as in ``subprocess``; None while it lives. ``loading``
    is the mount that it loads now, "" for none; ``accepts`` whether it may still take connections;
    ``config`` what it is to serve, ``asked`` what it was asked to ``prepare`` last, ``objections``
    the mounts that this failed for, and ``applied`` what it serves.
    """

    def __init__(
        self,
        config: Config,
        style: str,
        generation: str,
        listener: socket.socket,
        on_report: Callable[["Child", Report], None],
    ) -> None:
        self.state = ChildState.LOADING
        self.started = time.monotonic()
        self.exit_code: int | None = None
        self.loading = ""
        self.accepts = False
        self.config = self.applied = config
        self.prepared: Config | None = None
        self.asked = config
        self.objections: list[Report] = []
        self._on_report = on_report
        ours, theirs = socket.socketpair()
        with theirs, pickled(config) as order:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "gateway.worker", style, generation),
                    *(str(theirs.fileno()), str(listener.fileno())),
                ],
                stdin=order,
                pass_fds=(theirs.fileno(), listener.fileno()),
            )
        self._control = ours
        self._writer: asyncio.StreamWriter | None = None
        self._listening = asyncio.create_task(self._listen())

    @property
    def pid(self) -> int:
        return self._process.pid

    async def _listen(self) -> None:
        reader, writer = await asyncio.open_connection(sock=self._control, limit=2**24)
        self._writer = writer
        try:
            while line := await reader.readline():
                self._on_report(self, json.loads(line))
        except OSError:
            pass  # it died with a report on its way; its exit says the rest
        finally:
            writer.close()

    def order(self, word: str) -> None:
        """Tell it to ``accept``, ``pause`` or ``retire``; one that has ended does not hear."""
        if self._writer is not None:
            self._writer.write(word.encode() + b"\n")

    def prepare(self, config: Config) -> None:
        """Have it make ready for ``config``, which needs no import; it answers with a report."""
        self.prepared, self.asked = None, config
        self.order(f"prepare {b64encode(to_bytes(config)).decode()}")

    def note_prepared(self, report: Report) -> None:
        """Its answer to ``prepare``."""
        self.objections = report["mounts"]
        self.prepared = self.asked

    def apply(self, config: Config) -> None:
        """Have it serve ``config``, which it has prepared or is told of now."""
        if self.prepared is not config:
            self.prepare(config)
        self.order("apply")
        self.config = config

    def accept(self) -> None:
        """Have it accept, for the first time or again; it answers that it is ready."""
        if self.state is ChildState.PAUSED:
            self.state = ChildState.LOADED
        self.order("accept")

    def pause(self) -> None:
        """Have it accept no more and stay loaded; one that has not loaded is not worth keeping."""
        if self.state is ChildState.READY:
            self.state = ChildState.PAUSED
            self.order("pause")
        else:
            self.terminate()

    def retire(self) -> None:
        """Ask it to accept no more and to end with its last connection."""
        if self.state in (ChildState.READY, ChildState.PAUSED):
            self.state = ChildState.RETIRING
            self.order("retire")
        else:
            self.terminate()

    def terminate(self) -> None:
        """Ask it to drain and end."""
        if self.exit_code is None:
            self.state = ChildState.DRAINING
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        if self.exit_code is None:
            os.kill(self.pid, signal.SIGKILL)

    def note_end(self, wait_status: int) -> None:
        """It was reaped: its pid may be another's from now on. ``wait_status`` as waitpid's."""
        self.exit_code = self._process.returncode = os.waitstatus_to_exitcode(wait_status)

    async def finish(self) -> None:
        """Read what it had still sent, and let go of it."""
        await asyncio.wait([self._listening], timeout=1)
        self._listening.cancel()
        self.state = ChildState.DEAD

    def describe(self) -> dict[str, Any]:
        """The worker for ``gateway status``; seconds and bytes."""
        return {
            "pid": self.pid,
            "state": self.state.value,
            "age": round(time.monotonic() - self.started, 3),
            "memory": resident_bytes(self.pid),
            "loading": self.loading,
        }


def resident_bytes(pid: int) -> int:
    """The memory that a process occupies; 0 where it has ended. Source: proc_pid_statm(5)."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * resource.getpagesize()


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: object) -> Any:
        return (as_path, (str(value),)) if isinstance(value, Path) else NotImplemented


def to_bytes(config: Config) -> bytes:
    """Pickled so that any Python that a worker may run can read it."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=4).dump(config)
    return buffer.getvalue()


def pickled(config: Config):  # type: ignore[no-untyped-def]
    """The configuration in an open temporary file, at its beginning: a worker's stdin."""
    order = tempfile.TemporaryFile()  # noqa: SIM115
    order.write(to_bytes(config))
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
