"""A pool's command, such as Uvicorn or Node.js, as a process: started with the address at which it
should listen, checked until it answers, and ended once it has no requests.

A command takes no orders: to its generation it is a worker whose answers are given here. Source:
the setting ``command`` of a pool.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.config.model import Config, ServerSettings, UpstreamTarget
from gateway.environments.cache import Environment
from gateway.supervisor.processes.groups import Groups
from gateway.supervisor.processes.last_lines import LastLines
from gateway.supervisor.processes.launch import build_server, find_ids
from gateway.supervisor.processes.process import Process, ProcessState, Report
from gateway.supervisor.processes.reach import count_connections, find_fault
from gateway.supervisor.tasks import keep_up, start

# between two readiness checks, or two looks at its connections
CHECK_SECONDS = 0.05
# to read its last output after its exit: the reason is there
READ_SECONDS = 2.0
_ANSWERS = {
    "accept": "ready",
    "pause": "paused",
    "prepare": "prepared",
    "apply": "applied",
    "retire": "retired",
}


class CommandProcess(Process):
    """The pool's command, on a socket in a directory of its own below ``folder``, or on a port.

    ``is_asked`` is true while a front worker may send requests to an address. Its process group is
    among ``groups`` while it lives. ``is_retry``: others have failed before it, so that its output
    is not logged before ``forward_output``, and then only its end.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        environment: Environment | None,
        is_asked: Callable[[str], bool],
        groups: Groups,
        on_report: Callable[[Process, Report], None],
        *,
        is_retry: bool,
    ) -> None:
        super().__init__(config, 0, on_report)
        self._is_asked = is_asked
        self._groups = groups
        self._is_retry = is_retry
        self._is_behind = False
        self._expected = config
        self._folder = Path(tempfile.mkdtemp(dir=folder))
        self._fault = ""
        self._leaving: asyncio.Task[None] | None = None
        try:
            self._start(environment)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self._lines = LastLines(self._process.stdout, self._forward)
        self._relaying = start(self._lines.read())
        self._checking = start(keep_up(self._check_readiness))

    def _start(self, environment: Environment | None) -> None:
        pool, place, port = self.config.pool, self._folder / "s", ""
        if "{port}" in pool.command:
            port = str(find_free_port())
        self.address = f"http://127.0.0.1:{port}" if port else f"unix:{place}"
        options = build_server(self.config, environment, str(place), port)
        if "user" in options or "group" in options:
            self._share(options, self.config.server)
        self._groups.keep_watch()
        self._process = subprocess.Popen(
            **options,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # signals from the terminal are forwarded by the supervisor
            process_group=0,
        )
        self._groups.add(self.pid, self.config.server.limits.drain_timeout_seconds)

    def _share(self, options: dict[str, Any], server: ServerSettings) -> None:
        """Let its user make a socket to which the front workers' group may connect."""
        user, group = find_ids(server.user, server.group)
        self._folder.chmod(0o2770)  # what is made there gets the directory's group
        os.chown(self._folder, options.get("user", -1), group if group >= 0 else os.getegid())
        if options.get("user") != user:
            options["umask"] = 0o007

    # --- starting -----------------------------------------------------------------------------

    async def _check_readiness(self) -> None:
        """Check until it answers; one that never does is ended by its generation."""
        while fault := await self._find_fault():
            self._fault = fault
            await asyncio.sleep(CHECK_SECONDS)
        self._fault = ""
        self.receive({"event": "loaded", "mounts": []})

    async def _find_fault(self) -> str:
        for path, host, scheme in sorted(set(find_questions(self._expected))):
            if fault := await find_fault(self.address, path, host, scheme):
                return fault
        return ""

    def expect(self, config: Config) -> None:
        self._expected = config  # the path that is checked may have been the mistake

    def _forward(self, lines: bytes) -> None:
        """Write its output to stderr, as workers do: whole lines, so that lines of others are not
        cut in two."""
        is_tried = self.is_spare and self.state is ProcessState.LOADING
        self._is_behind = self._is_retry or is_tried
        if not self._is_behind:
            sys.stderr.buffer.write(lines + b"\n")
            sys.stderr.flush()

    def forward_output(self) -> None:
        self._is_retry = False
        if self._is_behind:
            self._forward(self._lines.text[1:].encode(errors="replace"))

    @property
    def last_output(self) -> str:
        fault = f": {self._fault}" if self._fault and self.exit_code is None else ""
        return fault + self._lines.text

    @property
    def reason_to_fail(self) -> str:
        if self.exit_code is None or self.objection:
            why = self._fault
        else:
            last = self._lines.text.rpartition("\n")[2]
            why = f"{self.describe_end()}: {last}"
        return why.replace(str(self._folder), "")  # the next one has another folder

    # --- changing -----------------------------------------------------------------------------

    def order(self, word: str, value: object = None) -> None:
        report = {"event": _ANSWERS[word], "mounts": []}
        asyncio.get_running_loop().call_soon(self.receive, report)
        if word == "retire":
            self._leave()

    # --- ending -------------------------------------------------------------------------------

    def terminate(self) -> None:
        if self.exit_code is None:
            self._enter(ProcessState.DRAINING)
            self._leave()

    def _leave(self) -> None:
        if self._leaving is None:
            self._leaving = start(keep_up(self._end_unused))

    async def _end_unused(self) -> None:
        """Not every server finishes its requests on SIGTERM: send that once it has none."""
        seconds = self.config.server.limits.drain_timeout_seconds
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._is_asked(self.address) or count_connections(self.address):
                    await asyncio.sleep(CHECK_SECONDS)
        if self.exit_code is None:
            os.kill(self.pid, signal.SIGTERM)
            await asyncio.sleep(seconds)
            self.kill()

    def kill(self) -> None:
        if self.exit_code is None:
            os.killpg(self.pid, signal.SIGKILL)

    def clear_up(self) -> None:
        # the group may have ended already, or belong to another user
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # what it has started ends with it
        self._groups.remove(self.pid)

    async def finish(self) -> None:
        # its output is there already, and the pipe is at its end, unless a process that has left
        # its group has the other end open
        try:
            await asyncio.wait([self._relaying], timeout=READ_SECONDS)
        finally:
            self._enter(ProcessState.DEAD)
            for task in (self._relaying, self._checking, self._leaving):
                if task is not None:
                    task.cancel()
            shutil.rmtree(self._folder, ignore_errors=True)

    def describe(self) -> dict[str, Any]:
        """As any process, without requests: the front workers count those."""
        unknown = dict.fromkeys(("requests", "in_flight"))
        return super().describe() | unknown | {"address": self.address}


def find_questions(config: Config) -> list[tuple[str, str, str]]:
    """The readiness checks of its mounts: path ("" for none), host and scheme of each."""
    found = []
    for mount in config.mounts:
        target = mount.target
        if isinstance(target, UpstreamTarget):
            own = target.host if target.host != "keep" else mount.host or "localhost"
            host = own if target.health_host == "auto" else target.health_host
            found.append((target.health, host, target.health_scheme))
    return found


def find_free_port() -> int:
    """A TCP port of the loopback interface on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
