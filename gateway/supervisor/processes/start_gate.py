"""The gate for starts: as many processes load their apps, or build environments, at a time as there
are cores, the most urgent first.

Knows processes by their ids alone. Source: proc_pid_stat(5), proc_tid_children(5).
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import count
from pathlib import Path

from gateway.config.values.processes import usable_cores
from gateway.supervisor.processes.process import read_stat
from gateway.supervisor.tasks import keep_up, start

GATE_LOOK_SECONDS = 0.1
# A process that does not use the processor for this long waits for something else (a database, a
# lock, a download), and is not counted until it goes on.
IDLE_SECONDS = 0.5
IDLE_SHARE = 0.1
# so that an import that never ends does not hold up all others on a single core
MIN_LOADS = 2
# of later waiters; then it is this one's turn, unless it is a build: pools that are woken again and
# again must not hold up a reload
MAX_OVERTAKEN = 8
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Urgency(IntEnum):
    """The most urgent first: clients wait for it; it serves nobody yet; a build, which may take
    minutes. Loads that are less urgent are not counted, and so never waited for."""

    AWAITED = 0
    START = 1
    BUILD = 2


@dataclass(eq=False, slots=True)
class Load:
    """A process that may load or build now. ``pid`` is 0 until it has been started; ``is_over`` is
    true once it has loaded or ended."""

    urgency: Urgency
    pid: int = 0
    is_over: Callable[[], bool] = lambda: False
    is_idle: bool = False
    _looked: float = field(default_factory=time.monotonic)
    _ticks: int = 0

    def note_started(self, pid: int, is_over: Callable[[], bool] | None = None) -> None:
        """The process has started; ``is_over`` as above, None if ``StartGate.leave`` is called for
        it."""
        self.pid, self.is_over = pid, is_over or self.is_over

    def note_activity(self) -> None:
        """Note whether the process has used the processor since the last measurement."""
        now = time.monotonic()
        if not self.pid or now - self._looked < IDLE_SECONDS:
            return
        ticks, is_running = measure(self.pid)
        used = (ticks - self._ticks) / TICKS_PER_SECOND / (now - self._looked)
        # a process that could run and waits for a core is not idle
        self.is_idle = used < IDLE_SHARE and not is_running
        self._looked, self._ticks = now, ticks


@dataclass(eq=False, slots=True)
class _Waiter:
    find_urgency: Callable[[], Urgency]
    rank: int
    number: int
    admitted: "asyncio.Future[Load]"
    overtaken: int = 0

    def weigh(self) -> tuple[Urgency, int, int]:
        if self.overtaken >= MAX_OVERTAKEN:
            return Urgency.AWAITED, -1, self.number
        return self.find_urgency(), self.rank, self.number

    def note_turn_of(self, other: "_Waiter") -> None:
        if self.number < other.number and self.find_urgency() is not Urgency.BUILD:
            self.overtaken += 1


class StartGate:
    """Admits ``limit`` loads at a time, of the same urgency or more urgent ones; 0: one a core."""

    def __init__(self, limit: int = 0) -> None:
        self._limit = limit or max(MIN_LOADS, usable_cores())
        self._loads: list[Load] = []
        self._waiting: list[_Waiter] = []
        self._numbers = count()
        self._looking: asyncio.Task[None] | None = None

    async def enter(self, find_urgency: Callable[[], Urgency], rank: int = 0) -> Load:
        """Wait until one more may load. The urgency may change meanwhile; among equals the lowest
        ``rank`` is first, then the one that came first. The caller calls ``leave`` with the load,
        unless it gives it an ``is_over``."""
        future = asyncio.get_running_loop().create_future()
        waiter = _Waiter(find_urgency, rank, next(self._numbers), future)
        self._waiting.append(waiter)
        self.look()
        if self._waiting and (self._looking is None or self._looking.done()):
            self._looking = start(keep_up(self._look_on))
        try:
            return await waiter.admitted
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif not future.cancelled():
                self.leave(future.result())
            raise

    def leave(self, load: Load) -> None:
        """The load has ended; safe to call twice."""
        if load in self._loads:
            self._loads.remove(load)
            self.look()

    @asynccontextmanager
    async def turn_to_build(self, pid: int) -> AsyncIterator[None]:
        """Admit a build by that process, for the time of the block."""
        load = await self.enter(lambda: Urgency.BUILD)
        load.note_started(pid)
        try:
            yield
        finally:
            self.leave(load)

    def look(self) -> None:
        """Admit the waiters that may go on."""
        if not self._waiting:
            return
        self._loads = [load for load in self._loads if not load.is_over()]
        while self._waiting:
            waiter = min(self._waiting, key=_Waiter.weigh)
            urgency, *_ = waiter.weigh()
            if self._count(urgency) >= self._limit:
                return
            self._waiting.remove(waiter)
            for other in self._waiting:
                other.note_turn_of(waiter)
            if not waiter.admitted.done():
                load = Load(urgency)
                self._loads.append(load)
                waiter.admitted.set_result(load)

    def _count(self, urgency: Urgency) -> int:
        return sum(each.urgency <= urgency and not each.is_idle for each in self._loads)

    async def _look_on(self) -> None:
        while self._waiting:
            await asyncio.sleep(GATE_LOOK_SECONDS)
            for load in self._loads:
                load.note_activity()
            self.look()


def measure(pid: int) -> tuple[int, bool]:
    """The processor time, in ticks, of a process and its living descendants, including children
    that they have waited for; and whether one of them runs, could run, or waits for a disk."""
    ticks, is_running, pids = 0, False, [pid]
    for each in pids:  # the list grows meanwhile
        process = Path(f"/proc/{each}")
        try:
            fields = read_stat(each)
            for children in process.glob("task/*/children"):
                pids += map(int, children.read_text().split())
        except OSError:
            continue  # it has ended
        ticks += sum(map(int, fields[11:15]))
        is_running |= fields[0] in "RD"
    return ticks, is_running
