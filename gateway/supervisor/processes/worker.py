"""A worker process as its supervisor sees it: it gets its configuration on stdin, and exchanges
orders and reports, one a line, on a socket.

A worker is a fresh interpreter, never a fork of the supervisor.
"""

import asyncio
import io
import os
import pickle
import socket
import subprocess
from base64 import b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from gateway.config.model import Config, as_path
from gateway.environments.cache import Environment
from gateway.lifecycle import CALLBACK_SECONDS
from gateway.logs import lifecycle
from gateway.supervisor.listeners.sockets import Pair
from gateway.supervisor.processes.expected import Expected
from gateway.supervisor.processes.last_lines import LastLines
from gateway.supervisor.processes.launch import build_command, build_surroundings
from gateway.supervisor.processes.process import Process, ProcessState, Purpose, Report
from gateway.supervisor.processes.report_lines import read_report
from gateway.supervisor.tasks import start

# of the output of a trial before its exit: a crash in C writes the stack of each thread
MAX_LINES = 50
# for apps to end what they do beside requests; longer than the worker itself gives them
SETTLE_SECONDS = 2 * CALLBACK_SECONDS
NOTHING: Mapping[str, str] = MappingProxyType({})


class WorkerProcess(Process):
    """A worker that accepts on ``listener``: a socket of its own if it has a ``place`` in the file
    system, else the pool's. ``style`` is the style of its log. It hands connections over on
    ``handover``."""

    def __init__(
        self,
        config: Config,
        style: str,
        generation: str,
        environment: Environment | None,
        on_report: Callable[[Process, Report], None],
        purpose: Purpose,
        listener: socket.socket,
        handover: Pair,
        place: Path | None = None,
    ) -> None:
        super().__init__(config, config.server.limits.max_connections, on_report)
        self._place = place
        self._expected = Expected(config)
        self._activations = 0
        self.address = f"unix:{place}" if place else ""
        self._control, theirs = socket.socketpair()
        descriptors = (
            *(theirs.fileno(), listener.fileno(), self.in_flight.descriptor),
            *(end.fileno() for end in handover),
        )
        with theirs, pickled(config, purpose.left_out) as order:
            self._process = subprocess.Popen(
                build_command(
                    config.pool, environment, (style, generation, *map(str, descriptors))
                ),
                stdin=order,
                # without access records it gets no descriptor for them: an app could forge some
                stdout=2 if config.server.access_log == "off" or purpose.trial else None,
                stderr=subprocess.PIPE if purpose.trial else None,
                pass_fds=descriptors,
                # a group of its own: an app may signal its group, and means what it has started;
                # but in dev mode it has to be in the terminal's group, to read there
                process_group=None if config.is_dev else 0,
                **build_surroundings(config.pool, environment),
            )
        self._writer: asyncio.StreamWriter | None = None
        # the output of a trial is reported with its first failure, and not each time
        self._lines = LastLines(self._process.stderr, len, MAX_LINES)
        self._relaying = start(self._lines.read()) if purpose.trial else None
        self._listening = start(self._listen())

    async def _listen(self) -> None:
        reader, writer = await asyncio.open_connection(sock=self._control, limit=2**24)
        self._writer = writer
        try:
            while line := await reader.readline():
                report = read_report(line)
                self._expected.take(report)
                self.receive(report)
        except ValueError as error:  # of readline, too, for a line that is too long
            lifecycle.error("worker %d sent an invalid report, and is killed: %s", self.pid, error)
            self.kill()
        except OSError:
            pass  # it ended with a report on its way; its exit is handled elsewhere
        finally:
            writer.close()

    def order(self, word: str, value: object = None) -> None:
        if self._writer is not None:
            self._expected.note_order(word, value)
            rest = b" " + b64encode(to_bytes(value)) if value is not None else b""
            self._writer.write(word.encode() + rest + b"\n")

    def activate(self) -> None:
        self.is_active = True
        self._activations += 1
        self.order("serve")

    def pause(self, *, hands_over: bool) -> None:
        super().pause(hands_over=hands_over)
        self._expect_settled()

    def retire(self) -> None:
        super().retire()
        self._expect_settled()

    def terminate(self) -> None:
        super().terminate()
        self._expect_settled()

    def _expect_settled(self) -> None:
        """Take it for settled after a while: a worker that hangs does not report that."""
        if self.is_active:
            loop = asyncio.get_running_loop()
            loop.call_later(SETTLE_SECONDS, self._give_up_on, self._activations)

    def _give_up_on(self, activation: int) -> None:
        if self.is_active and self._activations == activation:
            self.receive({"event": "settled"})

    @property
    def last_output(self) -> str:
        return self._lines.text

    async def finish(self) -> None:
        # its reports are there already; the socket is not at its end if a child of it has that open
        tasks = [task for task in (self._listening, self._relaying) if task is not None]
        try:
            await asyncio.wait(tasks, timeout=0.2)
        finally:
            self._enter(ProcessState.DEAD)
            for task in tasks:
                task.cancel()
            if self._place is not None:
                self._place.unlink(missing_ok=True)


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: object) -> Any:
        return (as_path, (str(value),)) if isinstance(value, Path) else NotImplemented


def to_bytes(value: object) -> bytes:
    """``value`` pickled for any Python that a worker may run on."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=4).dump(value)
    return buffer.getvalue()


def pickled(config: Config, left_out: Mapping[str, str] = NOTHING) -> BinaryIO:
    """A worker's stdin: an open file, at its beginning, with the configuration and the mounts that
    it does not load, with the reason of each. In memory, since it has secrets, and a full disk must
    not keep a worker from being replaced."""
    order = open(os.memfd_create("gateway-config"), "w+b")  # noqa: SIM115
    order.write(to_bytes(config) + to_bytes(dict(left_out)))
    order.seek(0)
    return order
