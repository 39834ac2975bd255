"""Which loaded app serves which mount of another table, so that nothing is imported again.

Refuses to know how apps are loaded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from gateway.config.model import AppTarget, Mount, UpstreamTarget
from gateway.wsgi import WSGIApp


def reuse_apps(
    running: Collection[Mount], apps: dict[str, WSGIApp], wanted: Collection[Mount]
) -> dict[str, WSGIApp]:
    """The app of each wanted mount that has one already, by the mount's name. ``apps`` has those of
    the running ones. An upstream mount that stays as it is keeps its connections.

    A mount keeps its own; one that has none gets what its import string made for another. A
    factory's product serves one mount only. Raises LookupError where an app would have to be loaded
    (``gateway.config.inplace`` tells beforehand).
    """
    targets = {mount.name: mount.target for mount in running}
    found = {
        mount.name: apps[mount.name]
        for mount in wanted
        if isinstance(mount.target, UpstreamTarget) and targets.get(mount.name) == mount.target
    }
    loaded = _import_strings(running)
    left = dict(loaded)
    wishes = _import_strings(wanted)
    for name, import_string in wishes.items():
        if left.get(name) == import_string:
            del left[name]
            found[name] = apps[name]
    for name in [name for name in wishes if name not in found]:
        giver = _find(left, wishes[name])
        if giver is None and not wishes[name].endswith("()"):
            giver = _find(loaded, wishes[name])
        if giver is None:
            raise LookupError(f"{wishes[name]} would have to be loaded")
        left.pop(giver, None)
        found[name] = apps[giver]
    return found


def _find(mounts: dict[str, str], import_string: str) -> str | None:
    return next((name for name, loaded in mounts.items() if loaded == import_string), None)


def _import_strings(mounts: Iterable[Mount]) -> dict[str, str]:
    return {m.name: m.target.import_string for m in mounts if isinstance(m.target, AppTarget)}
