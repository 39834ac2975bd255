"""The native threads of a worker in which its apps run.

Owns their number, their names and their end. Does not know what they run. They are
``threading.Thread``s, so that tools (``threading.enumerate``, debuggers, error reporters) find
them; and daemons, since an app that never returns must not keep its process from exiting, as it
would with ``concurrent.futures`` (CPython joins those at exit).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any

from gevent import get_hub

# how many paused calls may be replaced at a time. Each keeps a thread, and the Compose stack allows
# the container 512 threads and processes.
MAX_REPLACED = 64
# a call is replaced when it has been paused for this long. Fifty slow clients, one after the other,
# then take less than a second of a pool of one thread; clients that read at once are not affected.
PAUSE_SECONDS = 0.01
# how often paused calls are checked while others wait
LOOK_SECONDS = 0.005


class ThreadPool:
    """At most ``most`` threads that run calls, named ``name-1`` and so on, started when needed.

    A thread whose request has ended is replaced, at most ``most`` at a time. So is one whose call
    is paused while others wait; to continue, it waits for its turn as new calls do, so never more
    than ``most`` run. Only the event loop's thread may call the methods.
    """

    def __init__(self, most: int, name: str = "app") -> None:
        self.name = name
        self._most = most
        self._started = self._running = self._lost = 0
        self._paused: dict[object, float] = {}  # call to monotonic time, the longest pause first
        self._replaced: set[object] = set()  # paused calls whose threads do not count
        self._returning: deque[tuple[object, Callable[[], object]]] = deque()  # of these
        self._timer: Any = None
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
        # calls that wait for a thread or run in one that counts, except those that have ended
        self._active = 0
        self._ended: deque[None] = deque()

    def spawn(self, call: Callable[[], object]) -> None:
        """Run ``call``, which must not raise, as soon as a thread is free. If it returns True, its
        thread was lost (``lose``) and ends."""
        self._calls.put(call)
        self._active += 1
        self._fit()

    def _fit(self) -> None:
        """Start another thread if a call waits."""
        if self._count_waiting():
            if self._running < self._most:
                self._start()
            else:
                self._watch()

    def _count_waiting(self) -> int:
        while self._ended:
            self._ended.pop()
            self._active -= 1
        return max(0, self._active - self._running)

    def pause(self, call: object) -> None:
        """``call`` waits in its thread until ``resume``."""
        self._paused[call] = monotonic()

    def resume(self, call: object, go_on: Callable[[], object]) -> None:
        """Call ``go_on``, by which ``call`` continues in its thread: now, or when a thread is free
        if another one has taken its place."""
        if call not in self._replaced:
            self._paused.pop(call, None)
            go_on()
        else:
            self._returning.append((call, go_on))
            self.spawn(self._let_return)  # it waits for its turn as a new call does

    def _let_return(self) -> bool:
        """Whether a call continues, and so counts instead of this one."""
        try:
            call, go_on = self._returning.popleft()
        except IndexError:
            return False
        self._replaced.discard(call)
        go_on()
        return True

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = get_hub().loop.timer(LOOK_SECONDS, LOOK_SECONDS, ref=False)
        if not self._timer.active:
            self._timer.start(self._replace_paused)

    def _replace_paused(self) -> None:
        """Replace as many as calls wait; if no more threads are allowed, by calls that wait to
        continue in their own."""
        waiting, latest = self._count_waiting(), monotonic() - PAUSE_SECONDS
        if not waiting:
            self._timer.stop()
        for call in [call for call, since in self._paused.items() if since < latest][:waiting]:
            has_room = len(self._replaced) < MAX_REPLACED
            if not (has_room and self._start_another()) and not self._let_return():
                break
            del self._paused[call]
            self._replaced.add(call)

    def _start_another(self) -> bool:
        self._running -= 1
        try:
            self._start()
        except RuntimeError:  # the system starts no more threads
            self._running += 1
            return False
        self._active -= 1
        return True

    def lose(self, call: object) -> bool:
        """Do not count the thread of ``call`` until ``regain``; whether that was necessary and
        possible."""
        if call in self._replaced or self._lost >= self._most:
            return False
        self._lost += 1
        self._running -= 1
        self._active -= 1
        self._fit()
        return True

    def regain(self) -> None:
        """A call that was lost has returned."""
        self._lost -= 1

    def _start(self) -> None:
        self._started += 1
        Thread(target=self._run, name=f"{self.name}-{self._started}", daemon=True).start()
        self._running += 1

    def _run(self) -> None:
        get, has_ended = self._calls.get, self._ended.append
        while get()() is not True:
            has_ended(None)
