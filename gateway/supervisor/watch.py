"""Whether a file was saved, told by looking at it.

Looks at the path itself, not at an open file or through notifications: editors put a new file in
its place, and notifications do not come through every bind mount. Refuses to know what the file
says. Source: stat(2).
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

LOOK_SECONDS = 0.5
# a save is over once nothing has changed for so long: some editors write in several steps
SETTLED_SECONDS = 0.3

Mark = tuple[int, int, int, int]


def look(path: str) -> Mark | None:
    """What tells one save of a file from another; None where there is none to be read."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev


async def watch_file(path: str, on_save: Callable[[float], Awaitable[object]]) -> None:
    """Call ``on_save`` with the time (Unix) at which each save was made, and wait for its end.

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
        await on_save(found[0] / 1e9)


async def settle(path: str, found: Mark) -> Mark | None:
    """Wait until the file stays as it is; None where it went away meanwhile."""
    while True:
        await asyncio.sleep(SETTLED_SECONDS)
        again = look(path)
        if again is None or again == found:
            return again
        found = again
