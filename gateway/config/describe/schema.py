"""The JSON Schema of the table, so that an editor completes and underlines it.

Owns no key: all come from the model's fields. An editor cannot follow ``${…}`` or look for files,
so it accepts any value with an interpolation, and ``gateway check`` decides. Source:
JSON Schema draft-07, the newest that the YAML language server knows whole.
"""

from typing import Any

from gateway.config.kinds import ENVIRONMENT_NAME_PATTERN, POOL_NAME_PATTERN, Kind
from gateway.config.settings import (
    DEFAULTS,
    MOUNTS,
    POOL,
    SECTIONS,
    SERVER,
    TARGETS,
    Setting,
    Settings,
)
from gateway.config.values.importstring import IMPORT_STRING_PATTERN
from gateway.config.values.mountkey import MOUNT_KEY_PATTERN

Schema = dict[str, Any]

_INTERPOLATED = r"\$[{$]"


def build_schema() -> Schema:
    """The schema as JSON values."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "mounts.yaml",
        "description": "Which Python app answers which path.",
        "type": "object",
        "required": ["mounts"],
        "additionalProperties": False,
        "properties": {
            "server": _section("server", SERVER),
            "defaults": _section("defaults", DEFAULTS),
            "mounts": {
                "description": SECTIONS["mounts"],
                "type": "object",
                "minProperties": 1,
                "propertyNames": {"pattern": _whole(MOUNT_KEY_PATTERN)},
                "additionalProperties": {
                    "anyOf": [
                        {
                            "type": "string",
                            "pattern": _whole_or_interpolated(IMPORT_STRING_PATTERN),
                        },
                        *({"$ref": f"#/definitions/{kind}"} for kind in TARGETS),
                    ]
                },
            },
            "pools": {
                "description": SECTIONS["pools"],
                "type": ["object", "null"],
                "propertyNames": {"pattern": _whole(POOL_NAME_PATTERN)},
                "additionalProperties": {"type": ["object", "null"], **_keys(POOL)},
            },
        },
        "definitions": {
            kind: {"type": "object", "required": [kind], **_keys(settings)}
            for kind, settings in MOUNTS.items()
        },
    }


def _section(name: str, settings: Settings) -> Schema:
    return {"description": SECTIONS[name], "type": ["object", "null"], **_keys(settings)}


def _keys(settings: Settings) -> Schema:
    properties = {key: _value(setting) for key, setting in settings.items()}
    return {"properties": properties, "additionalProperties": False}


def _value(setting: Setting) -> Schema:
    default = f" Default: {setting.shown_default}." if setting.shown_default else ""
    schema: Schema = {"description": setting.why + default}
    if setting.kind.shape == "list":
        schema |= {"type": "array", "items": _single(setting.kind)}
    elif setting.kind.shape == "one or more":
        one = _single(setting.kind)
        schema |= {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}
    elif setting.kind.shape == "mapping":
        schema |= {
            "type": ["object", "null"],
            "propertyNames": {"pattern": _whole(ENVIRONMENT_NAME_PATTERN)},
            "additionalProperties": _single(setting.kind),
        }
    elif setting.within:
        mapping: Schema = {"type": ["object", "null"], **_keys(setting.within)}
        short = setting.within.get(setting.kind.short)
        schema |= {"anyOf": [_single(short.kind), mapping]} if short else mapping
    else:
        schema |= _single(setting.kind)
    return schema


def _single(kind: Kind) -> Schema:
    if kind.choices:
        texts = {"type": "string", "pattern": _INTERPOLATED}
        return {"anyOf": [{"enum": list(kind.choices)}, texts]}
    text: Schema = {"type": "string"}
    if kind.pattern:
        text["pattern"] = _whole_or_interpolated(kind.pattern)
    if kind.is_number:
        return text | {"type": ["integer", "string"], "minimum": kind.least, "maximum": kind.most}
    if kind.is_free_text:
        return text | {"type": ["string", "integer"]}
    if kind.least == 0:
        return text | {"type": ["string", "integer"], "minimum": 0, "maximum": 0}
    return text


def _whole(pattern: str) -> str:
    return f"^(?:{pattern})$"


def _whole_or_interpolated(pattern: str) -> str:
    return f"{_whole(pattern)}|{_INTERPOLATED}"
