"""``pools:``, and which mount runs in which of them.

Refuses to know how processes are started. Source: the settings of a pool.
"""

import re
from dataclasses import replace
from typing import Any

from gateway.config.asgi import build_asgi_pool, find_asgi_fault, lead_to_pool
from gateway.config.kinds import KINDS, POOL_NAME_PATTERN
from gateway.config.model import (
    MAIN,
    AppTarget,
    AsgiTarget,
    Mount,
    PoolSettings,
    UpstreamTarget,
    Where,
)
from gateway.config.reader import Entries, Entry, Reader, join
from gateway.config.settings import ADMISSION, POOL, POOL_LIMITS, take
from gateway.config.text import env_file
from gateway.config.text.nodes import find_key
from gateway.config.text.problems import did_you_mean, quote
from gateway.config.text.secret_files import read_file
from gateway.limits import Admission, PoolLimits

# a mount's ``pool:`` that, like MAIN, is not a pool of the table
OWN = "own"
PREFIX = "pool:"
# settings that only the gateway's own workers have
_OF_WORKERS = ("concurrency", "threads", "idle", "max_requests")


def parse_pools(reader: Reader, pairs: Entries) -> dict[str, PoolSettings]:
    """The pools that the table names, by name."""
    pools = {}
    for name, pair in pairs.items():
        path = join("pools", name)
        if name == MAIN:
            message = 'the front workers are not a pool of the table: set them under "server:"'
            reader.problems.add(pair.key, path, message)
        elif name == OWN or not re.fullmatch(POOL_NAME_PATTERN, name):
            expected = KINDS["pool name"].expected.partition(",")[0]
            message = f"expected {expected}, got {quote(name)}"
            reader.problems.add(pair.key, path, message)
        own = reader.pairs(pair.value, path, "a mapping of settings") or {}
        where = Where(line=pair.key.line, column=pair.key.column)
        values = reader.settings(own, path, POOL)
        if "env_file" in values:
            values |= _read_env_file(reader, own["env_file"], join(path, "env_file"), values)
        limits = PoolLimits(**take(values, POOL_LIMITS))
        admission = Admission(**take(values, ADMISSION))
        if "command" in own:
            values.setdefault("command", "{socket}")  # an invalid command is a command, too
        pools[name] = PoolSettings(
            name=name, where=where, limits=limits, admission=admission, **values
        )
        check_memory(reader, own, path, limits)
        _check_together(reader, own, path, pools[name])
    return pools


def _read_env_file(
    reader: Reader, pair: Entry, path: str, values: dict[str, Any]
) -> dict[str, Any]:
    """The variables in the file, for a pool with these ``values``."""
    most, directory = env_file.MAX_BYTES, reader.interpolator.directory
    try:
        with reader.touching(pair.value, path):
            text = read_file(values["env_file"], most + 1, directory).decode()
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or "it is not UTF-8 text"
        reader.problems.add(pair.value, path, f"the file cannot be read: {reason.lower()}")
        return {}
    if len(text) > most:
        reader.problems.add(pair.value, path, "the file is larger than 1 MiB")
    return {
        "env_file_variables": env_file.parse_env_file(text),
        "env_file_strays": env_file.find_stray_lines(text),
    }


def _check_together(reader: Reader, own: Entries, path: str, pool: PoolSettings) -> None:
    """Record settings that have no effect beside others."""
    wrong = {}
    if "venv" in own:
        for key in ("python", "requirements"):
            wrong[key] = f'a pool has either "venv" or "{key}": remove one of them'
    if pool.concurrency != "threads":
        wrong["threads"] = 'has no effect without "concurrency: threads": add that, or remove this'
    if pool.command:
        wrong |= dict.fromkeys(_OF_WORKERS, "has no effect on a command: remove it")
    if pool.sticky != "off" and pool.idle_seconds:
        message = "workers that stop when idle forget their sessions"
        wrong["idle"] = f'{message}: remove this, or "sticky"'
    most = pool.workers.max
    if 0 < most < pool.workers.min:
        wrong["workers"] = "max is less than min: raise it, or leave it out"
    elif most and pool.command:
        wrong["workers"] = "a command always has min processes: leave out max"
    for key, message in wrong.items():
        if key in own:
            reader.problems.add(own[key].key, join(path, key), message)


def check_memory(reader: Reader, pairs: Entries, path: str, limits: PoolLimits) -> None:
    """Record a hard limit that is not above the soft one."""
    if 0 < limits.max_memory_hard_bytes <= limits.max_memory_bytes:
        key = "max_memory_hard" if "max_memory_hard" in pairs else "max_memory"
        message = "a worker would be killed before max_memory replaces it"
        hint = "raise it, or lower max_memory"
        reader.problems.add(pairs[key].value, join(path, key), f"{message}: {hint}")


def assign_pools(
    reader: Reader,
    read: list[tuple[Entry, Mount, AsgiTarget | None]],
    pools: dict[str, PoolSettings],
) -> tuple[tuple[Mount, ...], tuple[PoolSettings, ...]]:
    """The mounts, each with the name of its pool, and the pools in use. Mounts with an
    ``AsgiTarget`` get a pool that runs it."""
    mounts = []
    used: dict[str, PoolSettings] = {}
    asgi_mounts = _find_asgi_mounts(reader, read)
    for pair, mount, asgi in read:
        target = mount.target
        if asgi is not None:
            used |= _assign_asgi(reader, pair, mount, asgi, pools)
            name = mount.name if asgi.pool == OWN else asgi.pool
            target = replace(lead_to_pool(asgi), addresses=(f"{PREFIX}{name}",), pool=name)
        elif isinstance(target, AppTarget) and target.pool == OWN:
            target = replace(target, pool=mount.name)
            used[mount.name] = PoolSettings(name=mount.name, where=mount.where)
        elif isinstance(target, AppTarget) and target.pool != MAIN:
            if fault := _find_fault(target.pool, pools, asgi_mounts, is_app=True):
                _complain(reader, pair, "pool", fault)
            else:
                used[target.pool] = pools[target.pool]
        elif isinstance(target, UpstreamTarget) and (name := _find_name(target)):
            target = replace(target, pool=name)
            if len(target.addresses) > 1:
                _complain(reader, pair, "upstream", 'expected "pool:NAME" alone, or servers')
            elif fault := _find_fault(name, pools, asgi_mounts, is_app=False):
                _complain(reader, pair, "upstream", fault)
            else:
                used[name] = pools[name]
        mounts.append(replace(mount, target=target))
    return tuple(mounts), tuple(used.values())


def _find_asgi_mounts(
    reader: Reader, read: list[tuple[Entry, Mount, AsgiTarget | None]]
) -> dict[str, str]:
    """The mount whose ASGI app a pool of the table runs, by the pool's name."""
    found: dict[str, str] = {}
    for pair, mount, asgi in read:
        if asgi is not None and asgi.pool != OWN:
            first = found.setdefault(asgi.pool, mount.name)
            if first != mount.name:
                _complain(reader, pair, "pool", _taken(first))
    return found


def _assign_asgi(
    reader: Reader, pair: Entry, mount: Mount, asgi: AsgiTarget, pools: dict[str, PoolSettings]
) -> dict[str, PoolSettings]:
    """The pool that runs it, by name; none if there is a problem."""
    own = PoolSettings(name=mount.name, where=mount.where)
    pool = own if asgi.pool == OWN else pools.get(asgi.pool)
    if pool is None:
        _complain(reader, pair, "pool", _find_fault(asgi.pool, pools, {}, is_app=True))
    elif fault := _find_asgi_fault(reader, pair, pool):
        _complain(reader, pair, "asgi" if pool is own else "pool", fault)
    elif not mount.prefix.isascii():
        message = "Uvicorn serves below an ASCII path only: choose another one"
        reader.problems.add(pair.key, join("mounts", pair.key.text), message)
    else:
        return {pool.name: build_asgi_pool(asgi, pool, mount.prefix)}
    return {}


def _find_asgi_fault(reader: Reader, pair: Entry, pool: PoolSettings) -> str:
    with reader.touching(pair.key, join("mounts", pair.key.text)):
        return find_asgi_fault(pool)


def _taken(mount: str) -> str:
    return f"the pool runs the ASGI app of {quote(mount)} alone: give this mount another pool"


def _find_name(target: UpstreamTarget) -> str:
    names = (a.removeprefix(PREFIX) for a in target.addresses if a and a.startswith(PREFIX))
    return next(names, "")


def _find_fault(
    name: str, pools: dict[str, PoolSettings], asgi_mounts: dict[str, str], *, is_app: bool
) -> str:
    """Why a mount cannot use this pool; "" if it can."""
    if name not in pools:
        near = did_you_mean(name, [*pools, MAIN, OWN] if is_app else pools)
        hint = near or 'add it under "pools:"'
        return f"there is no pool {quote(name)}: {hint}"
    if name in asgi_mounts:
        return _taken(asgi_mounts[name])
    if is_app and pools[name].command:
        return f'the pool runs a command, not apps: mount it with "upstream: {PREFIX}{name}"'
    if not is_app and not pools[name].command:
        return f'the pool does not run a command: mount its apps with "app:" and "pool: {name}"'
    return ""


def _complain(reader: Reader, pair: Entry, key: str, message: str) -> None:
    found = find_key(pair.value, key)
    path = join("mounts", f"{pair.key.text}.{key}")
    reader.problems.add(found[1] if found else pair.key, path, message)
