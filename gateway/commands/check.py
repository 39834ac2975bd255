"""``gateway check``: what ``serve`` does before it accepts, and what only a running gateway tries.

Refuses to know how a table is read, and how workers are started: they are those of ``serve``, on
sockets of their own, and end once they have loaded. What a running gateway says of its mounts is
shown, but is no fault of the table: the next reload may be what mends it.
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
from gateway.supervisor.listeners.control import ask
from gateway.supervisor.listeners.socket_paths import find_control
from gateway.supervisor.listeners.sockets import open_pool_listener, raise_descriptor_limit
from gateway.supervisor.pools.pools import Pools
from gateway.supervisor.processes.launch import check_users
from gateway.supervisor.tasks import guarded, start
from gateway.supervisor.warnings import find_unresolved, find_warnings
from gateway.uncaught import summarize

# for a running gateway to answer in; it does at once, unless it is stopped
STATUS_SECONDS = 5.0
# what ends a check, and all that it has started
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def check(config: Config, *, loads: bool, starts: bool = False) -> int:
    """Say that all is well, 0, with what was not tried, and what the running gateway reports;
    raises AppLoadError. ``loads``: the apps too, and not the table alone; ``starts``: commands
    too. More than 128: it was ended by a signal."""
    warnings = read_in_time(lambda: find_warnings(config))
    warnings += find_unresolved(config) if loads else []
    for warning in warnings:
        print(hide_controls(warning), file=sys.stderr)
    if loads and (ended_by := load_pools(config, starts=starts)):
        print(f"gateway: ended by {signal.Signals(ended_by).name}", file=sys.stderr)
        return 128 + ended_by
    number = f", warnings: {len(warnings)}" if warnings else ""
    print(f"{config.source}: {len(config.mounts)} mounts, no problems{number}")
    if loads:
        print_untried(config, starts=starts)
        print_unhealthy(config)
    return 0


def load_pools(config: Config, *, starts: bool) -> int:
    """Have one worker of each pool load its apps and ask their probes. Raises AppLoadError.
    The number of the signal that ended it before, else 0."""
    raise_descriptor_limit()
    # in /tmp, whatever TMPDIR says: a socket's path has to be short (unix(7))
    prefix = f"gateway-check-{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)  # a command of another user makes its socket below
        with (
            open_pool_listener(folder / "main.sock", -1) as listener,
            forwarding(lifecycle, lambda line: print(hide_controls(line), file=sys.stderr)),
        ):
            try:
                return asyncio.run(Check(folder, listener).run(select(config, starts=starts)))
            except (GatewayError, OSError):
                raise
            except Exception as error:
                # whoever checks a table is not to read where in the gateway it went wrong
                fault = f"a fault of the gateway's own: {summarize(error)}"
                raise GatewayError(fault) from error


def select(config: Config, *, starts: bool) -> Config:
    """What is to be loaded: one worker for each pool, and commands only where ``starts``."""
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
    """The part of a supervisor that a check needs: it starts, reaps and ends workers."""

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
        """The processes of the pools alone: others are not this one's to wait for."""
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
    """What a gateway tries that starts or reloads, and this does not."""
    targets = [(m.name, m.target) for m in config.mounts if isinstance(m.target, UpstreamTarget)]
    untried = {
        "not started (--start does), the commands behind": [
            name for name, target in targets if target.pool and not starts
        ],
        "not asked, the health of the servers behind": [
            name for name, target in targets if target.health and not target.pool
        ],
    }
    for what, names in untried.items():
        if names:
            print(f"{what}: {', '.join(names)}")
    try:
        check_users(config)
    except ConfigError as error:
        print("a gateway that this user starts would refuse:", *error.problems, sep="\n")


def print_unhealthy(config: Config) -> None:
    """The mounts that the running gateway of this table serves badly, if there is one."""
    try:
        control = find_control(config.server.control, Path(config.source))
        report = ask(control, "status", patience_seconds=STATUS_SECONDS)
    except GatewayError:
        return
    if lines := describe_troubles(report["mounts"]):
        print(f"the running gateway, pid {report['pid']}, reports:")
        print(hide_controls("\n".join(lines)))
