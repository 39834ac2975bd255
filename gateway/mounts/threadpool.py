"""The native threads of a worker in which its apps run.

Owns their number, their names and their end. Refuses to know what they run. They are
``threading.Thread``s, so that what looks for threads (``threading.enumerate``, debuggers, error
reporters) finds them; and daemons, since an app that never returns must not keep its process from
ending, as it does with ``concurrent.futures`` (CPython joins those at exit).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread


class ThreadPool:
    """At most ``most`` threads, ``name-1`` and so on, each started when it is first needed.

    One that a call keeps for nothing is replaced, ``most`` at a time. All methods are for one
    thread to call.
    """

    def __init__(self, most: int, name: str = "app") -> None:
        self.name = name
        self._most = most
        self._started = self._running = self._lost = 0
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
        # one entry for each thread that waits for work and that no call has counted on yet
        self._free: deque[None] = deque(maxlen=most)

    def spawn(self, call: Callable[[], object]) -> None:
        """Have ``call`` called, which may not raise, as soon as a thread is free. One that returns
        True was ``lose``d, and its thread ends with it."""
        self._calls.put(call)
        if self._free:
            self._free.pop()
        elif self._running < self._most:
            self._start()

    def lose(self) -> bool:
        """Count the thread of a call as none, until ``regain``; whether that could be done."""
        if self._lost >= self._most:
            return False
        self._lost += 1
        self._running -= 1
        if not self._calls.empty():
            self._start()
        return True

    def regain(self) -> None:
        """A call that was lost has returned."""
        self._lost -= 1

    def _start(self) -> None:
        self._started += 1
        self._running += 1
        Thread(target=self._run, name=f"{self.name}-{self._started}", daemon=True).start()

    def _run(self) -> None:
        get, has_ended = self._calls.get, self._free.append
        while get()() is not True:
            has_ended(None)
