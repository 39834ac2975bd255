"""``mounts:``, read and checked as a whole.

Owns the rules for mounts together; does not know how they are served. Source: the settings of each
kind of mount.
"""

from dataclasses import dataclass
from typing import Any

from gateway.config.asgi import lead_to_pool
from gateway.config.kinds import KINDS
from gateway.config.model import MAIN, AppTarget, AsgiTarget, Mount, PoolSettings, Where
from gateway.config.pooltable import OWN, assign_pools
from gateway.config.reader import Entries, Entry, Reader, join
from gateway.config.redirects import find_loops
from gateway.config.settings import (
    EVERY_MOUNT,
    MOUNT_LIMITS,
    MOUNTS,
    TARGET_SETTINGS,
    TARGETS,
    Settings,
)
from gateway.config.text.nodes import Mapping, Node, Scalar, describe_node, find_key
from gateway.config.text.problems import BadValueError, quote
from gateway.config.values.importstring import check_module
from gateway.config.values.mountkey import MountKey, parse_mount_key
from gateway.limits import MountLimits

_KINDS = ", ".join(TARGETS)
_EXPECTED = f'an app such as "notes.wsgi:app", or a mapping with one of {_KINDS}'


@dataclass(frozen=True, slots=True)
class _Read:
    """A mount beside what it was read from; ``asgi`` is the app of one that leads to its pool."""

    pair: Entry
    mount: Mount
    asgi: AsgiTarget | None


def parse_mounts(
    reader: Reader, node: Node, defaults: dict[str, Any], pools: dict[str, PoolSettings]
) -> tuple[tuple[Mount, ...], tuple[PoolSettings, ...]]:
    """The mounts that could be read, and the ``pools`` that they use. ``defaults`` are by field
    name."""
    pairs = reader.pairs(
        node, "mounts", 'a mapping such as "/notes: notes.wsgi:app", a space after the colon'
    )
    if pairs == {} and not (isinstance(node, Mapping) and node.items):
        reader.problems.add(node, "mounts", 'expected at least one mount such as "/: welcome:app"')
    first_of: dict[MountKey, Scalar] = {}
    read = []
    for pair in (pairs or {}).values():
        key = _parse_key(reader, pair.key, first_of)
        one = _parse_mount(reader, pair, key, defaults)
        if one is not None:
            read.append(one)
    _check_environment(reader, read)
    _check_modules(reader, read, pools)
    if len(read) == len(
        pairs or {}
    ):  # otherwise, a mount that could not be read may be the destination
        _check_loops(reader, read)
    return assign_pools(reader, [(one.pair, one.mount, one.asgi) for one in read], pools)


def _parse_key(reader: Reader, key: Scalar, first_of: dict[MountKey, Scalar]) -> MountKey | None:
    path = join("mounts", key.text)
    try:
        parsed = parse_mount_key(key.text)
    except BadValueError as bad:
        message = f'expected "/path" or "host/path", got {quote(key.text)}: {bad.hint}'
        reader.problems.add(key, path, message)
        return None
    first = first_of.setdefault(parsed, key)
    if first is not key:
        place = f"line {first.line}, column {first.column}"
        message = f"{quote(parsed.name)} is already mounted, in {place}: remove one of them"
        reader.problems.add(key, path, message)
    return parsed


def _parse_mount(
    reader: Reader, pair: Entry, key: MountKey | None, defaults: dict[str, Any]
) -> _Read | None:
    path = join("mounts", pair.key.text)
    if isinstance(pair.value, Mapping):
        pairs = reader.pairs(pair.value, path, _EXPECTED) or {}
        kind = _kind_of(reader, pair, pairs)
        values = reader.settings(pairs, path, MOUNTS.get(kind, EVERY_MOUNT))
    else:
        kind, values = "app", _parse_short(reader, pair.value, path)
    if not kind or key is None:
        return None
    own = TARGET_SETTINGS[kind]
    if any(setting.is_required and setting.field not in values for setting in own.values()):
        return None
    values = {**defaults, **values}
    target = TARGETS[kind](**_of(own, values))
    asgi = target if isinstance(target, AsgiTarget) else None
    mount = Mount(
        name=key.name,
        host=key.host,
        prefix=key.prefix,
        target=lead_to_pool(target) if isinstance(target, AsgiTarget) else target,
        limits=MountLimits(**_of(MOUNT_LIMITS, values)),
        where=Where(line=pair.key.line, column=pair.key.column),
    )
    return _Read(pair, mount, asgi)


def _of(settings: Settings, values: dict[str, Any]) -> dict[str, Any]:
    fields = [setting.field for setting in settings.values()]
    return {field: values[field] for field in fields if field in values}


def _parse_short(reader: Reader, node: Node, path: str) -> dict[str, Any]:
    """A mount that is a string is an app."""
    setting = TARGET_SETTINGS["app"]["app"]
    if not isinstance(node, Scalar) or describe_node(node) == "nothing":
        reader.problems.add(node, path, f"expected {_EXPECTED}, got {describe_node(node)}")
        return {}
    value = reader.single(node, path, setting.kind)
    return {} if value is None else {setting.field: value}


def _kind_of(reader: Reader, pair: Entry, pairs: Entries) -> str:
    """The key that says of which kind the mount is; "" with a problem recorded."""
    given = [key for key in pairs if key in TARGETS]
    path = join("mounts", pair.key.text)
    if not given:
        reader.problems.add(pair.value, path, f"expected one of the keys {_KINDS}")
    for other in given[1:]:
        message = f'a mount has either "{given[0]}" or "{other}": remove one of them'
        reader.problems.add(pairs[other].key, join(path, other), message)
    return given[0] if len(given) == 1 else ""


_RENAME = "the mounts of a pool share one environment, so rename one of the two"
_ADVICE = {
    "DJANGO_SETTINGS_MODULE": "two Django projects cannot share a process: give one of them "
    '"pool: own"',
}


def _check_environment(reader: Reader, read: list[_Read]) -> None:
    """The mounts of a pool share processes, and so the variables of one environment."""
    first_of: dict[tuple[str, str], _Read] = {}
    values: dict[tuple[str, str], str] = {}
    for one in read:
        target = one.mount.target
        if not isinstance(target, AppTarget) or target.pool == OWN:
            continue
        for name, value in target.env.items():
            first = first_of.setdefault((target.pool, name), one)
            if values.setdefault((target.pool, name), value) != value:
                path = join("mounts", f"{one.pair.key.text}.env.{name}")
                place = _variable_place(first, name)
                message = (
                    f'"{first.mount.name}" sets it to another value in line {place.line}, column '
                    f"{place.column}: {_ADVICE.get(name, _RENAME)}"
                )
                reader.problems.add(_variable_place(one, name), path, message)


def _check_modules(reader: Reader, read: list[_Read], pools: dict[str, PoolSettings]) -> None:
    """Check that each app's module exists, unless another Python runs it, which may have others."""
    for one in read:
        target = one.asgi or one.mount.target
        if not isinstance(target, AppTarget | AsgiTarget):
            continue
        pool = pools.get(target.pool, PoolSettings(name=MAIN))
        if pool.python or pool.venv or pool.requirements:
            continue
        try:
            with reader.touching(one.pair.key, join("mounts", one.pair.key.text)):
                directory = pool.directory or reader.interpolator.directory
                check_module(target.import_string, directory)
        except BadValueError as bad:
            kind = "asgi" if one.asgi else "app"
            found = find_key(one.pair.value, kind)
            node, path = one.pair.value, join("mounts", one.pair.key.text)
            if found:
                node, path = found[1], join(path, kind)
            if isinstance(node, Scalar):
                reader.complain(node, path, KINDS["import string"], bad)


def _variable_place(read: _Read, name: str) -> Scalar:
    env = find_key(read.pair.value, "env")
    found = find_key(env[1], name) if env else None
    return found[0] if found else read.pair.key


def _check_loops(reader: Reader, read: list[_Read]) -> None:
    pairs = {one.mount.name: one.pair for one in read}
    for mount, names in find_loops(one.mount for one in read):
        pair = pairs[mount.name]
        found = find_key(pair.value, "redirect")
        way = " to ".join(quote(name) for name in names)
        message = f"leads back to itself, {way}: redirect it to another mount"
        path = join("mounts", f"{pair.key.text}.redirect")
        reader.problems.add(found[1] if found else pair.key, path, message)
