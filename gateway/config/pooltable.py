"""``pools:``, and which mount runs in which of them.

Refuses to know how processes are started. Source: the settings of a pool.
"""

import re
from collections.abc import Iterable
from dataclasses import replace

from gateway.config.kinds import KINDS, POOL_NAME_PATTERN
from gateway.config.model import AppTarget, Mount, Pool, Where
from gateway.config.nodes import find_key
from gateway.config.problems import did_you_mean, quote
from gateway.config.reader import Pair, Pairs, Reader, join
from gateway.config.settings import ADMISSION, POOL, POOL_LIMITS, take
from gateway.limits import Admission, PoolLimits

# names with a meaning of their own in a mount's ``pool:``
MAIN, OWN = "main", "own"


def parse_pools(reader: Reader, pairs: Pairs) -> dict[str, Pool]:
    """The pools that the table names, by name."""
    pools = {}
    for name, pair in pairs.items():
        path = join("pools", name)
        if name == MAIN:
            message = 'the front workers are no pool of the table: set them under "server:"'
            reader.problems.add(pair.key, path, message)
        elif name == OWN or not re.fullmatch(POOL_NAME_PATTERN, name):
            expected = KINDS["pool name"].expected.partition(",")[0]
            message = f"expected {expected}, got {quote(name)}"
            reader.problems.add(pair.key, path, message)
        own = reader.pairs(pair.value, path, "a mapping of settings") or {}
        where = Where(line=pair.key.line, column=pair.key.column)
        values = reader.settings(own, path, POOL)
        limits = PoolLimits(**take(values, POOL_LIMITS))
        admission = Admission(**take(values, ADMISSION))
        pools[name] = Pool(name=name, where=where, limits=limits, admission=admission, **values)
        check_memory(reader, own, path, limits)
        if "venv" in own:
            for other in ("python", "requirements"):
                if other in own:
                    message = f'a pool has either "venv" or "{other}": remove one of them'
                    reader.problems.add(own[other].key, join(path, other), message)
        if "threads" in own and pools[name].concurrency != "threads":
            message = 'only counts with "concurrency: threads": add that or remove this'
            reader.problems.add(own["threads"].key, join(path, "threads"), message)
    return pools


def check_memory(reader: Reader, pairs: Pairs, path: str, limits: PoolLimits) -> None:
    """Note a hard limit that leaves no room for the soft one."""
    if 0 < limits.max_memory_hard_bytes <= limits.max_memory_bytes:
        key = "max_memory_hard" if "max_memory_hard" in pairs else "max_memory"
        message = "a worker would be killed before max_memory has it replaced"
        hint = "raise it, or lower max_memory"
        reader.problems.add(pairs[key].value, join(path, key), f"{message}: {hint}")


def assign_pools(
    reader: Reader, read: Iterable[tuple[Pair, Mount]], pools: dict[str, Pool]
) -> tuple[tuple[Mount, ...], tuple[Pool, ...]]:
    """The mounts, each with the name of its pool, and the pools that are used."""
    mounts = []
    used: dict[str, Pool] = {}
    for pair, mount in read:
        target = mount.target
        mounts.append(mount)
        if not isinstance(target, AppTarget) or target.pool == MAIN:
            continue
        if target.pool == OWN:
            used[mount.name] = Pool(name=mount.name, where=mount.where)
            mounts[-1] = replace(mount, target=replace(target, pool=mount.name))
        elif target.pool in pools:
            used[target.pool] = pools[target.pool]
        else:
            _complain(reader, pair, target.pool, pools)
    return tuple(mounts), tuple(used.values())


def _complain(reader: Reader, pair: Pair, wanted: str, pools: dict[str, Pool]) -> None:
    near = did_you_mean(wanted, [*pools, MAIN, OWN])
    hint = near or 'add it under "pools:"'
    found = find_key(pair.value, "pool")
    path = join("mounts", f"{pair.key.text}.pool")
    message = f"there is no pool {quote(wanted)}: {hint}"
    reader.problems.add(found[1] if found else pair.key, path, message)
