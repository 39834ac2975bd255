"""The reference page of the table, docs/table.md.

Owns the prose about the table's form; every key, default and reason comes from the model's
fields. Source: the settings.
"""

from gateway.config.kinds import KINDS
from gateway.config.settings import (
    DEFAULTS,
    MOUNT_LIMITS,
    POOL,
    SECTIONS,
    SERVER,
    TARGET_SETTINGS,
    Setting,
    Settings,
)

_INTRODUCTION = """\
# The table

One YAML file, `apps/mounts.yaml`, says which app answers which path. This page is generated from
the code that reads the table. `gateway check` checks a table without serving it.

```yaml
# yaml-language-server: $schema=mounts.schema.json
server:
  listen: unix:/run/http/gateway.sock
  trusted_proxies: ["unix:33"]          # trust X-Forwarded-* from processes of this user
defaults:
  timeout: 30s
mounts:
  /: welcome:app                        # a string is an app
  /notes:                               # a mapping says more
    app: notes.wsgi:create_app()
    env: {NOTES_DB: "${NOTES_DB:-/data/notes.db}"}
    max_body: 64MiB
  /files: {static: ./public, cache: 1h}
  /old: {redirect: /notes, status: 308}
  legacy.example.com/: legacy.app:app   # one host's own
```

Everything is checked before anything starts, and all problems are reported together, each on one
line with its place:

```
apps/mounts.yaml:3:12: server.workers: expected a whole number such as 4, or "auto", got "many"
```
"""

_MOUNT_KEYS = """\
The key is `/path` for any host, or `host/path` for one. The prefix `/shop` matches `/shop` itself
and everything below `/shop/`, but not `/shopping`; the longest prefix wins, and a host's own mounts
come before those of any host. Where nothing is mounted, the answer is 404.

- Write the path decoded: a letter instead of its `%XX`. A slash at its end changes nothing.
- Write the host without a port. Its case does not matter; an international name can be written as
  it is or as `xn--…`.
- The value is an import string of an app, or a mapping with exactly one of {kinds}.
"""

_POOLS = """\
The key is the name that mounts refer to by `pool`; the value is a mapping of these settings. A pool
that no mount refers to is not started. The front workers, which accept requests and serve all other
mounts, are not a pool of the table: their settings are those of `server`.
"""

_TEXT = """\
Text that YAML 1.1 would not read as text (`no`, `on`, `1.0`, `12:30`, `2026-01-31`) needs quotes.
Unknown keys, duplicate keys, tags, merge keys (`<<`) and a second document are problems; anchors
and aliases are allowed.

## Variables and secrets

In every value, but not in keys:

- `${NAME}` is a variable of the gateway's environment; it is a problem if it is not set.
- `${NAME:-default}` has a default for a variable that is not set or empty, `${NAME-default}` for
  one that is not set. A default may contain further `${…}`.
- `${NAME:?message}` and `${NAME?message}` are problems with that message in the same two cases.
- `${file:/run/secrets/name}` is the text of a file, without the line breaks at its end. It is
  never shown in a message.
- `$$` is a dollar sign.

Inside `{…}` or `[…]`, put a value with `${…}` in quotes. The result is always one value: it cannot
add keys or lists.
"""


def build_reference() -> str:
    """The page, in Markdown."""
    kinds = ", ".join(f"`{kind}`" for kind in TARGET_SETTINGS)
    parts = [
        _INTRODUCTION,
        _section("server", _table(SERVER)),
        _section("defaults", f"Any of {_list(DEFAULTS)}, as described below.\n"),
        _section("mounts", _MOUNT_KEYS.replace("{kinds}", kinds)),
        *(f"### A mount with `{k}`\n\n{_table(own)}" for k, own in TARGET_SETTINGS.items()),
        f"### Any mount\n\n{_table(MOUNT_LIMITS)}",
        _section("pools", f"{_POOLS}\n{_table(POOL)}"),
        f"## Values\n\n{_forms()}",
        _TEXT,
    ]
    return "\n".join(parts)


def _section(name: str, text: str) -> str:
    return f"## `{name}`\n\n{SECTIONS[name]}\n\n{text}"


def _list(settings: Settings) -> str:
    return ", ".join(f"`{key}`" for key in settings)


def _table(settings: Settings) -> str:
    rows = ["| Key | Kind | Default | Meaning |", "|---|---|---|---|"]
    for setting in settings.values():
        rows.append(_row(setting.key, setting))
        rows += [_row(f"{setting.key}.{key}", own) for key, own in setting.within.items()]
    return "\n".join(rows) + "\n"


def _forms() -> str:
    rows = [f"| {kind.name} | {kind.form} |" for kind in KINDS.values() if kind.form]
    return "\n".join(["| Kind | Form |", "|---|---|", *rows]) + "\n"


def _row(key: str, setting: Setting) -> str:
    if setting.is_required:
        default = "required"
    else:
        default = f"`{setting.shown_default}`" if setting.shown_default else "none"
    cells = (f"`{key}`", setting.kind.name, default, setting.why)
    return f"| {' | '.join(cells)} |"
