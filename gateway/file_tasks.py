"""Work that accesses files, in a thread of its own, since a file system may not respond: callers
wait at most ``MAX_SECONDS`` for each file.

A thread that waits for a file server cannot be ended. It is a daemon thread, so the process can
exit; it is not in the event loop's executor, which waits for its threads at shutdown. Source:
nfs(5), option "hard".
"""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")

# for one file. A disk that has to spin up first takes as long
MAX_SECONDS = 5.0
# between two checks: time during which the whole process is stopped counts as one of them
LOOK_SECONDS = 0.25
# for callers that cannot wait, such as an event loop's thread
BRIEF_SECONDS = 0.5

_here = threading.local()
_by_key: dict[object, "FileTask[Any]"] = {}


class UnreachableError(OSError):
    """A file or its file system did not respond in time. ``place`` names it, for messages."""

    def __init__(self, place: str, seconds: float) -> None:
        super().__init__(
            f"{place}: could not be read within {seconds:g} s: is the file system that it is on "
            "reachable?"
        )
        self.place = place


class touching:  # noqa: N801  it is used as a function
    """``with touching(place):`` marks access to one file; ``place()`` returns its name, or its
    place in a table. Only time within such blocks is limited."""

    __slots__ = ("_place", "_task")

    def __init__(self, place: Callable[[], str]) -> None:
        self._place = place
        self._task: FileTask[Any] | None = getattr(_here, "task", None)

    def __enter__(self) -> None:
        if self._task is not None:
            self._task.place = self._place

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.place = None


def naming(place: str, work: Callable[[], T]) -> Callable[[], T]:
    """``work`` as one access to ``place``."""

    def run() -> T:
        with touching(lambda: place):
            return work()

    return run


class FileTask(Generic[T]):
    """``work``, started. ``place`` is the file that it accesses now, None for none."""

    def __init__(self, work: Callable[[], T]) -> None:
        self.place: Callable[[], str] | None = None
        self._began = time.monotonic()
        self._future: Future[T] = Future()
        self._future.set_running_or_notify_cancel()
        threading.Thread(target=self._run, args=(work,), name="file task", daemon=True).start()

    def _run(self, work: Callable[[], T]) -> None:
        _here.task = self
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  it is raised by ``result()``
            self._future.set_exception(error)
        else:
            self._future.set_result(result)

    @property
    def is_done(self) -> bool:
        return self._future.done()

    def wait(self, most_seconds: float | None = None) -> T:
        """Returns or raises what ``work`` does; raises UnreachableError if one file takes longer
        than ``most_seconds`` (None: MAX_SECONDS)."""
        patience = _Patience(self, MAX_SECONDS if most_seconds is None else most_seconds)
        while not self.is_done:
            wait([self._future], LOOK_SECONDS)
            patience.look()
        return self._future.result()

    def wait_briefly(self, otherwise: U) -> T | U:
        """Returns or raises what ``work`` does, or returns ``otherwise`` if it has not ended
        BRIEF_SECONDS after its start."""
        wait([self._future], max(0.0, self._began + BRIEF_SECONDS - time.monotonic()))
        return self._future.result() if self.is_done else otherwise

    async def finish(self) -> T:
        """As ``wait``, for coroutines."""
        patience = _Patience(self, MAX_SECONDS)
        future = asyncio.wrap_future(self._future)
        try:
            while not future.done():
                await asyncio.wait([future], timeout=LOOK_SECONDS)
                patience.look()
            return future.result()
        finally:
            future.cancel()


class _Patience:
    """Counts for how long a task has been accessing the same file."""

    def __init__(self, task: FileTask[Any], seconds: float) -> None:
        self._task = task
        self._seconds = seconds
        self._seen: Callable[[], str] | None = None
        self._looks = 0

    def look(self) -> None:
        """Call it every LOOK_SECONDS. Raises UnreachableError."""
        place = self._task.place
        is_waiting = place is self._seen and not self._task.is_done
        self._looks = self._looks + 1 if is_waiting else 0
        self._seen = place
        if place is not None and self._looks * LOOK_SECONDS >= self._seconds:
            raise UnreachableError(place(), self._seconds)


def run_once(key: object, work: Callable[[], T]) -> FileTask[T]:
    """Start ``work``, or return the unfinished task with this ``key``, so that repeated calls do
    not start a thread each."""
    begun = _by_key.get(key)
    if begun is None or begun.is_done:
        begun = _by_key[key] = FileTask(work)
    return begun
