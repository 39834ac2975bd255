"""Which loaded app serves which mount of another table, so that nothing is imported again.

Does not know how apps are loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from gateway.config.model import AppTarget, Mount, UpstreamTarget
from gateway.wsgi import WSGIApp

LoadKey = tuple[Any, ...]


def reuse_apps(
    running: Collection[Mount], apps: dict[str, WSGIApp], wanted: Collection[Mount]
) -> dict[str, WSGIApp]:
    """The app of each wanted mount that has one already, by the mount's name. ``apps`` has those of
    the running ones. An upstream mount that stays as it is keeps its connections.

    A mount keeps its own; one that has none gets what was loaded for another in the same way. A
    factory's product serves one mount only. Raises LookupError if an app would have to be loaded
    (``config.compare.inplace`` finds that beforehand).
    """
    targets = {mount.name: mount.target for mount in running}
    found = {
        mount.name: apps[mount.name]
        for mount in wanted
        if isinstance(mount.target, UpstreamTarget) and targets.get(mount.name) == mount.target
    }
    loaded = _load_keys(running)
    left = dict(loaded)
    wishes = _load_keys(wanted)
    for name, key in wishes.items():
        if left.get(name) == key:
            del left[name]
            found[name] = apps[name]
    for name in [name for name in wishes if name not in found]:
        key = wishes[name]
        giver = _find(left, key)
        if giver is None and not key[0].endswith("()"):
            giver = _find(loaded, key)
        if giver is None:
            raise LookupError(f"{key[0]} would have to be loaded")
        left.pop(giver, None)
        found[name] = apps[giver]
    return found


def _find(mounts: dict[str, LoadKey], key: LoadKey) -> str | None:
    return next((name for name, loaded in mounts.items() if loaded == key), None)


def _load_keys(mounts: Iterable[Mount]) -> dict[str, LoadKey]:
    return {m.name: m.target.load_key for m in mounts if isinstance(m.target, AppTarget)}
