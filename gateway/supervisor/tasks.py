"""Work in the background of the supervisor, whose failure never goes unnoticed.

Refuses to know what the work is.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.uncaught import report_own

# before what has failed is begun again
AGAIN_SECONDS = 1.0


def start(work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    """Run ``work``; the caller keeps the task. What it raises is reported when it ends, and not
    when, or if, somebody collects it."""
    task = asyncio.create_task(work)
    task.add_done_callback(_report)
    return task


def _report(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        report_own(f"the task {task.get_coro().__qualname__} has failed", error)  # type: ignore[union-attr]


async def keep_up(begin: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run what ``begin`` gives until it returns; where it fails, that is reported and it is begun
    again: without it, nobody would look after workers or the table any more."""
    while True:
        try:
            return await begin()
        except Exception as error:  # noqa: BLE001  whatever it is
            name = begin.__qualname__.partition(".<locals>")[0]
            report_own(f"{name} has failed; it goes on in {AGAIN_SECONDS:g} s", error)
            await asyncio.sleep(AGAIN_SECONDS)
