"""Which edits of the table running workers can take over without importing anything.

A pure function of two Configs; refuses to know how it is done. Source: what a worker decides before
it accepts, and cannot decide again.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import fields

from gateway.config.model import AppTarget, Config, Mount, Pool

# decided once in a worker's life; all other settings of the server are not the workers' or can be
# taken over
_OF_A_START = ("workers", "trusted_proxies", "proxy_protocol", "access_log")
# what a pool's workers need not know
_OF_THE_SUPERVISOR = ("where", "idle_seconds", "limits", "env_file_strays")


def find_reasons(old: Config, new: Config) -> list[str]:
    """Why workers of ``old`` cannot serve ``new``, each as a person reads it; none where they can.

    A callable that they have loaded may serve at another path, a factory's one product at one only.
    """
    reasons = [
        f"server.{key} changes"
        for key in _OF_A_START
        if getattr(old.server, key) != getattr(new.server, key)
    ]
    place = "server" if new.pool.name == "main" else f"pools.{new.pool.name}"
    reasons += [
        f"{place}.{field.metadata.get('key', field.name)} changes"
        for field in fields(Pool)
        if field.name not in _OF_THE_SUPERVISOR
        and getattr(old.pool, field.name) != getattr(new.pool, field.name)
    ]
    before, after = _environment(old.mounts), _environment(new.mounts)
    reasons += [
        f"the environment variable {name} changes"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    loaded, wanted = _count(old.mounts), _count(new.mounts)
    for import_string, count in wanted.items():
        if not loaded[import_string]:
            reasons.append(f"{import_string} has to be imported")
        elif import_string.endswith("()") and count > loaded[import_string]:
            reasons.append(f"{import_string} has to be called")
    return reasons


def _apps(mounts: Iterable[Mount]) -> Iterable[AppTarget]:
    return (mount.target for mount in mounts if isinstance(mount.target, AppTarget))


def _environment(mounts: Iterable[Mount]) -> dict[str, str]:
    return {name: value for app in _apps(mounts) for name, value in app.env.items()}


def _count(mounts: Iterable[Mount]) -> Counter[str]:
    return Counter(app.import_string for app in _apps(mounts))
