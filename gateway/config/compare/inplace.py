"""Which edits of the table running workers can take over without importing anything.

A pure function of two Configs; does not know how it is done. Source: the mark ``applies`` of each
setting (``limits.setting``).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any

from gateway.config.model import MAIN, AppTarget, Config, Mount
from gateway.config.settings import key_of

APPLIES = "new workers"


def find_reasons(old: Config, new: Config) -> list[str]:
    """Why workers of ``old`` cannot serve ``new``, as messages; none if they can.

    A callable that they have loaded may serve at another path, a factory's one product at one only.
    """
    place = "server" if new.pool.name == MAIN else f"pools.{new.pool.name}"
    keys = [f"server.{key}" for key in find_changed(old.server, new.server, APPLIES)]
    keys += [f"{place}.{key}" for key in find_changed(old.pool, new.pool, APPLIES)]
    before, after = _environment(old.mounts), _environment(new.mounts)
    variables = [
        f"the environment variable {name}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    return [f"{each} changes" for each in keys + variables] + list(_find_loads(old, new))


def find_changed(old: Any, new: Any, applies: str) -> Iterable[str]:
    """The keys of settings with this mark whose values differ between two dataclasses of one type,
    those of the groups in them too."""
    for field in fields(old):
        one, other = getattr(old, field.name), getattr(new, field.name)
        if not field.compare or one == other:
            continue
        if field.metadata.get("applies") == applies:
            yield key_of(field)
        elif "applies" not in field.metadata and is_dataclass(one):
            yield from find_changed(one, other, applies)


def _find_loads(old: Config, new: Config) -> Iterable[str]:
    """What has to be loaded that is not there."""
    loaded = Counter(app.load_key for app in _apps(old.mounts))
    wanted = Counter(app.load_key for app in _apps(new.mounts))
    known = {app.import_string: app for app in _apps(old.mounts)}
    apps = {app.load_key: app for app in _apps(new.mounts)}
    for key, count in wanted.items():
        name = apps[key].import_string
        if not loaded[key] and name in known:
            changed = find_changed(
                replace(known[name], env={}), replace(apps[key], env={}), APPLIES
            )
            yield f"{name} has to be imported again: {', '.join(changed)} changes"
        elif not loaded[key]:
            yield f"{name} has to be imported"
        elif name.endswith("()") and count > loaded[key]:
            yield f"{name} has to be called"


def _apps(mounts: Iterable[Mount]) -> Iterable[AppTarget]:
    return (mount.target for mount in mounts if isinstance(mount.target, AppTarget))


def _environment(mounts: Iterable[Mount]) -> dict[str, str]:
    return {name: value for app in _apps(mounts) for name, value in app.env.items()}
