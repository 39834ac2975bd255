"""Every key of the table, made from the model's fields, for the parser, schema and reference.

Owns only the names of the four sections. Source: ``gateway.limits`` and
``gateway.config.model``.
"""

from dataclasses import MISSING, Field, dataclass, fields, replace
from typing import Any, get_args, get_type_hints

from gateway.config.kinds import KINDS, Kind, choice
from gateway.config.kinds import section as section_kind
from gateway.config.model import (
    AppTarget,
    AsgiTarget,
    PoolSettings,
    ServerSettings,
    Target,
)
from gateway.limits import Admission, Limits, MountLimits, PoolLimits

TargetClass = type[Target] | type[AsgiTarget]

SECTIONS = {
    "server": "How the gateway listens, and its limits for clients.",
    "defaults": "Settings for every mount that does not set them itself.",
    "mounts": "Which app, directory, redirect or other server answers which host and path.",
    "pools": "Separate workers for the apps that need them.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One key: the dataclass field that it fills, how it is read, and its description ``why``."""

    key: str
    field: str
    kind: Kind
    why: str
    default: Any
    is_required: bool

    @property
    def within(self) -> "Settings":
        """The keys of a mapping of settings; none for any other kind."""
        return settings_of(self.kind.owner) if self.kind.owner else {}

    @property
    def shown_default(self) -> str:
        """The default as the table writes it; "" for none."""
        return self.kind.show(self.default) if isinstance(self.default, str | int | float) else ""


Settings = dict[str, Setting]


def settings_of(owner: type) -> Settings:
    """The keys that a dataclass's fields make, in order."""
    found = (_setting(field) for field in fields(owner) if "why" in field.metadata)
    return {setting.key: setting for setting in found}


def _setting(field: Field[Any]) -> Setting:
    rules = dict(field.metadata)
    why = rules.pop("why")
    key, kind = _key_and_kind(field, **rules)
    return Setting(
        key=key,
        field=field.name,
        kind=kind,
        why=why,
        default=field.default,
        is_required=field.default is MISSING and field.default_factory is MISSING,
    )


def _key_and_kind(
    field: Field[Any],
    *,
    key: str = "",
    reads: str = "",
    choices: tuple[Any, ...] = (),
    least: float | None = None,
    most: float | None = None,
    section: type | None = None,
    short: str = "",
    **_marks: str,
) -> tuple[str, Kind]:
    if section is not None:
        return field.name, section_kind(section, short)
    stem = _stem(field)
    if choices:
        return key or stem, choice(choices)
    unit = field.name.removeprefix(stem)
    kind = KINDS[reads or {"_seconds": "duration", "_bytes": "size", "": "count"}[unit]]
    if least is not None:
        kind = replace(kind, least=least)
    if most is not None:
        kind = replace(kind, most=most)
    return key or stem, kind


def _stem(field: Field[Any]) -> str:
    return field.name.removesuffix("_seconds").removesuffix("_bytes")


def key_of(field: Field[Any]) -> str:
    """What the table calls it; its own name for one that no key fills."""
    key: str = field.metadata.get("key", "")
    return key or _stem(field)


# The values that each mark may have, by the classes of the fields. See ``limits.setting``. Targets
# other than apps are built again at each edit, by the front workers.
Marks = dict[str, tuple[str, ...]]

_APPLIES: Marks = {"applies": ("in place", "new workers", "restart")}
_WHERE: Marks = {"where": ("front", "pool", "both")}
MARKS: dict[type, Marks] = {
    ServerSettings: _APPLIES,
    Limits: _APPLIES,
    PoolLimits: _APPLIES,
    PoolSettings: _APPLIES,
    AppTarget: _APPLIES,
    MountLimits: _APPLIES | _WHERE,
}
_GROUPS = (Limits, PoolLimits, Admission)  # a field that has one has no mark: theirs have


def check_marks(owner: type, marks: Marks) -> None:
    """Refuse a field that does not say what an edit of it needs, or who applies it. Raises
    TypeError."""
    types = get_type_hints(owner)
    for each in fields(owner):
        if not each.compare or types[each.name] in _GROUPS:
            continue
        for mark, values in marks.items():
            if each.metadata.get(mark) not in values:
                words = " or ".join(f'{mark}="{value}"' for value in values)
                raise TypeError(f"{owner.__name__}.{each.name}: write {words} (limits.setting)")


for _owner, _marks in MARKS.items():
    check_marks(_owner, _marks)

LIMITS = settings_of(Limits)
MOUNT_LIMITS = settings_of(MountLimits)
POOL_LIMITS = settings_of(PoolLimits)
ADMISSION = settings_of(Admission)
SERVER = settings_of(ServerSettings) | LIMITS | POOL_LIMITS
POOL = settings_of(PoolSettings) | POOL_LIMITS | ADMISSION

# By the key that says of which kind a mount is: that of the first field of its class.
TARGETS: dict[str, TargetClass] = {
    next(iter(settings_of(c))): c for c in (*get_args(Target), AsgiTarget)
}
TARGET_SETTINGS: dict[str, Settings] = {kind: settings_of(c) for kind, c in TARGETS.items()}
MOUNTS: dict[str, Settings] = {kind: own | MOUNT_LIMITS for kind, own in TARGET_SETTINGS.items()}
EVERY_MOUNT: Settings = {key: s for settings in MOUNTS.values() for key, s in settings.items()}
EVERY_MOUNT |= MOUNTS["app"]  # whose pool has another default than that of other kinds

# Every mount setting that has a default can be given another one.
DEFAULTS = {key: setting for key, setting in EVERY_MOUNT.items() if setting.default is not MISSING}


def take(values: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Take the values of ``settings`` out of ``values``: by field."""
    fields = {setting.field for setting in settings.values()}
    return {field: values.pop(field) for field in fields & values.keys()}


def places_of(key: str) -> list[str]:
    """Where in the table a key is valid, in words."""
    places = []
    if key in SECTIONS:
        places.append("at the top of the table, not indented")
    if key in SERVER:
        places.append('under "server:"')
    if key in POOL:
        places.append('in a pool under "pools:"')
    if key in MOUNT_LIMITS:
        places.append('in a mount or under "defaults:"')
    places += [f'in a mount with "{kind}:"' for kind, own in TARGET_SETTINGS.items() if key in own]
    return places
