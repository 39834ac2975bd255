"""The supervisor: keeps the workers running and ends them in order. Process 1 of a container.

Never imports an app; does not know what a request is.
"""

import asyncio
import os
import signal
import time
from typing import Any

from gateway.config.model import Config
from gateway.logs import lifecycle
from gateway.supervisor.admin import AdminServer
from gateway.supervisor.children import Child, ChildState, Report, describe_exit
from gateway.supervisor.sockets import describe, open_listener, raise_descriptor_limit

# a worker that dies young is started again after 0.1 s, 0.2 s, 0.4 s ... but no later than this
MAX_BACKOFF_SECONDS = 10.0
FIRST_BACKOFF_SECONDS = 0.1
# a worker that lived this long did not die of its start
YOUNG_SECONDS = 5.0
# beyond drain_timeout, for a worker that is wedged
KILL_GRACE_SECONDS = 2.0


class Supervisor:
    """Runs ``config`` until SIGTERM or SIGINT."""

    def __init__(self, config: Config, style: str) -> None:
        self._config = config
        self._style = style
        self._children: dict[int, Child] = {}
        self._is_stopping = False
        self._was_ready = False
        self._young_deaths = 0
        self._reported: set[tuple[str, str]] = set()
        self._began = time.monotonic()

    def run(self) -> int:
        """Serve until told to stop; the exit code. Raises ConfigError where a port is taken."""
        raise_descriptor_limit()
        server = self._config.server
        self._listener = open_listener(server.listen, "server.listen")
        with self._listener, open_listener(server.admin, "server.admin") as admin_listener:
            self._admin = AdminServer(admin_listener, self.status)
            return asyncio.run(self._run())

    def status(self) -> tuple[bool, dict[str, Any]]:
        """Whether requests are served, and what /readyz says. Called from the admin's threads."""
        children = list(self._children.values())
        ready = sum(child.state is ChildState.READY for child in children)
        is_ready = ready > 0 and not self._is_stopping
        state = "draining" if self._is_stopping else "ready" if is_ready else "starting"
        return is_ready, {"status": state, "workers": len(children), "ready": ready}

    async def _run(self) -> int:
        self._stop = asyncio.Event()
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        loop.add_signal_handler(signal.SIGTERM, self._on_stop_signal)
        loop.add_signal_handler(signal.SIGINT, self._on_stop_signal)
        self._admin.start()
        lifecycle.info(
            "listening on %s; workers: %d; mounts: %d, from %s",
            describe(self._listener),
            self._config.server.workers,
            len(self._config.mounts),
            self._config.source,
        )
        for _ in range(self._config.server.workers):
            self._spawn()
        await self._stop.wait()
        return await self._drain()

    def _spawn(self) -> None:
        child = Child(self._config, self._style, self._listener, self._on_report)
        self._children[child.pid] = child

    def _on_report(self, child: Child, report: Report) -> None:
        if report["event"] == "ready":
            if child.state is ChildState.LOADING:
                child.state = ChildState.READY
            self._report_mounts(report["mounts"])
            children = self._children.values()
            if not self._was_ready and all(c.state is ChildState.READY for c in children):
                self._was_ready = True
                lifecycle.info("ready after %.2f s", time.monotonic() - self._began)
        elif report["event"] == "drained" and report["cut"]:
            lifecycle.warning("worker %d cut requests: %d", child.pid, report["cut"])

    def _report_mounts(self, mounts: list[dict[str, str]]) -> None:
        """Log each mount that did not load, once and not for every worker."""
        where = {mount.name: mount.where for mount in self._config.mounts}
        for failed in mounts:
            name, error = failed["mount"], failed["error"]
            if (name, error) in self._reported:
                continue
            self._reported.add((name, error))
            place = f"{self._config.source}:{where[name].line}:{where[name].column}"
            cause = f"\n{failed['traceback']}" if failed["traceback"] else ""
            lifecycle.error(
                "%s: mounts.%s: %s; it answers 503, the others serve%s",
                *(place, name, error, cause),
                extra={"mount": name},
            )

    def _reap(self) -> None:
        """All that ended: workers, and orphans that an app left to process 1."""
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            child = self._children.get(pid)
            if child is not None:
                self._start_task(self._bury(child, wait_status))

    def _start_task(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bury(self, child: Child, wait_status: int) -> None:
        was = child.state
        await child.reaped(wait_status)
        del self._children[child.pid]
        async with self._changed:
            self._changed.notify_all()
        if self._is_stopping:
            return
        lived = time.monotonic() - child.started
        self._young_deaths = 0 if lived > YOUNG_SECONDS else self._young_deaths + 1
        delay = backoff_seconds(self._young_deaths)
        lifecycle.error(
            "worker %d (%s) %s after %.1f s; a new one starts %s",
            *(child.pid, was.value, describe_exit(child.exit_code), lived),
            f"in {delay:g} s" if delay else "now",
        )
        await asyncio.sleep(delay)
        if not self._is_stopping:
            self._spawn()

    def _on_stop_signal(self) -> None:
        if self._is_stopping:
            lifecycle.warning("second signal: ending at once")
            for child in self._children.values():
                child.kill()
        self._is_stopping = True
        self._stop.set()

    async def _drain(self) -> int:
        timeout = self._config.server.limits.drain_timeout_seconds
        lifecycle.info("stopping: requests in flight have up to %g s", timeout)
        for child in self._children.values():
            child.terminate()
        try:
            async with self._changed, asyncio.timeout(timeout + KILL_GRACE_SECONDS):
                await self._changed.wait_for(lambda: not self._children)
        except TimeoutError:
            for child in self._children.values():
                lifecycle.error("worker %d did not end; killed", child.pid)
                child.kill()
            async with self._changed:
                await self._changed.wait_for(lambda: not self._children)
        lifecycle.info("stopped")
        return 0


def backoff_seconds(young_deaths: int) -> float:
    """How long to wait after so many deaths in a row; the first of an old worker costs nothing."""
    if not young_deaths:
        return 0.0
    # the exponent is bounded: a worker may die young for days
    return float(min(FIRST_BACKOFF_SECONDS * 2 ** min(young_deaths - 1, 16), MAX_BACKOFF_SECONDS))
