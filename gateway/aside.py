"""Work that touches files, in a thread of its own, since a file may be on a file system that does
not answer: whoever asks for the work waits for one file no longer than ``MOST_SECONDS``.

A thread that waits for the server of a mount cannot be ended. It is a daemon, so that the process
can; it is not one of the event loop's own, whose end waits for them. Refuses to know what the work
is. Source: nfs(5), the option "hard".
"""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")

# for one file. Disks that have to spin up first take as long
MOST_SECONDS = 5.0
# between two looks: time that passes while the whole process is stopped counts as one
LOOK_SECONDS = 0.25
# for a thread that cannot wait, such as that of an event loop
BRIEF_SECONDS = 0.5

_here = threading.local()
_by_key: dict[object, "Aside[Any]"] = {}


class UnreachableError(OSError):
    """A file, or what it is on, did not answer in time. ``place`` says which, for a person."""

    def __init__(self, place: str, seconds: float) -> None:
        super().__init__(
            f"{place}: could not be read within {seconds:g} s: is the file system that it is on "
            "reachable?"
        )
        self.place = place


class touching:  # noqa: N801  it is used as a function
    """``with touching(place):`` a file is looked at whose name, or place in a table, ``place``
    gives. What is done outside of it may take any time."""

    __slots__ = ("_aside", "_place")

    def __init__(self, place: Callable[[], str]) -> None:
        self._place = place
        self._aside: Aside[Any] | None = getattr(_here, "aside", None)

    def __enter__(self) -> None:
        if self._aside is not None:
            self._aside.place = self._place

    def __exit__(self, *_: object) -> None:
        if self._aside is not None:
            self._aside.place = None


def naming(place: str, work: Callable[[], T]) -> Callable[[], T]:
    """``work``, all of which touches one thing."""

    def run() -> T:
        with touching(lambda: place):
            return work()

    return run


class Aside(Generic[T]):
    """``work``, begun. ``place`` is what it touches now, None while that is nothing."""

    def __init__(self, work: Callable[[], T]) -> None:
        self.place: Callable[[], str] | None = None
        self._began = time.monotonic()
        self._future: Future[T] = Future()
        self._future.set_running_or_notify_cancel()
        threading.Thread(target=self._run, args=(work,), name="aside", daemon=True).start()

    def _run(self, work: Callable[[], T]) -> None:
        _here.aside = self
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  it is raised where the result is asked for
            self._future.set_exception(error)
        else:
            self._future.set_result(result)

    @property
    def is_done(self) -> bool:
        return self._future.done()

    def wait(self, most_seconds: float | None = None) -> T:
        """What ``work`` returns or raises; raises UnreachableError where one file takes longer than
        ``most_seconds``, None for MOST_SECONDS."""
        patience = _Patience(self, MOST_SECONDS if most_seconds is None else most_seconds)
        while not self.is_done:
            wait([self._future], LOOK_SECONDS)
            patience.look()
        return self._future.result()

    def wait_briefly(self, otherwise: U) -> T | U:
        """What it returns or raises, if it does so within BRIEF_SECONDS of its beginning, else
        ``otherwise``."""
        wait([self._future], max(0.0, self._began + BRIEF_SECONDS - time.monotonic()))
        return self._future.result() if self.is_done else otherwise

    async def finish(self) -> T:
        """``wait``, for event loops."""
        patience = _Patience(self, MOST_SECONDS)
        future = asyncio.wrap_future(self._future)
        try:
            while not future.done():
                await asyncio.wait([future], timeout=LOOK_SECONDS)
                patience.look()
            return future.result()
        finally:
            future.cancel()


class _Patience:
    """Counts for how long one that is not done has been touching one thing."""

    def __init__(self, aside: Aside[Any], seconds: float) -> None:
        self._aside = aside
        self._seconds = seconds
        self._seen: Callable[[], str] | None = None
        self._looks = 0

    def look(self) -> None:
        """To be called each LOOK_SECONDS. Raises UnreachableError."""
        place = self._aside.place
        is_waiting = place is self._seen and not self._aside.is_done
        self._looks = self._looks + 1 if is_waiting else 0
        self._seen = place
        if place is not None and self._looks * LOOK_SECONDS >= self._seconds:
            raise UnreachableError(place(), self._seconds)


def ask_once(key: object, work: Callable[[], T]) -> Aside[T]:
    """``work``, or what was begun with this ``key`` before and is not done: what is asked for again
    and again does not start a thread each time."""
    begun = _by_key.get(key)
    if begun is None or begun.is_done:
        begun = _by_key[key] = Aside(work)
    return begun
