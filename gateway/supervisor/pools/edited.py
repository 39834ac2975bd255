"""Which pools an edit of code affects: those whose workers have loaded the file, or that own it.

A file that no worker has loaded, such as a template or a new module, belongs to the pools with an
app in its folder: the topmost one below the directory from which apps are imported. If no app is
there, it belongs to all pools. A command does not report what it has loaded: to it belong its own
folder, and all that belong to no app.
"""

import asyncio
import re
import shlex
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from gateway.config.model import AppTarget, Config
from gateway.file_tasks import FileTask, UnreachableError, touching
from gateway.supervisor.generations.generation import Generation, GenerationState
from gateway.supervisor.pools.pool import Pool
from gateway.supervisor.processes.process import NORMAL_SILENCE_SECONDS, Process, ProcessState

# how long a worker is waited for; one whose event loop does not turn is not waited for
FIND_SECONDS = 5.0
SILENCE_LOOK_SECONDS = 0.1
_MODULE = re.compile(r"([A-Za-z_]\w*)[\w.]*:")


async def find_stale(pools: Mapping[str, Pool], paths: list[Path]) -> set[str]:
    """The names of the pools that have to load their code again after an edit of ``paths``."""
    configs = {name: pool.config for name, pool in pools.items() if pool.config is not None}
    answers = await asyncio.gather(*(_find_loaded(pools[name], paths) for name in configs))
    loaded = dict(zip(configs, answers, strict=True))
    try:
        folders = await FileTask(partial(_find_all_folders, configs)).finish()
    except UnreachableError:
        folders = {name: set() for name in configs}  # no app is known: all files belong to all
    commands = {name for name, config in configs.items() if config.pool.command}
    stale = {name for name, files in loaded.items() if files is None}
    for path in paths:
        having = {name for name, files in loaded.items() if files and path in files}
        owners = {name for name, own in folders.items() if any(map(path.is_relative_to, own))}
        without = (owners or set(configs)) - having
        stale |= having | (without & commands if having else without)
    return stale


async def _find_loaded(pool: Pool, paths: list[Path]) -> set[Path] | None:
    """Those of ``paths`` that the pool has loaded. None if it does not answer, or has failed, so
    that any edit may be the correction."""
    generation = pool.current
    if generation is None or generation.failed:
        return None
    if generation.config.pool.command or generation.state is GenerationState.ASLEEP:
        return set()
    workers = generation.workers
    if not workers or any(process.state is not ProcessState.READY for process in workers):
        return None
    answers = await asyncio.gather(
        *(_ask_worker(generation, process, paths) for process in workers)
    )
    known = [files for files in answers if files is not None]
    return set().union(*known) if len(known) == len(answers) else None


async def _ask_worker(
    generation: Generation, process: Process, paths: list[Path]
) -> set[Path] | None:
    answer = process.find_loaded([str(path) for path in paths])
    deadline = time.monotonic() + FIND_SECONDS
    while time.monotonic() < deadline and process.silent <= NORMAL_SILENCE_SECONDS:
        done, _ = await asyncio.wait([answer], timeout=SILENCE_LOOK_SECONDS)
        if done:
            return set(map(Path, answer.result()))
        if process.pid not in generation.processes:
            break
    return None


def _find_all_folders(configs: Mapping[str, Config]) -> dict[str, set[Path]]:
    found = {}
    for name, config in configs.items():
        with touching(partial(str, name)):
            found[name] = find_folders(config)
    return found


def find_folders(config: Config) -> set[Path]:
    """The topmost folders, or single modules, of a pool's apps or of its command."""
    targets = [mount.target for mount in config.mounts]
    names = {t.import_string.partition(":")[0] for t in targets if isinstance(t, AppTarget)}
    tops = {name.partition(".")[0] for name in names}
    for word in shlex.split(config.pool.command):
        module = _MODULE.match(word)
        path = Path(word)
        tops.update([module[1]] if module else () if path.is_absolute() else path.parts[:1])
    places = {config.directory / name for top in tops for name in (top, f"{top}.py")}
    return {place for place in places if place.exists()}
