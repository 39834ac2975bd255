"""Which saves below the table's directory are edits of app code; dev mode reloads on them.

Refuses to know what a reload is. Source: watchfiles, which has the kernel tell (inotify(7)).
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

from gateway.config.model import Config, StaticTarget
from gateway.logs import lifecycle
from gateway.supervisor.backoff import Backoff
from gateway.supervisor.tasks import keep_up

# what apps read as they start; not their data, which they may write there
CODE_SUFFIXES = frozenset((".py", ".html", ".jinja", ".jinja2", ".j2", ".toml", ".ini", ".cfg"))
# made by tools, large, and never written by hand; so are all that begin with a dot
FOREIGN = frozenset(("__pycache__", "node_modules", "site-packages"))
# saves that follow each other so soon are one edit
STEP_MILLISECONDS = 100
# how often it is looked whether the directory is still the same
LOOK_MILLISECONDS = 1000


async def watch_code(
    current: Callable[[], Config], on_change: Callable[[list[Path]], Coroutine[Any, Any, object]]
) -> None:
    """Call ``on_change`` with the files of each edit, below the directory of the table
    ``current()``, and wait for its end."""
    directory = current().directory
    lifecycle.info("dev mode: code is watched below %s; error pages show tracebacks", directory)

    def is_wanted(_: object, path: str) -> bool:
        return is_code(Path(path), current())

    backoff = Backoff()
    while True:
        began = time.monotonic()
        try:
            async for paths in _find_changes(directory, is_wanted):
                forget_bytecode(paths)
                await keep_up(partial(on_change, paths))
        except (OSError, RuntimeError) as error:  # the kernel's limits, or the directory has gone
            delay = backoff.note_death(began, time.monotonic(), has_served=False)
            lifecycle.error(
                "dev mode: code is not watched: %s: save the table, or use `gateway reload`; "
                "it is tried again in %g s",
                *(error, delay),
            )
            await asyncio.sleep(delay)


async def _find_changes(
    directory: Path, is_wanted: Callable[[object, str], bool]
) -> AsyncIterator[list[Path]]:
    """The files of each edit. Raises OSError and RuntimeError where it cannot be known any more."""
    from watchfiles import awatch  # an extra, there where dev mode is

    watched = directory.stat()
    async for changes in awatch(
        directory,
        watch_filter=is_wanted,
        step=STEP_MILLISECONDS,
        rust_timeout=LOOK_MILLISECONDS,
        yield_on_timeout=True,
        ignore_permission_denied=True,
    ):
        if changes:
            yield sorted(Path(path) for _, path in changes)
        if not os.path.samestat(directory.stat(), watched):  # of which the kernel says nothing
            raise FileNotFoundError(f"{directory} is another directory now")


def is_code(path: Path, config: Config) -> bool:
    """Whether a save of ``path`` can change what the apps of ``config`` do."""
    if path.suffix not in CODE_SUFFIXES:
        return False
    folders = path.relative_to(config.directory).parts[:-1]
    if any(name in FOREIGN or name.startswith(".") for name in (*folders, path.name)):
        return False
    return not any(
        path.is_relative_to(mount.target.directory)
        for mount in config.mounts
        if isinstance(mount.target, StaticTarget)
    )


def forget_bytecode(paths: list[Path]) -> None:
    """Python takes bytecode for that of a source of the same size and second (PEP 552): two quick
    saves would be one to it."""
    for path in paths:
        with contextlib.suppress(OSError):
            Path(cache_from_source(str(path))).unlink()
