"""A reload of some mounts and pools by name: which pools, and the table that results.

Pure functions of Configs; does not know how a reload is done.
"""

from collections.abc import Iterable
from dataclasses import replace

from gateway.config.model import MAIN, Config, Mount
from gateway.config.text.problems import BadValueError, did_you_mean, quote
from gateway.config.values.mountkey import parse_mount_key
from gateway.errors import ConfigError


def find_pools(config: Config, names: Iterable[str]) -> set[str]:
    """The pools that these ``names`` mean: those of mounts by their keys, or pools. Raises
    ConfigError."""
    mounts = {mount.name: mount.pool_name for mount in config.mounts}
    pools = {pool.name: pool.name for pool in config.pools} | {MAIN: MAIN}
    known = pools | mounts
    found, problems = set(), []
    for name in names:
        pool = known.get(name) or mounts.get(_as_key(name))
        if pool is None:
            hint = did_you_mean(name, known) or "`gateway routes` lists the mounts"
            problems.append(f"no mount or pool that is served is named {quote(name)}: {hint}")
        else:
            found.add(pool)
    if problems:
        raise ConfigError(problems)
    return found


def _as_key(text: str) -> str:
    try:
        return parse_mount_key(text).name
    except BadValueError:
        return ""


def take_over(running: Config, saved: Config, pools: Iterable[str]) -> Config:
    """``running`` with the settings that ``saved`` gives ``pools`` and their mounts. Mounts and
    pools that come, go or change their pool are left for a reload of the whole table."""
    names = set(pools)
    mounts = {mount.name: mount for mount in saved.mounts}
    owns = {pool.name: pool for pool in saved.pools}

    def choose(mount: Mount) -> Mount:
        new = mounts.get(mount.name, mount)
        return new if mount.pool_name in names and new.pool_name == mount.pool_name else mount

    return replace(
        running,
        mounts=tuple(map(choose, running.mounts)),
        pools=tuple(owns.get(p.name, p) if p.name in names else p for p in running.pools),
    )
