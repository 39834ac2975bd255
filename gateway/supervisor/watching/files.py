"""Whether a file was saved, told by looking at it.

Looks at the path itself, not at an open file or through notifications: editors put a new file in
its place, and notifications do not come through every bind mount. Refuses to know what the file
says. Source: stat(2).
"""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from gateway.file_tasks import FileTask, UnreachableError, naming, run_once, touching
from gateway.supervisor.tasks import keep_up

FILE_LOOK_SECONDS = 0.5
# a save is over once nothing has changed for so long: some editors write in several steps
SETTLED_SECONDS = 0.3
# a save is noticed by then, if the file's own time is that of the save
RECENT_SAVE_SECONDS = 10.0
# folders that do not answer, and are waited for by a thread each
MOST_AWAY = 4

Mark = tuple[int, int, int, int]


def look(path: str) -> Mark | None:
    """What tells one save of a file from another; None where there is none to be read."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev


async def look_aside(path: str) -> Mark | None:
    """``look``, for event loops; None also where nothing answers."""
    try:
        return await run_once(path, naming(path, partial(look, path))).finish()
    except UnreachableError:
        return None


async def watch_file(path: str, on_save: Callable[[float], Coroutine[Any, Any, object]]) -> None:
    """Call ``on_save`` with the time (Unix) at which each save was made, and wait for its end. What
    fails is tried again: a save from that time on would not be seen by one that begins anew.

    A file that has gone is no save; the one that takes its place is.
    """
    seen = await look_aside(path)
    while True:
        await asyncio.sleep(FILE_LOOK_SECONDS)
        found = await look_aside(path)
        if found is None or found == seen:
            continue
        found = await settle(path, found)
        if found is None or found == seen:
            continue
        seen = found
        now, saved = time.time(), found[0] / 1e9
        # a file that was moved here keeps the time of its own making
        saved = saved if 0 <= now - saved < RECENT_SAVE_SECONDS else now
        await keep_up(partial(on_save, saved))


async def settle(path: str, found: Mark) -> Mark | None:
    """Wait until the file stays as it is; None where it went away meanwhile."""
    while True:
        await asyncio.sleep(SETTLED_SECONDS)
        again = await look_aside(path)
        if again is None or again == found:
            return again
        found = again


async def watch_files(
    find_paths: Callable[[], Iterable[str]], on_save: Callable[[], Coroutine[Any, Any, object]]
) -> None:
    """Call ``on_save`` whenever one of the files was saved that ``find_paths`` gives at each look,
    and wait for its end. One that has gone is no save; the one that takes its place is."""
    sight = Sight()
    look_at_all = lambda: sight.look(find_paths())  # noqa: E731
    seen = await keep_up(look_at_all)
    while True:
        await asyncio.sleep(FILE_LOOK_SECONDS)
        found = await keep_up(look_at_all)
        if any(seen.get(path, mark) != mark for path, mark in found.items()):
            while found != (found := await _look_later(sight, found)):
                pass
            seen |= found
            await keep_up(on_save)
        seen |= found


async def _look_later(sight: "Sight", found: dict[str, Mark]) -> dict[str, Mark]:
    await asyncio.sleep(SETTLED_SECONDS)
    return await keep_up(lambda: sight.look(found))


class Sight:
    """Looks at many files in a thread that nobody has to wait for. A folder in which one does not
    answer is left out until it does, so that the others are still seen."""

    def __init__(self) -> None:
        self._away: dict[str, FileTask[None]] = {}

    async def look(self, paths: Iterable[str]) -> dict[str, Mark]:
        """The marks of those that are there."""
        self._away = {path: each for path, each in self._away.items() if not each.is_done}
        found: dict[str, Mark] = {}
        left = list(paths)
        while left := [path for path in left if os.path.dirname(path) not in self._away]:  # noqa: PTH120
            if len(self._away) >= MOST_AWAY:
                break
            marks: dict[str, Mark] = {}
            task = FileTask(partial(_look_at_file, left, marks))
            try:
                await task.finish()
            except UnreachableError as error:
                self._away[os.path.dirname(error.place)] = task  # noqa: PTH120
            else:
                return found | marks
        return found


def _look_at_file(paths: list[str], found: dict[str, Mark]) -> None:
    for path in paths:
        with touching(partial(str, path)):
            mark = look(path)
        if mark is not None:
            found[path] = mark
