"""What changes between two tables: mounts, settings, and which mount answers which URL.

A pure function of two Configs; does not know which of them is served.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields, is_dataclass, replace
from operator import attrgetter
from typing import Any

from gateway.config.compare.inplace import find_changed, find_reasons
from gateway.config.compare.slices import cut
from gateway.config.model import MAIN, Config, Mount
from gateway.config.settings import Setting, settings_of

IN_PLACE = "in place: no code is loaded again"

HostPrefix = tuple[str, str]  # host ("" for any) and prefix ("" for the root)


@dataclass(frozen=True, slots=True)
class Plan:
    """``added`` and ``removed`` name mounts, and pools as ``pool NAME``. ``changed`` has the
    settings that differ, by mount, by ``pools.NAME``, and of ``server``: key, old and new value.

    ``moved`` has each place whose owner changes though somebody owned it before and after: place,
    old owner and new one. ``reasons`` are why new workers start, by pool; without any the edit is
    served in place. ``restarts`` are the settings that only a restart of the gateway changes;
    there are no ``reasons`` then, since all workers are restarted.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: dict[str, tuple["SettingChange", ...]]
    moved: tuple[tuple[str, str, str], ...]
    reasons: dict[str, tuple[str, ...]]
    restarts: tuple[str, ...]

    def __bool__(self) -> bool:
        """Whether anything changes."""
        return bool(self.added or self.removed or self.changed)

    def describe(self) -> list[str]:
        """The lines to print; none if nothing changes."""
        lines = [f"+ {name}" for name in self.added]
        lines += [f"- {name}" for name in self.removed]
        for name, changes in self.changed.items():
            lines += [f"~ {name}: {change}" for change in changes]
        lines += [f"> {place}/* moves from {old} to {new}" for place, old, new in self.moved]
        for pool, reasons in self.reasons.items():
            whose = "" if pool == MAIN else f" of {pool}"
            lines += [f"! new workers{whose}: {reason}" for reason in reasons]
        lines += [f"! a restart: {key} changes" for key in self.restarts]
        is_in_place = self and not self.reasons and not self.restarts
        return [*lines, f"= {IN_PLACE}"] if is_in_place else lines


@dataclass(frozen=True, slots=True)
class SettingChange:
    """A setting by its key, and its values as the table writes them. What may be a secret is
    hidden."""

    key: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.key} {self.old} -> {self.new}" if self.old != self.new else self.key


def is_same(old: Config, new: Config) -> bool:
    """Whether they mean the same, in whatever order and at whatever lines."""
    return _in_order(old) == _in_order(new)


def _in_order(config: Config) -> Config:
    mounts = sorted(config.mounts, key=attrgetter("name"))
    pools = sorted(config.pools, key=attrgetter("name"))
    return replace(config, mounts=tuple(mounts), pools=tuple(pools))


def build_plan(old: Config, new: Config) -> Plan:
    """What changes from ``old`` to ``new``."""
    before = {mount.name: mount for mount in old.mounts}
    after = {mount.name: mount for mount in new.mounts}
    pools = {pool.name: pool for pool in old.pools}
    pools_after = {pool.name: pool for pool in new.pools}
    changed = {
        name: tuple(compare_mounts(before[name], mount))
        for name, mount in after.items()
        if name in before
    }
    for name in pools.keys() & pools_after.keys():
        changed[f"pools.{name}"] = tuple(compare_fields(pools[name], pools_after[name]))
    changed["server"] = tuple(compare_fields(old.server, new.server))
    restarts = tuple(f"server.{key}" for key in find_changed(old.server, new.server, "restart"))
    return Plan(
        added=_names(after, before, pools_after, pools),
        removed=_names(before, after, pools, pools_after),
        changed={name: changes for name, changes in changed.items() if changes},
        moved=tuple(find_moved(old.mounts, new.mounts)),
        reasons={} if restarts else dict(find_starts(old, new)),
        restarts=restarts,
    )


def _names(
    here: Collection[str], there: Collection[str], pools: Collection[str], others: Collection[str]
) -> tuple[str, ...]:
    mounts = sorted(name for name in here if name not in there)
    return (*mounts, *(f"pool {name}" for name in sorted(pools) if name not in others))


def find_starts(old: Config, new: Config) -> Iterable[tuple[str, tuple[str, ...]]]:
    """Each pool that needs new workers, and why."""
    before, after = (cut(config, _nowhere, lambda _: ()) for config in (old, new))
    for name, own in after.items():
        reasons = find_reasons(before[name], own) if name in before else ["the pool is new"]
        if reasons:
            yield name, tuple(reasons)


def _nowhere(_: str) -> str:
    return ""


def compare_mounts(old: Mount, new: Mount) -> Iterable[SettingChange]:
    """The settings of a mount that differ. Its place in the file is not one."""
    if type(old.target) is not type(new.target):
        yield SettingChange("target", _show_target(old), _show_target(new))
    else:
        yield from compare_fields(old.target, new.target)
    yield from compare_fields(old.limits, new.limits)


def compare_fields(old: Any, new: Any, path: str = "") -> Iterable[SettingChange]:
    """The settings that differ in two dataclasses of one type, nested ones too; ``path`` is the key
    of the dataclass."""
    settings = {setting.field: setting for setting in settings_of(type(old)).values()}
    for field in fields(old):
        one, other = getattr(old, field.name), getattr(new, field.name)
        if one == other:
            continue
        setting = settings.get(field.name)
        key = path + (setting.key if setting else field.metadata.get("key", ""))
        if is_dataclass(one) and is_dataclass(other):
            yield from compare_fields(one, other, f"{key}." if setting else key)
        elif isinstance(one, dict):
            # the values of environment variables are often secrets: only their names are shown
            names = sorted(
                name for name in one.keys() | other.keys() if one.get(name) != other.get(name)
            )
            yield from (SettingChange(f"{key}.{name}", "", "") for name in names)
        elif setting:
            yield SettingChange(key, _show(setting, one), _show(setting, other))
        elif key != path:
            yield SettingChange(key, "", "")  # the same file with other content


def find_moved(old: Iterable[Mount], new: Iterable[Mount]) -> Iterable[tuple[str, str, str]]:
    """Each place whose URLs another mount answers afterwards: place, old owner, new owner.

    Owners can change at a mount's own prefix alone, at its host or, for one of any host, at each. A
    place is left out if it follows from one above it, or from a change at any host.
    """
    before = {(m.host or "", m.prefix): m.name for m in old}
    after = {(m.host or "", m.prefix): m.name for m in new}
    places = before.keys() | after.keys()
    anywhere = {prefix for host, prefix in places if not host}
    moves: dict[HostPrefix, tuple[str, str]] = {}
    for host in sorted({host for host, _ in places} | {""}):
        for prefix in sorted(anywhere | {prefix for own, prefix in places if own == host}):
            move = owner(before, host, prefix), owner(after, host, prefix)
            moves[host, prefix] = move
            follows = move in (_above(moves, host, prefix), host and moves.get(("", prefix)))
            if all(move) and move[0] != move[1] and not follows:
                yield f"{host}{prefix}", *move


def _above(
    moves: dict[HostPrefix, tuple[str, str]], host: str, prefix: str
) -> tuple[str, str] | None:
    """The owners at the nearest place above."""
    while prefix:
        prefix = prefix.rpartition("/")[0]
        if (host, prefix) in moves:
            return moves[host, prefix]
    return None


def owner(mounts: dict[HostPrefix, str], host: str, path: str) -> str:
    """The name of the mount that answers ``path`` at ``host``; "" for none."""
    for own_host in (host, "") if host else ("",):
        prefix = path
        while True:
            found = mounts.get((own_host, prefix))
            if found:
                return found
            if not prefix:
                break
            prefix = prefix.rpartition("/")[0]
    return ""


def _show_target(mount: Mount) -> str:
    first = next(iter(settings_of(type(mount.target)).values()))
    return f"{first.key} {_show(first, getattr(mount.target, first.field))}"


def _show(setting: Setting, value: Any) -> str:
    """As the table writes it."""
    if value is None or value == "":
        return "none"
    if isinstance(value, tuple):
        return f"[{', '.join(map(setting.kind.show, value))}]"
    if is_dataclass(value):
        own = settings_of(type(value)).values()
        said = ((each, getattr(value, each.field)) for each in own)
        texts = (f"{each.key}: {_show(each, one)}" for each, one in said if one != each.default)
        return f"{{{', '.join(texts)}}}"
    return setting.kind.show(value)
