"""Watches files for saves, by looking at them.

Looks at paths, and does not use open files or notifications: editors replace a file by a new one,
and notifications do not pass every bind mount. Source: stat(2).
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
# a save is over once nothing has changed for this long: some editors write in several steps
SETTLED_SECONDS = 0.3
# a file's time is the time of the save if it is no older than this when the save is noticed
RECENT_SAVE_SECONDS = 10.0
# of folders that do not answer, each of which keeps a thread waiting
MAX_AWAY = 4

Mark = tuple[int, int, int, int]


def look(path: str) -> Mark | None:
    """The mark of a file, which differs after each save; None if it cannot be read."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev


async def look_in_thread(path: str) -> Mark | None:
    """``look``, for event loops; None also if the file system does not answer."""
    try:
        return await run_once(path, naming(path, partial(look, path))).finish()
    except UnreachableError:
        return None


async def watch_file(path: str, on_save: Callable[[float], Coroutine[Any, Any, object]]) -> None:
    """Call ``on_save`` with the Unix time of each save, and wait for its end. If it fails it is
    called again: a new watch would miss saves in between.

    A file that was removed is no save; the one that replaces it is.
    """
    seen = await look_in_thread(path)
    while True:
        await asyncio.sleep(FILE_LOOK_SECONDS)
        found = await look_in_thread(path)
        if found is None or found == seen:
            continue
        found = await settle(path, found)
        if found is None or found == seen:
            continue
        seen = found
        now, saved = time.time(), found[0] / 1e9
        # a file that was moved here has an older time
        saved = saved if 0 <= now - saved < RECENT_SAVE_SECONDS else now
        await keep_up(partial(on_save, saved))


async def settle(path: str, found: Mark) -> Mark | None:
    """Wait until the file stays as it is; None if it is removed meanwhile."""
    while True:
        await asyncio.sleep(SETTLED_SECONDS)
        again = await look_in_thread(path)
        if again is None or again == found:
            return again
        found = again


async def watch_files(
    find_paths: Callable[[], Iterable[str]], on_save: Callable[[], Coroutine[Any, Any, object]]
) -> None:
    """Call ``on_save`` whenever a file of ``find_paths``, which is called at each look, was saved,
    and wait for its end. A file that was removed is no save; the one that replaces it is."""
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
    """Looks at many files in a thread. A folder on a file system that does not answer is left out
    until it does, and the others are still watched."""

    def __init__(self) -> None:
        self._away: dict[str, FileTask[None]] = {}

    async def look(self, paths: Iterable[str]) -> dict[str, Mark]:
        """The marks of the files that can be read, by path."""
        self._away = {path: each for path, each in self._away.items() if not each.is_done}
        found: dict[str, Mark] = {}
        left = list(paths)
        while left := [path for path in left if os.path.dirname(path) not in self._away]:  # noqa: PTH120
            if len(self._away) >= MAX_AWAY:
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
