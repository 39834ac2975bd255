"""One worker process as its supervisor sees it: start, what it reports, end.

Knows nothing of the table. A worker is a fresh interpreter, never a fork of the supervisor.
"""

import asyncio
import io
import json
import os
import pickle
import random
import resource
import signal
import socket
import subprocess
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

from gateway.config.model import Config, as_path
from gateway.environments.cache import Environment
from gateway.inflight import Board
from gateway.supervisor.launch import build_command, build_surroundings

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


# a loop tells of itself once a second at least
NORMAL_SILENCE_SECONDS = 1.5
# a worker that is in one of these is not to come back
LEAVING = frozenset((ChildState.RETIRING, ChildState.DRAINING, ChildState.DEAD))


class Child:
    """A worker process. ``on_report(child, report)`` is called with each object it sends.

    ``exit_code`` is negative for a signal, as in ``subprocess``; None while it lives. ``reason`` is
    why the supervisor has ended it. ``loading`` is the mount that it loads now, "" for none;
    ``loaded_bytes`` the memory that it took with all of them loaded. ``accepts``: whether it may
    still take connections.

    In place: ``config`` is what it is to serve, ``asked`` what it was asked to ``prepare`` last,
    ``objections`` the mounts that this failed for, and ``applied`` what it serves.

    ``in_flight`` tells what it is doing, and ``silent`` for how many seconds its loop has not
    turned, ``excused`` of which are not its fault. ``is_spare``: whether it is to take the place of
    another, which ``objection`` forbids;
    ``jitter`` multiplies its limit of requests.
    """

    def __init__(
        self,
        config: Config,
        style: str,
        generation: str,
        listener: socket.socket,
        environment: Environment | None,
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
        self.reason = ""
        self.silent = self.excused = 0.0
        self.is_spare = False
        self.objection = ""
        self.loaded_bytes = 0
        self.jitter = random.uniform(0.9, 1.1)
        self._heartbeat = 0.0
        self._on_report = on_report
        ours, theirs = socket.socketpair()
        self.in_flight = Board(config.server.limits.max_connections)
        descriptors = theirs.fileno(), listener.fileno(), self.in_flight.descriptor
        with theirs, pickled(config) as order:
            self._process = subprocess.Popen(
                build_command(
                    config.pool, environment, (style, generation, *map(str, descriptors))
                ),
                stdin=order,
                pass_fds=descriptors,
                **build_surroundings(config.pool, environment),
            )
        if config.pool.nice:
            os.setpriority(os.PRIO_PROCESS, self.pid, config.pool.nice)
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
        elif self.state is not ChildState.RETIRING:
            self.terminate()

    def retire(self) -> None:
        """Ask it to accept no more and to end with its last connection."""
        if self.state in (ChildState.READY, ChildState.PAUSED):
            self.state = ChildState.RETIRING
            self.order("retire")
        elif self.state is not ChildState.RETIRING:
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

    def end(self, reason: str, signal_number: int = signal.SIGKILL) -> None:
        """End it at once, for a reason that whoever asks after it is told."""
        if self.exit_code is None:
            self.reason = reason
            os.kill(self.pid, signal_number)

    def describe_end(self) -> str:
        """How it ended, and why, for a person."""
        ended = describe_exit(self.exit_code)
        return f"{ended} ({self.reason})" if self.reason else ended

    def note_silence(self, elapsed: float) -> None:
        """Look whether its loop has turned since the last look, ``elapsed`` seconds ago."""
        heartbeat = self.in_flight.pulse().heartbeat
        if heartbeat == self._heartbeat > 0:
            self.silent += elapsed
        else:
            self.silent = self.excused = 0.0
        self._heartbeat = heartbeat

    def note_end(self, wait_status: int) -> None:
        """It was reaped: its pid may be another's from now on. ``wait_status`` as waitpid's."""
        self.exit_code = self._process.returncode = os.waitstatus_to_exitcode(wait_status)

    async def finish(self) -> None:
        """Read what it had still sent, and let go of it."""
        # what it had sent is there already; the end is not where a child of its own has the socket
        await asyncio.wait([self._listening], timeout=0.2)
        self._listening.cancel()
        self.state = ChildState.DEAD

    def describe(self) -> dict[str, Any]:
        """The worker for ``gateway status``; seconds and bytes."""
        return {
            "pid": self.pid,
            "state": self.state.value,
            "age": round(time.monotonic() - self.started, 3),
            "requests": self.in_flight.pulse().requests,
            "in_flight": self.in_flight.count(),
            "silent": round(self.silent, 2) if self.silent > NORMAL_SILENCE_SECONDS else 0,
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
