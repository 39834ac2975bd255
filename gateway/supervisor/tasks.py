"""Work of the supervisor, whose failure never goes unnoticed, and takes no other work with it.

One rule, in three shapes: what nobody expected is a record with its traceback, and the duty stays.
A task is begun again (``keep_up``), a look comes again (``guard``), and the next step is taken
(``guarded``). Refuses to know what the work is.
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
    """Run ``work``; the caller keeps the task. What it raises is reported when it ends, and not
    when, or if, somebody collects it."""
    task = asyncio.create_task(work)
    task.add_done_callback(_report)
    return task


def _report(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        report_own(f"the task {task.get_coro().__qualname__} has failed", error)  # type: ignore[union-attr]


async def keep_up(begin: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """The result of what ``begin`` gives. Where that fails it is reported and begun again, with the
    back-off of workers: without it, nobody would look after workers or the table any more."""
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
    """``look``, for a caller that has other things to look at, too. Where it raises that is
    reported, and it is left out until its back-off is over."""
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
    """A step whose failure is reported, and keeps nobody from the next one."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  whatever it is
        report_own(what, error)


def run_in(
    loop: asyncio.AbstractEventLoop, find: Callable[[], Result]
) -> Callable[[], Coroutine[Any, Any, Result]]:
    """``find``, to be awaited in the event loop of another thread: it runs in ``loop``, between two
    changes of what it reads."""

    async def find_there() -> Result:
        return find()

    async def ask() -> Result:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(find_there(), loop))

    return ask


def _name(called: Any) -> str:
    called = getattr(called, "func", called)  # of a partial
    return str(called.__qualname__).partition(".<locals>")[0]
