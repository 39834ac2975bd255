"""A process of a pool as its supervisor sees it: the states that it goes through, what it is told,
and its end.

Refuses to know what runs in it: a worker (``children``), or a server of another make (``command``).
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
from gateway.uncaught import report_own

Report = dict[str, Any]


class ChildState(Enum):
    """A worker's life, in order. One that stops at once goes from READY to DRAINING, and PAUSED may
    become READY again. One that only tries whether a mount loads is TRYING until it drains."""

    TRYING = "trying"
    LOADING = "loading"
    LOADED = "loaded"
    READY = "ready"
    PAUSED = "paused"
    RETIRING = "retiring"
    DRAINING = "draining"
    DEAD = "dead"


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
# what a worker has to write its stack, before it is killed
ABORT_SECONDS = 1.0
# a loop tells of itself once a second at least
NORMAL_SILENCE_SECONDS = 1.5
# a worker that is in one of these is not to come back, or never to serve
LEAVING = frozenset((ChildState.RETIRING, ChildState.DRAINING, ChildState.DEAD, ChildState.TRYING))


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a worker is started for: ``left_out`` are the mounts that it does not load, and why;
    ``trial`` is the one that it only tries, "" for a worker that is to serve."""

    left_out: Mapping[str, str]
    trial: str


class Process:
    """``on_report(process, report)`` is called with each object that it reports.

    ``exit_code`` is negative for a signal, as in ``subprocess``; None while it lives. ``reason`` is
    why the supervisor has ended it. ``cause`` is known once it has ended by no order: None also
    for one that somebody else has ended. ``loading`` is the mount that it loads now, "" for none;
    ``loaded_bytes`` the memory that it took with all of them loaded. ``accepts``: whether it may
    still take connections, ``is_active`` whether its apps may do something beside requests, such as
    running a scheduler: no longer once it has ``settled``. ``address`` is where the front workers
    are to ask it, "" where that is
    its pool's socket.

    ``loading_since`` is the moment at which it began with ``loading``. ``lacks`` are the mounts
    that it has not loaded, of which it was to leave out ``left_out``; ``trial`` is the one that it
    tries, "" for none, and ``may_serve`` whether it is then to serve.

    In place: ``config`` is what it is to serve, and ``applied`` what it serves.

    ``in_flight`` tells what it is doing, and ``silent`` for how many seconds its loop has not
    turned, ``excused`` of which are not its fault. ``is_spare``: whether it is to take the place of
    another, which ``objection`` forbids; ``jitter`` multiplies its limit of requests.
    """

    _process: subprocess.Popen[bytes]

    def __init__(
        self, config: Config, slots: int, on_report: Callable[["Process", Report], None]
    ) -> None:
        self.state = ChildState.LOADING
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

    def order(self, word: str, value: object = None) -> None:
        """Tell it to ``accept``, ``pause``, ``retire``, ``prepare`` a configuration, ``apply``
        that, or ``find`` modules. It answers each, in their order, with a report; one that has
        ended does not hear. Or to ``quarantine`` mounts, or that some are ``put_off``, which it
        does not answer."""
        raise NotImplementedError

    def hear(self, report: Report) -> None:
        """It reports this. Where that cannot be dealt with, what it is doing is not known any more,
        and somebody may wait for it for ever: another one takes its place."""
        try:
            self._on_report(self, report)
        except Exception as error:  # noqa: BLE001  whatever it is
            report_own(f"worker {self.pid} is ended, since its report cannot be dealt with", error)
            self.kill()

    def prepare(self, config: Config) -> "asyncio.Future[list[Report]]":
        """Have it make ready for ``config``, which needs no import. The result is a report of each
        mount that this failed for."""
        self._prepared = config
        self._questions.append(asyncio.get_running_loop().create_future())
        self.order("prepare", config)
        return self._questions[-1]

    def note_prepared(self, objections: list[Report]) -> None:
        """Its answer to ``prepare``."""
        self._questions.popleft().set_result(objections)

    def find_loaded(self, paths: list[str]) -> "asyncio.Future[list[str]]":
        """Have it say which of ``paths`` are of modules that it has loaded."""
        self._searches.append(asyncio.get_running_loop().create_future())
        self.order("find", paths)
        return self._searches[-1]

    def note_found(self, paths: list[str]) -> None:
        """Its answer to ``find_loaded``."""
        self._searches.popleft().set_result(paths)

    def apply(self, config: Config) -> None:
        """Have it serve ``config``, which it has prepared or is told of now."""
        if self._prepared is not config:
            self.prepare(config)
        self._applying.append(config)
        self.order("apply")
        self.config = config

    def note_applied(self) -> None:
        """Its answer to ``apply``."""
        self.applied = self._applying.popleft()

    def expect(self, config: Config) -> None:
        """It is still loading, and is to serve this as soon as it has loaded."""

    def accept(self) -> None:
        """Have it accept, for the first time or again; it answers that it is ready. One that does
        not is ended: a reload, or clients, would wait for it for ever."""
        if self.state is ChildState.PAUSED:
            self.state = ChildState.LOADED
        self.order("accept")
        limits = self.config.server.limits
        seconds = limits.block_timeout_seconds or limits.start_timeout_seconds
        self._accepting += 1
        asyncio.get_running_loop().call_later(seconds, self._end_deaf, self._accepting, seconds)

    def _end_deaf(self, accepting: int, seconds: float) -> None:
        if self.state is ChildState.LOADED and self._accepting == accepting:
            self.end(f"it did not accept within {seconds:g} s", Cause.BLOCKED, signal.SIGABRT)
            asyncio.get_running_loop().call_later(ABORT_SECONDS, self.kill)

    def activate(self) -> None:
        """Have its apps begin what they do beside requests; a server of another make decides by
        itself."""

    def pause(self, *, hands_over: bool) -> None:
        """Have it accept no more and stay loaded, and give its idle connections to those that
        accept where it ``hands_over``; one that has not loaded is not worth keeping."""
        if self.state is ChildState.READY:
            self.state = ChildState.PAUSED
            self.order("pause", hands_over)
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

    def quarantine(self, ends: dict[str, float]) -> None:
        """Have it answer 503 for these mounts alone, until a monotonic moment each."""
        self.order("quarantine", ends)

    def put_off(self, pauses: dict[str, tuple[str, float]]) -> None:
        """Tell it why mounts have not loaded, and until when, as a monotonic moment each, they are
        not tried again."""
        self.order("put_off", pauses)

    def end(self, reason: str, cause: Cause, signal_number: int = signal.SIGKILL) -> None:
        """End it at once, for a reason that whoever asks after it is told."""
        if self.exit_code is None:
            self.reason, self.cause = reason, cause
            os.kill(self.pid, signal_number)

    def describe_end(self) -> str:
        """How it ended, and why, for a person."""
        ended, reason = describe_exit(self.exit_code), self.reason
        if not reason and self.cause is Cause.MEMORY:
            reason = "the kernel's OOM killer killed it: memory had run out"
        return f"{ended} ({reason})" if reason else ended

    @property
    def last_words(self) -> str:
        """What else is known of why it does not load; "" for nothing."""
        return ""

    @property
    def reason_to_fail(self) -> str:
        """Why it does not load, or has ended: the same text, but for numbers, where the next one
        fails alike."""
        return self.objection or self.describe_end()

    def speak(self) -> None:
        """What it writes is of interest from now on, though others have failed before it."""

    def note_silence(self, elapsed: float) -> None:
        """Look whether its loop has turned since the last look, ``elapsed`` seconds ago."""
        heartbeat = self.in_flight.counts().heartbeat
        if heartbeat == self._heartbeat > 0:
            self.silent += elapsed
        else:
            self.silent = self.excused = 0.0
        self._heartbeat = heartbeat

    def clear_up(self) -> None:
        """It has ended, and is about to be reaped: its pid is still its own, and its group's."""

    def note_end(self, wait_status: int, *, is_out_of_memory: bool = False) -> None:
        """It was reaped: its pid may be another's from now on. ``wait_status`` as waitpid's;
        ``is_out_of_memory`` tells whether the kernel kills for memory just now."""
        code = self.exit_code = self._process.returncode = os.waitstatus_to_exitcode(wait_status)
        if self.cause is not None:
            return
        if code == -signal.SIGKILL and is_out_of_memory:
            self.cause = Cause.MEMORY
        elif self.state is not ChildState.DRAINING and (code >= 0 or code in FATAL_SIGNALS):
            self.cause = Cause.CRASH

    async def finish(self) -> None:
        """Read what it had still sent, and let go of it."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """The process for ``gateway status``; seconds and bytes."""
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
    """What /proc has of a process behind its name, which may be any bytes. Raises OSError. Source:
    proc_pid_stat(5)."""
    text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    return text.rpartition(")")[2].split()


def resident_bytes(pid: int) -> int:
    """The memory that a process occupies; 0 where it has ended. Source: proc_pid_statm(5)."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * resource.getpagesize()


def describe_exit(exit_code: int | None) -> str:
    """How a process ended, for a person; ``exit_code`` as in ``subprocess``."""
    if exit_code is None or exit_code >= 0:
        return f"exited with {exit_code}"
    try:
        return f"was ended by {signal.Signals(-exit_code).name}"
    except ValueError:  # the real-time signals have numbers only
        return f"was ended by signal {-exit_code}"
