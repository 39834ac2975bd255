"""Watches app code below the table's directory; dev mode reloads on an edit. Source: watchfiles,
which uses inotify(7).
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

# files that apps read at their start; not data, which apps may write there
CODE_SUFFIXES = frozenset((".py", ".html", ".jinja", ".jinja2", ".j2", ".toml", ".ini", ".cfg"))
# folders that tools make, and that are large; all that begin with a dot are left out too
FOREIGN = frozenset(("__pycache__", "node_modules", "site-packages"))
# saves within this time are one edit
STEP_MILLISECONDS = 100
# between two looks whether the directory is still the same one
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
        except (OSError, RuntimeError) as error:  # a limit of the kernel, or the directory is gone
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
    """The files of each edit. Raises OSError and RuntimeError if they cannot be watched."""
    from watchfiles import awatch  # an extra, which dev mode needs

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
        if not os.path.samestat(directory.stat(), watched):  # which the kernel does not report
            raise FileNotFoundError(f"{directory} is another directory now")


def is_code(path: Path, config: Config) -> bool:
    """A save of ``path`` can change what the apps of ``config`` do."""
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
    """Remove the bytecode of these files: Python uses it for any source of the same size and second
    (PEP 552), so it would miss the later of two quick saves."""
    for path in paths:
        with contextlib.suppress(OSError):
            Path(cache_from_source(str(path))).unlink()
