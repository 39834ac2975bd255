"""``gateway check``: what ``serve`` does before it accepts connections.

Starts the same workers as ``serve``, on sockets of its own, and stops them once they have loaded.
Problems that a running gateway of the same table reports are shown, but are not errors: the next
reload may fix them.
"""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.config.load import read_in_time
from gateway.config.model import Config, UpstreamTarget, Workers
from gateway.errors import ConfigError, GatewayError
from gateway.logs import forwarding, hide_controls, lifecycle
from gateway.supervisor.generations.exits import handle_exit
from gateway.supervisor.generations.failures import describe_troubles
from gateway.supervisor.listeners.control import send_command
from gateway.supervisor.listeners.socket_paths import find_control
from gateway.supervisor.listeners.sockets import open_pool_listener, raise_descriptor_limit
from gateway.supervisor.pools.pools import Pools
from gateway.supervisor.processes.launch import check_users
from gateway.supervisor.tasks import guarded, start
from gateway.supervisor.warnings import find_unresolved, find_warnings
from gateway.uncaught import summarize

# how long to wait for a running gateway, which responds at once unless it is suspended
STATUS_SECONDS = 5.0
# signals that end a check and all that it has started
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def check(config: Config, *, loads: bool, starts: bool = False) -> int:
    """Check the table, with ``loads`` also its apps, with ``starts`` also its commands; print the
    result, what was not checked, and what the running gateway reports. The exit code: 0, or 128
    plus the number of the signal that interrupted it. Raises AppLoadError."""
    warnings = read_in_time(lambda: find_warnings(config))
    warnings += find_unresolved(config) if loads else []
    for warning in warnings:
        print(hide_controls(warning), file=sys.stderr)
    if loads and (ended_by := load_pools(config, starts=starts)):
        print(f"gateway: interrupted by {signal.Signals(ended_by).name}", file=sys.stderr)
        return 128 + ended_by
    number = f", warnings: {len(warnings)}" if warnings else ""
    print(f"{config.source}: {len(config.mounts)} mounts, no problems{number}")
    if loads:
        print_untried(config, starts=starts)
        print_unhealthy(config)
    return 0


def load_pools(config: Config, *, starts: bool) -> int:
    """Start one worker of each pool, which loads its apps and runs their probes. Returns 0, or the
    number of the signal that interrupted it. Raises AppLoadError."""
    raise_descriptor_limit()
    # in /tmp regardless of TMPDIR: paths of sockets must be short (unix(7))
    prefix = f"gateway-check-{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)  # commands of other users create their sockets in it
        with (
            open_pool_listener(folder / "main.sock", -1) as listener,
            forwarding(lifecycle, lambda line: print(hide_controls(line), file=sys.stderr)),
        ):
            try:
                return asyncio.run(Check(folder, listener).run(select(config, starts=starts)))
            except (GatewayError, OSError):
                raise
            except Exception as error:
                # no traceback of the gateway's own code
                fault = f"a fault of the gateway's own: {summarize(error)}"
                raise GatewayError(fault) from error


def select(config: Config, *, starts: bool) -> Config:
    """The configuration to load: one worker for each pool, and commands only with ``starts``."""
    pools = tuple(
        replace(pool, workers=Workers()) for pool in config.pools if starts or not pool.command
    )
    names = {pool.name for pool in pools}
    return replace(
        config,
        server=replace(config.server, workers=1, access_log="off"),
        pools=pools,
        mounts=tuple(
            mount
            for mount in config.mounts
            if not isinstance(mount.target, UpstreamTarget)
            or not mount.target.pool
            or mount.target.pool in names
        ),
    )


class Check:
    """The part of a supervisor that a check needs: it starts, reaps and stops workers."""

    def __init__(self, folder: Path, listener: Any) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._pools = Pools(listener, folder, self._start_task, style="text")

    def _start_task(self, work: Coroutine[Any, Any, Any]) -> None:
        task = start(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run(self, config: Config) -> int:
        """See ``load_pools``."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[int] = loop.create_future()
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        for number in _ENDS:
            loop.add_signal_handler(number, self._end, ended, number)
        work = asyncio.create_task(self._pools.try_out(config))
        either: set[asyncio.Future[Any]] = {work, ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        self._pools.is_stopping = True
        await self._pools.stop(0)
        work.cancel()  # an environment may be under construction
        await asyncio.wait({work})
        self._pools.close()
        if ended.done():
            return ended.result()
        work.result()
        return 0

    def _end(self, ended: "asyncio.Future[int]", number: int) -> None:
        if ended.done():
            self._pools.kill()
        else:
            ended.set_result(number)

    def _reap(self) -> None:
        """Wait for processes of the pools only; others belong to other code."""
        for generation in self._pools.generations:
            for process in list(generation.processes.values()):
                if process.exit_code is not None:
                    continue
                if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.killpg(process.pid, signal.SIGKILL)  # what its apps have started
                    with guarded(f"what process {process.pid} has started"):
                        process.clear_up()
                    _, wait_status = os.waitpid(process.pid, 0)
                    self._pools.note_exit(generation, process, wait_status)
                    self._start_task(handle_exit(generation, process, is_stopping=True))


def print_untried(config: Config, *, starts: bool) -> None:
    """Print what a start or reload would check, and this command did not."""
    targets = [(m.name, m.target) for m in config.mounts if isinstance(m.target, UpstreamTarget)]
    untried = {
        "commands not started (use --start)": [
            name for name, target in targets if target.pool and not starts
        ],
        "health of servers not checked": [
            name for name, target in targets if target.health and not target.pool
        ],
    }
    for what, names in untried.items():
        if names:
            print(f"{what}: {', '.join(names)}")
    try:
        check_users(config)
    except ConfigError as error:
        print("a gateway started by this user would report:", *error.problems, sep="\n")


def print_unhealthy(config: Config) -> None:
    """Print the mounts with problems in the running gateway of this table, if there is one."""
    try:
        control = find_control(config.server.control, Path(config.source))
        report = send_command(control, "status", patience_seconds=STATUS_SECONDS)
    except GatewayError:
        return
    if lines := describe_troubles(report["mounts"]):
        print(f"the running gateway, pid {report['pid']}, reports:")
        print(hide_controls("\n".join(lines)))
