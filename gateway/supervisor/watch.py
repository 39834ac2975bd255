"""Whether a file was saved, told by looking at it.

Looks at the path itself, not at an open file or through notifications: editors put a new file in
its place, and notifications do not come through every bind mount. Refuses to know what the file
says. Source: stat(2).
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

from gateway.supervisor.tasks import keep_up

LOOK_SECONDS = 0.5
# a save is over once nothing has changed for so long: some editors write in several steps
SETTLED_SECONDS = 0.3
# a save is noticed by then, if the file's own time is that of the save
RECENT_SECONDS = 10.0

Mark = tuple[int, int, int, int]


def look(path: str) -> Mark | None:
    """What tells one save of a file from another; None where there is none to be read."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev


async def watch_file(path: str, on_save: Callable[[float], Coroutine[Any, Any, object]]) -> None:
    """Call ``on_save`` with the time (Unix) at which each save was made, and wait for its end. What
    fails is tried again: a save from that time on would not be seen by one that begins anew.

    A file that has gone is no save; the one that takes its place is.
    """
    seen = look(path)
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        found = look(path)
        if found is None or found == seen:
            continue
        found = await settle(path, found)
        if found is None or found == seen:
            continue
        seen = found
        now, saved = time.time(), found[0] / 1e9
        # a file that was moved here keeps the time of its own making
        saved = saved if 0 <= now - saved < RECENT_SECONDS else now
        await keep_up(partial(on_save, saved))


async def settle(path: str, found: Mark) -> Mark | None:
    """Wait until the file stays as it is; None where it went away meanwhile."""
    while True:
        await asyncio.sleep(SETTLED_SECONDS)
        again = look(path)
        if again is None or again == found:
            return again
        found = again


async def watch_files(
    find_paths: Callable[[], Iterable[str]], on_save: Callable[[], Coroutine[Any, Any, object]]
) -> None:
    """Call ``on_save`` whenever one of the files was saved that ``find_paths`` gives at each look,
    and wait for its end. One that has gone is no save; the one that takes its place is."""
    look_at_all = lambda: _look_aside(find_paths())  # noqa: E731
    seen = await keep_up(look_at_all)
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        found = await keep_up(look_at_all)
        if any(seen.get(path, mark) != mark for path, mark in found.items()):
            while found != (found := await _look_later(found)):
                pass
            seen |= found
            await keep_up(on_save)
        seen |= found


async def _look_later(found: dict[str, Mark]) -> dict[str, Mark]:
    await asyncio.sleep(SETTLED_SECONDS)
    return await keep_up(lambda: _look_aside(found))


async def _look_aside(paths: Iterable[str]) -> dict[str, Mark]:
    """The marks of those that are there. In a thread that nobody waits for: a mount of the network
    that hangs is no reason for anything else to wait."""
    loop = asyncio.get_running_loop()
    looked: asyncio.Future[dict[str, Mark]] = loop.create_future()

    def note(found: dict[str, Mark]) -> None:
        if not looked.done():
            looked.set_result(found)

    def run(names: list[str]) -> None:
        found = {name: mark for name in names if (mark := look(name)) is not None}
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(note, found)

    if names := list(paths):
        Thread(target=run, args=(names,), daemon=True).start()
        return await looked
    return {}
