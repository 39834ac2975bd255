"""The supervisor: owns the sockets and the pools, handles signals and commands, reaps processes,
and ends everything in order. It may be process 1 of a container.

Never imports an app; does not know what a request is.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from gateway.config.compare.plan import build_plan
from gateway.config.load import read_aside
from gateway.config.model import MAIN, Config
from gateway.debugger import Terminal
from gateway.errors import ConfigError
from gateway.file_tasks import naming
from gateway.logs import builds, forwarding, lifecycle
from gateway.supervisor.generations.exits import handle_exit
from gateway.supervisor.generations.failures import describe_mounts
from gateway.supervisor.generations.generation import KILL_GRACE_SECONDS, Generation
from gateway.supervisor.listeners.admin import AdminServer
from gateway.supervisor.listeners.control import Answer, Notify, Question, serve_control
from gateway.supervisor.listeners.socket_paths import make_control, making_folder
from gateway.supervisor.listeners.sockets import (
    describe,
    open_control,
    open_listener,
    raise_descriptor_limit,
    removing,
)
from gateway.supervisor.pools.pools import Pools
from gateway.supervisor.processes.launch import check_users
from gateway.supervisor.processes.process import Process, ProcessState
from gateway.supervisor.progress import describe_leaving, show_loading
from gateway.supervisor.reload import EDIT, Outcome, Reloader, check_fixed
from gateway.supervisor.tasks import guarded, keep_up, run_in, start
from gateway.supervisor.warnings import find_warnings
from gateway.supervisor.watching.code import watch_code
from gateway.supervisor.watching.files import Mark, look, look_in_thread, watch_file, watch_files
from gateway.uncaught import report_asyncio

# beyond the time for requests in flight: the front, and then the pools, may have to be killed
GIVE_UP_SECONDS = 4 * KILL_GRACE_SECONDS


RESTARTED = (
    "the container ends with the gateway, and is started again if it has a restart policy, as in "
    'docker-compose.yml: "docker compose stop gateway" stops it for good'
)
# of process 1 in a container: `docker run --init`, and what images put before their program
INITS = {"catatonit", "docker-init", "dumb-init", "tini"}


class Supervisor:
    """Serves ``config`` until SIGTERM or SIGINT; a reload reads its file by ``read``.
    ``count_dropped`` gives how many lines of this process's log were dropped."""

    def __init__(
        self,
        config: Config,
        read: Callable[[Path], Config],
        count_dropped: Callable[[], int] = int,
    ) -> None:
        self._count_dropped = count_dropped
        self._dropped = 0  # by workers that have ended
        self._config = config
        self._is_stopping = False
        self._read_table = read
        self._seen: Mark | None = None
        self._warned: set[str] = set()
        self._terminal = Terminal() if config.is_dev else None

    def run(self) -> int:
        """Serve until it is stopped; the exit code. Raises ConfigError if a port is taken, or this
        process may not start workers as the table asks."""
        check_users(self._config)
        raise_descriptor_limit()
        server = self._config.server
        control = make_control(server.control, self._config.source)
        self._listener = open_listener(server.listen, "server.listen")
        with (
            removing(self._listener),
            removing(open_listener(server.admin, "server.admin")) as admin_listener,
            removing(open_control(control)) as self._control_listener,
            making_folder(control) as folder,
        ):
            self._pools = Pools(self._listener, folder, self._start_task)
            self._reloader = Reloader(self._pools, self._read, self._read_saved)
            return asyncio.run(self._run(admin_listener))

    def status(self) -> tuple[bool, dict[str, Any]]:
        """Whether the gateway is ready, and the object for /readyz. ``failed`` counts mounts that
        answer 503: the gateway is ready all the same, since the others serve."""
        processes = [c for g in self._pools.generations for c in g.processes.values()]
        ready = [process for process in processes if process.state is ProcessState.READY]
        # a front worker is needed; requests for a pool without workers wait, or are answered 503
        is_ready = any(c.config.pool.name == MAIN for c in ready) and not self._is_stopping
        state = "draining" if self._is_stopping else "ready" if is_ready else "starting"
        failed = sum(not report.get("is_loaded") for report in self._pools.failed.values())
        return is_ready, {
            "status": state,
            "workers": len(processes),
            "ready": len(ready),
            "failed": failed,
        }

    def report(self) -> dict[str, Any]:
        """The object for ``gateway status`` and /status."""
        config, main = self._pools.config, self._pools.main.current
        generations = [generation.describe() for generation in self._pools.generations]
        last = self._reloader.last
        return {
            **self.status()[1],
            "pid": os.getpid(),
            "table": config.source,
            "generation": main.id if main else "",
            "generations": generations,
            "dropped": self._dropped + self._count_dropped(),
            "mounts": describe_mounts(
                config, self._pools.current, self._pools.failed, self._pools.quarantines.describe
            ),
            "last_reload": last.describe() if last else None,
        }

    # --- running ------------------------------------------------------------------------------

    async def _run(self, admin_listener: socket.socket) -> int:
        self._stop, self._second = asyncio.Event(), asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        loop = asyncio.get_running_loop()
        report_asyncio(loop)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        loop.add_signal_handler(signal.SIGTERM, self._on_stop_signal)
        loop.add_signal_handler(signal.SIGINT, self._on_stop_signal)
        self._has_terminal = os.isatty(2)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        lifecycle.info(
            "listening on %s; workers: %d; mounts: %d, from %s",
            describe(self._listener),
            self._config.server.workers,
            len(self._config.mounts),
            self._config.source,
        )
        with contextlib.suppress(ConfigError):  # a start that fails is reported there
            self._warn(await read_aside(partial(find_warnings, self._config)))
        self._pools.serve(self._config)
        # called by the admin listener's thread, and run in this one's event loop
        shown = (run_in(loop, self.status), run_in(loop, self.report))
        admin = AdminServer(admin_listener, *shown, run_in(loop, self._find_hosts))
        admin.start()
        commands = {
            "status": self._on_status,
            "reload": self._on_reload,
            "rollback": self._on_rollback,
            "plan": self._on_plan,
            "stop": self._on_stop,
        }
        control = await serve_control(self._control_listener, commands)
        self._start_task(keep_up(self._watch_table))
        self._start_task(keep_up(self._watch_files))
        if self._config.is_dev:
            self._start_task(keep_up(self._watch_code))
        await self._stop.wait()
        await self._drain()
        control.close()
        admin.stop()
        return 0

    def _find_hosts(self) -> set[str | None]:
        """The host names of this machine in the table."""
        config = self._pools.config
        host, _, _ = config.server.admin.rpartition(":")
        return {host, *(mount.host for mount in config.mounts)}

    def _start_task(self, work: Coroutine[Any, Any, Any]) -> None:
        task = start(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch_table(self) -> None:
        await watch_file(self._config.source, self._on_edit)

    async def _watch_files(self) -> None:
        await watch_files(lambda: self._pools.config.files, self._on_file)

    async def _watch_code(self) -> None:
        await watch_code(lambda: self._pools.config, self._on_code)

    def _reap(self) -> None:
        """Reap all processes that have ended: workers, and orphans if this is process 1."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            pid = ended.si_pid
            known = [(g, g.processes[pid]) for g in self._pools.generations if pid in g.processes]
            for _, process in known:
                with guarded(f"the processes that worker {pid} has started"):
                    process.clear_up()
            try:
                _, wait_status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue  # reaped by the thread that had started it
            if not known:
                with guarded("the group killer"):
                    self._pools.groups.note_reaped(pid)
            for generation, process in known:
                self._note_exit(generation, process, wait_status)

    def _note_exit(self, generation: Generation, process: Process, wait_status: int) -> None:
        with guarded(f"the exit of worker {process.pid}"):
            self._pools.note_exit(generation, process, wait_status)
            self._dropped += process.in_flight.counts().dropped
            if self._terminal is not None and os.WIFSIGNALED(wait_status):
                self._terminal.restore()
        self._start_task(handle_exit(generation, process, is_stopping=self._is_stopping))

    # --- reloads ------------------------------------------------------------------------------

    async def _read(self) -> Config:
        source = self._config.source
        seen: list[Mark | None] = []  # a thread that was given up may continue later

        def read() -> tuple[Config, list[str]]:
            seen.append(naming(source, partial(look, source))())
            config = self._read_table(Path(source))
            return config, find_warnings(config)

        try:
            config, warnings = await read_aside(read)
        finally:
            self._seen = seen[0] if seen else self._seen
        self._warn(warnings)
        return config

    def _warn(self, warnings: list[str]) -> None:
        """Log each warning about a table once."""
        for warning in warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                lifecycle.warning("%s", warning)

    async def _read_saved(self) -> Config:
        return await read_aside(partial(self._read_table, Path(self._config.source)))

    async def _on_edit(self, saved: float) -> None:
        found = await look_in_thread(self._config.source)
        is_new = found != self._seen  # else `gateway reload` has read it already
        if is_new and self._pools.config.server.reload_on_edit and not self._is_stopping:
            await self._reloader.reload(EDIT, saved)

    async def _on_file(self) -> None:
        """A secret or an ``env_file`` was saved: the table may mean something else now."""
        if self._pools.config.server.reload_on_edit and not self._is_stopping:
            await self._reloader.reload(EDIT)

    async def _on_code(self, paths: list[Path]) -> None:
        stale = await self._pools.find_stale(paths)
        if stale and not self._is_stopping:
            name = paths[0].relative_to(self._pools.config.directory)
            await self._reloader.reload(f"edit of {name}", stale=stale)

    # --- the control socket -------------------------------------------------------------------

    async def _on_status(self, _: Question, __: Notify) -> Answer:
        return self.report()

    async def _on_reload(self, question: Question, notify: Notify) -> Answer:
        names = question.get("names") or []
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            return {"exit_code": 2, "messages": ["names: expected a list of mounts or pools"]}
        if names:
            return await self._show(
                notify, self._reloader.renew(f"reload of {' '.join(names)}", names)
            )
        return await self._show(notify, self._reloader.reload("gateway reload"))

    async def _on_rollback(self, _: Question, notify: Notify) -> Answer:
        return await self._show(notify, self._reloader.rollback("rollback"))

    async def _show(self, notify: Notify, work: Coroutine[Any, Any, Outcome]) -> Answer:
        """The outcome of ``work``; meanwhile report what is being loaded, and then how long open
        requests have."""
        before = {generation.id for generation in self._pools.generations}
        showing = start(show_loading(self._pools, notify))
        try:
            with forwarding(builds, notify):
                outcome = await work
        finally:
            showing.cancel()
        if note := describe_leaving(self._pools, before):
            notify(note)
        return outcome.describe()

    async def _on_plan(self, question: Question, _: Notify) -> Answer:
        running = self._pools.config
        path = Path(str(question.get("file") or running.source))
        try:
            wanted = await read_aside(partial(self._read_table, path))
            check_fixed(running, wanted)
            plan = await asyncio.to_thread(build_plan, running, wanted)
        except ConfigError as error:
            return {"exit_code": 2, "messages": error.problems}
        return {"exit_code": 10 if plan else 0, "messages": plan.describe()}

    async def _on_stop(self, _: Question, notify: Notify) -> Answer:
        if leads_container():
            notify(RESTARTED)
        if not self._is_stopping:
            self._on_stop_signal()
        await asyncio.Event().wait()  # the end of the process is the answer
        return {}

    # --- stopping -----------------------------------------------------------------------------

    def _on_hangup(self) -> None:
        """Reload; but stop if it was sent because the terminal is gone."""
        if self._has_terminal and not os.isatty(2):
            if not self._is_stopping:
                self._on_stop_signal()
        else:
            self._start_task(self._reloader.reload("SIGHUP"))

    def _on_stop_signal(self) -> None:
        if self._is_stopping:
            self._second.set()
            lifecycle.warning("second signal: ending at once")
            self._pools.kill()
        self._is_stopping = True
        self._pools.note_stopping()
        self._stop.set()

    async def _drain(self) -> None:
        limits = self._pools.config.server.limits
        if limits.drain_delay_seconds:
            lifecycle.info("stopping in %g s (server.drain_delay)", limits.drain_delay_seconds)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._second.wait(), limits.drain_delay_seconds)
        timeout = limits.drain_timeout_seconds
        lifecycle.info("stopping: requests in flight have up to %g s", timeout)
        try:
            async with asyncio.timeout(timeout + GIVE_UP_SECONDS):
                await self._pools.stop(timeout)
        except TimeoutError:  # they wait for a disk, or belong to another user
            left = [c.pid for g in self._pools.generations for c in g.processes.values()]
            lifecycle.error("processes that cannot be ended are left: %s", str(left)[1:-1])
        for task in tuple(self._tasks):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)
        lifecycle.info("stopped")


def leads_container() -> bool:
    """A container ends with this process: it is process 1, or the child of an init that only
    forwards signals."""
    if os.getpid() == 1:
        return True
    try:
        return os.getppid() == 1 and Path("/proc/1/comm").read_text().strip() in INITS
    except OSError:
        return False
