"""A process of a pool as its supervisor sees it: its states, the orders that it gets, what it
reports, and its end.

What runs in it is a worker (``worker``) or the command of a pool (``command``). Others read its
attributes, and change them by its methods only.
"""

import asyncio
import os
import random
import resource
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from gateway.config.model import Config
from gateway.inflight import InFlightReader
from gateway.states import Machine, State
from gateway.uncaught import report_own

Report = dict[str, Any]


class ProcessState(State):
    """The life of a process, whose table is ``PROCESS``."""

    LOADING = "loading", "imports its apps; a command: does not answer yet"
    TRYING = "trying", "imports a mount that has failed before, while others serve without it"
    LOADED = "loaded", "has imported them, and waits for the order to accept connections"
    READY = "ready", "accepts connections"
    PAUSED = "paused", "accepts no more and stays loaded: a rollback has it accept again"
    RETIRING = "retiring", "accepts no more, and ends with its last connection"
    DRAINING = "draining", "was asked to end, and finishes its requests in flight"
    DEAD = "dead", "has ended"


_S = ProcessState
PROCESS = Machine(
    "worker",
    _S.LOADING,
    {
        _S.LOADING: frozenset((_S.TRYING, _S.LOADED, _S.DRAINING, _S.DEAD)),
        _S.TRYING: frozenset((_S.LOADING, _S.DRAINING, _S.DEAD)),
        _S.LOADED: frozenset((_S.READY, _S.DRAINING, _S.DEAD)),
        _S.READY: frozenset((_S.PAUSED, _S.RETIRING, _S.DRAINING, _S.DEAD)),
        _S.PAUSED: frozenset((_S.LOADED, _S.RETIRING, _S.DRAINING, _S.DEAD)),
        _S.RETIRING: frozenset((_S.DRAINING, _S.DEAD)),
        _S.DRAINING: frozenset((_S.DEAD,)),
        _S.DEAD: frozenset(),
    },
)


class Cause(Enum):
    """Why a process has ended that should not have."""

    CRASH = "crash"
    MEMORY = "memory"
    BLOCKED = "blocked"


# signals that come of what the process itself has done
FATAL_SIGNALS = frozenset(
    -number
    for number in (
        *(signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV),
        *(signal.SIGSYS, signal.SIGTRAP),
    )
)
# for a worker to write its stack before it is killed
ABORT_SECONDS = 1.0
# a worker's event loop has its heartbeat once a second at least
NORMAL_SILENCE_SECONDS = 1.5
# a worker in one of these states will not serve again, or has yet to show that it may
LEAVING = frozenset(
    (ProcessState.RETIRING, ProcessState.DRAINING, ProcessState.DEAD, ProcessState.TRYING)
)


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a worker is started for: ``left_out`` are the mounts that it does not load, and why;
    ``trial`` is the one that it only tries, "" for a worker that is to serve."""

    left_out: Mapping[str, str]
    trial: str


class Process:
    """``on_report(process, report)`` is called with each report.

    How it ended: ``exit_code`` is as in ``subprocess``, negative for a signal and None while it
    lives. ``reason`` says why the supervisor ended it, "" where it did not. ``cause`` is None for
    an end by an order, or by somebody else.

    What it loads: ``loading`` is the mount that it is importing, "" for none, since
    ``loading_since`` (monotonic). ``left_out`` are the mounts that it does not try, with the reason
    of each, and ``lacks`` all that it has not loaded. ``trial`` is the one mount that it tries, ""
    for none, and ``may_serve`` whether it may serve after that. ``loaded_bytes`` is its memory
    when it had loaded.

    What it serves: ``config`` is what it is to serve, ``applied`` what it serves so far.
    ``accepts``: it may still accept connections. ``is_active``: its apps may do something beside
    requests, such as running a scheduler. ``address`` is where front workers connect to, "" for its
    pool's socket. ``in_flight`` has its requests. Its event loop has not turned for ``silent``
    seconds, ``excused`` of which are not its fault.

    As a replacement: ``is_spare`` while it is to take the place of another, and ``objection`` is
    why it must not. ``jitter`` multiplies its limit of requests.
    """

    _process: subprocess.Popen[bytes]

    def __init__(
        self, config: Config, slots: int, on_report: Callable[["Process", Report], None]
    ) -> None:
        self.state = PROCESS.first
        self.started = time.monotonic()
        self.exit_code: int | None = None
        self.loading = ""
        self.loading_since = 0.0
        self.left_out: Mapping[str, str] = {}
        self.lacks: frozenset[str] = frozenset()
        self.trial = ""
        self.may_serve = True
        self.accepts = False
        self.is_active = False
        self.address = ""
        self.config = self.applied = config
        self.reason = ""
        self.cause: Cause | None = None
        self.silent = self.excused = 0.0
        self.is_spare = False
        self.objection = ""
        self.loaded_bytes = 0
        self.jitter = random.uniform(0.9, 1.1)
        self.in_flight = InFlightReader(slots)
        self._on_report = on_report
        self._heartbeat = 0.0
        self._accepting = 0
        self._prepared = config
        self._questions: deque[asyncio.Future[list[Report]]] = deque()
        self._searches: deque[asyncio.Future[list[str]]] = deque()
        self._applying: deque[Config] = deque()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _enter(self, state: ProcessState) -> None:
        self.state = PROCESS.step(self.state, state, str(self.pid))

    # --- loading ------------------------------------------------------------------------------

    def assign(self, left_out: Mapping[str, str], *, is_spare: bool) -> None:
        """It was started with these mounts left out, to take the place of another or not."""
        self.left_out, self.is_spare = left_out, is_spare

    def begin_trial(self, mount: str, *, may_serve: bool) -> None:
        """It shows whether ``mount`` loads, which keeps no other worker waiting."""
        self._enter(ProcessState.TRYING)
        self.trial, self.may_serve = mount, may_serve

    def note_loading(self, mount: str) -> None:
        """It imports this mount from now on."""
        self.loading, self.loading_since = mount, time.monotonic()

    def note_loaded(self, failed: frozenset[str]) -> None:
        """It has imported all that it could, all but ``left_out`` and ``failed``. A trial that may
        serve goes on as any other worker if its mount has loaded."""
        self.loading, self.loaded_bytes = "", resident_bytes(self.pid)
        self.lacks = frozenset(self.left_out) | failed
        is_trying = self.state is ProcessState.TRYING  # else it was asked to end meanwhile
        if is_trying and self.may_serve and self.trial not in self.lacks:
            self._enter(ProcessState.LOADING)
            self.trial = ""

    def finish_loading(self) -> bool:
        """It may serve as soon as it accepts; whether it was loading until now."""
        is_loading = self.state is ProcessState.LOADING
        if is_loading:
            self._enter(ProcessState.LOADED)
        return is_loading

    def refuse(self, objection: str) -> None:
        """It must not serve, for this reason, "" for none."""
        self.objection = objection

    def join(self) -> None:
        """It has taken its place among those that serve."""
        self.is_spare = False

    # --- orders and reports -------------------------------------------------------------------

    def order(self, word: str, value: object = None) -> None:
        """Order it to ``accept``, ``pause``, ``retire``, ``prepare`` a configuration, ``apply``
        that, or ``find`` modules: it answers each with a report, in their order. Orders without an
        answer are ``quarantine``, ``put_off`` and ``reloaded``. One that has ended gets none."""
        raise NotImplementedError

    def receive(self, report: Report) -> None:
        """Handle a report of its own. Where that fails the process is ended, and replaced: its
        state is not known any more, and somebody may wait for it forever."""
        try:
            self._on_report(self, report)
        except Exception as error:  # noqa: BLE001  whatever it is
            report_own(f"worker {self.pid} is killed, since its report cannot be handled", error)
            self.kill()

    def prepare(self, config: Config) -> "asyncio.Future[list[Report]]":
        """Order it to make ready for ``config``, which needs no import. The result is a report of
        each mount for which that failed."""
        self._prepared = config
        self._questions.append(asyncio.get_running_loop().create_future())
        self.order("prepare", config)
        return self._questions[-1]

    def note_prepared(self, objections: list[Report]) -> None:
        """Its answer to ``prepare``."""
        self._questions.popleft().set_result(objections)

    def find_loaded(self, paths: list[str]) -> "asyncio.Future[list[str]]":
        """Ask it which of ``paths`` are of modules that it has loaded."""
        self._searches.append(asyncio.get_running_loop().create_future())
        self.order("find", paths)
        return self._searches[-1]

    def note_found(self, paths: list[str]) -> None:
        """Its answer to ``find_loaded``."""
        self._searches.popleft().set_result(paths)

    def apply(self, config: Config) -> None:
        """Order it to serve ``config``, which is sent along unless it has prepared that."""
        if self._prepared is not config:
            self.prepare(config)
        self._applying.append(config)
        self.order("apply")
        self.config = config

    def note_applied(self) -> None:
        """Its answer to ``apply``."""
        self.applied = self._applying.popleft()

    def expect(self, config: Config) -> None:
        """It is still loading, and will serve ``config`` once it has loaded. For a command, whose
        readiness checks may change by that."""

    def accept(self) -> None:
        """Order it to accept connections, for the first time or again; it answers that it is
        ready. One that does not answer in time is ended: a reload, or clients, would wait for it
        forever."""
        if self.state is ProcessState.PAUSED:
            self._enter(ProcessState.LOADED)
        self.order("accept")
        limits = self.config.server.limits
        seconds = limits.block_timeout_seconds or limits.start_timeout_seconds
        self._accepting += 1
        asyncio.get_running_loop().call_later(
            seconds, self._end_unresponsive, self._accepting, seconds
        )

    def _end_unresponsive(self, accepting: int, seconds: float) -> None:
        if self.state is ProcessState.LOADED and self._accepting == accepting:
            self.end(f"it did not accept within {seconds:g} s", Cause.BLOCKED, signal.SIGABRT)
            asyncio.get_running_loop().call_later(ABORT_SECONDS, self.kill)

    def note_ready(self) -> bool:
        """It answers that it accepts; False where it was ordered otherwise meanwhile."""
        is_ready = self.state is ProcessState.LOADED
        if is_ready:
            self._enter(ProcessState.READY)
            self.accepts = True
        return is_ready

    def note_paused(self) -> None:
        """It answers that it accepts no more."""
        self.accepts = False

    def activate(self) -> None:
        """Let its apps begin what they do beside requests; a command decides by itself."""

    def note_settled(self) -> None:
        """Its apps do nothing beside requests any more."""
        self.is_active = False

    # --- ending -------------------------------------------------------------------------------

    def pause(self, *, hands_over: bool) -> None:
        """Order it to accept no more and to stay loaded, and to hand its idle connections over to
        those that accept if ``hands_over``. One that has not loaded ends instead."""
        if self.state is ProcessState.READY:
            self._enter(ProcessState.PAUSED)
            self.order("pause", hands_over)
        elif self.state is not ProcessState.RETIRING:
            self.terminate()

    def retire(self) -> None:
        """Order it to accept no more and to end with its last connection."""
        if self.state in (ProcessState.READY, ProcessState.PAUSED):
            self._enter(ProcessState.RETIRING)
            self.order("retire")
        elif self.state is not ProcessState.RETIRING:
            self.terminate()

    def terminate(self) -> None:
        """Ask it to finish its requests and end."""
        if self.exit_code is None:
            self._enter(ProcessState.DRAINING)
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, without a reason to be reported."""
        if self.exit_code is None:
            os.kill(self.pid, signal.SIGKILL)

    def quarantine(self, ends: dict[str, float]) -> None:
        """Order it to answer 503 for these mounts, and no others, each until a monotonic moment."""
        self.order("quarantine", ends)

    def put_off(self, pauses: dict[str, tuple[str, float]]) -> None:
        """Order it to tell clients when to retry: for each mount that has not loaded why, and the
        monotonic moment of the next try."""
        self.order("put_off", pauses)

    def end(self, reason: str, cause: Cause, signal_number: int = signal.SIGKILL) -> None:
        """End it at once, for a reason that is reported with its end."""
        if self.exit_code is None:
            self.reason, self.cause = reason, cause
            os.kill(self.pid, signal_number)

    def describe_end(self) -> str:
        """How it ended, and why, as text for a log entry."""
        ended, reason = describe_exit(self.exit_code), self.reason
        if not reason and self.cause is Cause.MEMORY:
            reason = "the kernel's OOM killer killed it: memory had run out"
        return f"{ended} ({reason})" if reason else ended

    @property
    def last_output(self) -> str:
        """What else explains why it does not load, to be appended to a message; "" for nothing."""
        return ""

    @property
    def reason_to_fail(self) -> str:
        """Why it does not load, or has ended. Where the next one fails for the same reason, the
        text is the same but for numbers."""
        return self.objection or self.describe_end()

    def forward_output(self) -> None:
        """Log what it writes from now on: it serves, unlike those before it, whose output was
        held back. For a command."""

    def note_silence(self, elapsed: float) -> None:
        """Note whether its event loop has turned since the last call, ``elapsed`` seconds ago."""
        heartbeat = self.in_flight.counts().heartbeat
        if heartbeat == self._heartbeat > 0:
            self.silent += elapsed
        else:
            self.silent = self.excused = 0.0
        self._heartbeat = heartbeat

    def excuse_silence(self) -> None:
        """Its silence until now is not its fault: it was stopped by a person."""
        self.excused = self.silent

    def clear_up(self) -> None:
        """End what it has left behind. It has ended, and is not reaped yet, so that its pid, which
        may be its process group's id, cannot be another's."""

    def note_exit(self, wait_status: int, *, is_out_of_memory: bool = False) -> None:
        """It was reaped, with ``wait_status`` as of waitpid: its pid may be another's from now on.
        ``is_out_of_memory``: the kernel has killed for lack of memory a moment ago."""
        code = self.exit_code = self._process.returncode = os.waitstatus_to_exitcode(wait_status)
        if self.cause is not None:
            return
        if code == -signal.SIGKILL and is_out_of_memory:
            self.cause = Cause.MEMORY
        elif self.state is not ProcessState.DRAINING and (code >= 0 or code in FATAL_SIGNALS):
            self.cause = Cause.CRASH

    async def finish(self) -> None:
        """Read what it had sent before its end, and release its resources."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """The process for ``gateway status``; durations in seconds, memory in bytes."""
        return {
            "pid": self.pid,
            "state": self.state.value,
            "age": round(time.monotonic() - self.started, 3),
            "requests": self.in_flight.counts().requests,
            "in_flight": self.in_flight.count(),
            "silent": round(self.silent, 2) if self.silent > NORMAL_SILENCE_SECONDS else 0,
            "dropped": self.in_flight.counts().dropped,
            "memory": resident_bytes(self.pid),
            "loading": self.loading,
        }


def read_stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from ``state`` on: the name before it may be any bytes. Raises
    OSError. Source: proc_pid_stat(5)."""
    text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    return text.rpartition(")")[2].split()


def resident_bytes(pid: int) -> int:
    """The resident memory of a process, in bytes; 0 if it has ended. Source: proc_pid_statm(5)."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * resource.getpagesize()


def describe_exit(exit_code: int | None) -> str:
    """How a process ended, as text; ``exit_code`` as in ``subprocess``."""
    if exit_code is None or exit_code >= 0:
        return f"exited with {exit_code}"
    try:
        return f"was killed by {signal.Signals(-exit_code).name}"
    except ValueError:  # the real-time signals have numbers only
        return f"was killed by signal {-exit_code}"
