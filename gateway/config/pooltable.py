"""``pools:``, and which mount runs in which of them.

Refuses to know how processes are started. Source: the settings of a pool.
"""

import re
from collections.abc import Iterable
from dataclasses import replace

from gateway.config.kinds import KINDS, POOL_NAME_PATTERN
from gateway.config.model import AppTarget, Mount, Pool
from gateway.config.nodes import find_key
from gateway.config.problems import did_you_mean, quote
from gateway.config.reader import Pair, Pairs, Reader, join
from gateway.config.settings import POOL

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
        own = reader.pairs(pair.value, path, "a mapping of settings")
        pools[name] = Pool(name=name, **reader.settings(own or {}, path, POOL))
    return pools


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
            used[mount.name] = Pool(name=mount.name)
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
