"""Background work of the supervisor. A failure is always reported, and stops no other work.

An unexpected exception becomes a record with its traceback. Then a task starts again (``keep_up``),
a periodic look is repeated (``guard``), or the next step is taken (``guarded``).
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from gateway.supervisor.backoff import Backoff
from gateway.uncaught import report_own

Result = TypeVar("Result")


def start(work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    """Run ``work`` as a task, which the caller has to keep. An exception is reported as soon as it
    ends, whether or not somebody awaits it."""
    task = asyncio.create_task(work)
    task.add_done_callback(_report)
    return task


def _report(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        report_own(f"the task {task.get_coro().__qualname__} has failed", error)  # type: ignore[union-attr]


async def keep_up(begin: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """The result of the coroutine that ``begin`` makes. If that fails it is reported and begun
    again, with the pauses of worker starts: workers and the table must stay watched."""
    backoff = Backoff()
    while True:
        began = time.monotonic()
        try:
            return await begin()
        except Exception as error:  # noqa: BLE001  whatever it is
            delay = backoff.note_death(began, time.monotonic(), has_served=False)
            report_own(f"{_name(begin)} has failed; it begins again in {delay:g} s", error)
            await asyncio.sleep(delay)


def guard(look: Callable[[], object]) -> Callable[[], None]:
    """``look``, for a caller that calls several of them: if it raises, that is reported, and calls
    do nothing until its back-off is over."""
    backoff = Backoff()

    def run() -> None:
        now = time.monotonic()
        if now < backoff.until:
            return
        try:
            look()
            backoff.reset()
        except Exception as error:  # noqa: BLE001  whatever it is
            delay = backoff.note_failure(now)
            report_own(f"{_name(look)} has failed; again in {delay:g} s", error)

    return run


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """A step: its failure is reported, and the next one is taken all the same."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  whatever it is
        report_own(what, error)


def run_in(
    loop: asyncio.AbstractEventLoop, find: Callable[[], Result]
) -> Callable[[], Coroutine[Any, Any, Result]]:
    """``find`` for the event loop of another thread, which awaits it; it runs in ``loop``, whose
    objects it may read."""

    async def find_there() -> Result:
        return find()

    async def ask() -> Result:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(find_there(), loop))

    return ask


def _name(called: Any) -> str:
    called = getattr(called, "func", called)  # of a partial
    return str(called.__qualname__).partition(".<locals>")[0]
