"""The kinds of value that a setting can have: how each is read, bounded, described and shown.

Refuses to know which settings there are. Source: the modules that read each kind.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gateway.config.text.problems import BadValueError
from gateway.config.values import addresses, importstring, paths, processes, units, upstreams

POOL_NAME_PATTERN = "[a-z0-9][a-z0-9_-]{0,31}"
ENVIRONMENT_NAME_PATTERN = "[A-Za-z_][A-Za-z0-9_]*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How one value is read.

    ``name`` is the kind's own, ``expected`` what messages ask for, ``form`` what the reference says
    ("" if the name is enough). ``parse`` gets the text and the table's directory and raises
    BadValueError. ``pattern`` is the text's form before interpolation, for editors ("" for any).
    """

    name: str
    expected: str
    parse: Callable[[str, Path], Any]
    pattern: str = ""
    form: str = ""
    shape: Literal["single", "list", "one or more", "mapping", "section"] = "single"
    is_number: bool = False  # a YAML number is accepted, as well as text
    is_free_text: bool = False  # any text is valid, so it must not mean something else in YAML
    least: float = float("-inf")
    most: float = float("inf")
    show: Callable[[Any], str] = str
    choices: tuple[Any, ...] = ()
    owner: type | None = None  # of a section: the dataclass that its keys fill
    short: str = ""  # of a section: the key whose value may be given instead of the mapping


def section(owner: type, short: str) -> Kind:
    """A mapping of settings, or the value of its key ``short``, if it has one."""
    name = "mapping of settings"
    return Kind(
        name=f"{short}, or {name}" if short else name,
        expected=f"a {name}",
        parse=lambda text, _directory: text,
        shape="section",
        owner=owner,
        short=short,
    )


def choice(choices: tuple[Any, ...]) -> Kind:
    """One of a few words or numbers."""
    by_text = {str(value): value for value in choices}

    def parse(text: str, _directory: Path) -> Any:
        if text in by_text:
            return by_text[text]
        raise BadValueError(f'write "{text.lower()}"' if text.lower() in by_text else "")

    pattern = "|".join(map(re.escape, by_text))
    words = f"one of {', '.join(by_text)}"
    return Kind(name=words, expected=words, parse=parse, pattern=pattern, choices=choices)


def parse_pool_name(text: str) -> str:
    """Raises BadValueError."""
    if not re.fullmatch(POOL_NAME_PATTERN, text):
        raise BadValueError("use lower-case letters, digits, - and _, at most 32")
    return text


def _alone(parse: Callable[[str], Any]) -> Callable[[str, Path], Any]:
    return lambda text, _directory: parse(text)


KINDS = {
    "duration": Kind(
        name="duration",
        expected='a duration such as "30s", "5m" or "1m30s"',
        parse=_alone(units.parse_duration),
        form="A number with `ms`, `s`, `m`, `h` or `d`, or several of them: `250ms`, `30s`, "
        "`1m30s`, `1.5h`. Only `0` needs no unit.",
        pattern=units.DURATION_PATTERN,
        least=0.001,
        most=3650 * 86_400.0,
        show=units.format_duration,
    ),
    "size": Kind(
        name="size",
        expected='a size such as "64KiB", "16MiB" or "1GiB"',
        parse=_alone(units.parse_size),
        form="A whole number and `B`; `KiB`, `MiB`, `GiB`, `TiB` (powers of 1024); or `kB`, `MB`, "
        "`GB`, `TB` (powers of 1000). Only `0` needs no unit.",
        pattern=units.SIZE_PATTERN,
        least=1,
        most=2**50,
        show=units.format_size,
    ),
    "count": Kind(
        name="whole number",
        expected="a whole number such as 4",
        parse=_alone(units.parse_count),
        pattern=units.COUNT_PATTERN,
        is_number=True,
        least=1,
        most=10**9,
    ),
    "percentage": Kind(
        name="percentage",
        expected='a percentage such as "5%"',
        parse=_alone(units.parse_percentage),
        form="A number from 0 to 100 and `%`: `5%`, `0.5%`.",
        pattern=units.PERCENTAGE_PATTERN,
        least=0,
        most=1,
        show=units.format_percentage,
    ),
    "boolean": Kind(
        name="true or false",
        expected="true or false",
        parse=_alone(units.parse_boolean),
        pattern=units.BOOLEAN_PATTERN,
        choices=(True, False),
        show=units.format_boolean,
    ),
    "workers": Kind(
        name="whole number or auto",
        expected='a whole number such as 4, or "auto"',
        parse=_alone(processes.parse_workers),
        pattern=processes.WORKERS_PATTERN,
        is_number=True,
        least=1,
    ),
    "address": Kind(
        name="address",
        expected='an address such as "127.0.0.1:8000", "[::1]:8000" or "unix:/run/x.sock"',
        parse=_alone(addresses.parse_address),
        form="`HOST:PORT`, `[IPv6]:PORT` or `unix:/path/of/a.sock`. Port 0 is any free one.",
        pattern=addresses.ADDRESS_PATTERN,
    ),
    "control socket": Kind(
        name="auto or a Unix socket",
        expected='"auto", or the path of a Unix socket such as "unix:/run/gateway.sock"',
        parse=_alone(addresses.parse_control),
        pattern=addresses.CONTROL_PATTERN,
    ),
    "networks": Kind(
        name="list of networks",
        expected='an address, a CIDR such as "172.16.0.0/12", or "unix:www-data"',
        parse=_alone(addresses.parse_network),
        form="Each is an address, a CIDR such as `172.16.0.0/12`, `unix:www-data` or `unix:33` "
        "(every process of that user that connects over a Unix socket), or `unix:` (of any user).",
        pattern=addresses.NETWORK_PATTERN,
        shape="list",
    ),
    "import string": Kind(
        name="import string",
        expected='an app such as "notes.wsgi:app" or "notes.wsgi:create_app()"',
        parse=_alone(importstring.parse_import_string),
        form="`module:callable`, or `module:factory()`, which is called once, without arguments. "
        "The module is beside the table, or installed.",
        pattern=importstring.IMPORT_STRING_PATTERN,
    ),
    "environment": Kind(
        name="mapping of variables",
        expected='text, "" for an empty one',
        parse=lambda text, _directory: text,
        form="`NAME: value`; a name has letters, digits and underscores.",
        shape="mapping",
        is_free_text=True,
    ),
    "variables": Kind(
        name="list of variables",
        expected='a variable such as DATABASE_URL, or the beginning of several such as "PG*"',
        parse=_alone(processes.parse_variable),
        form="Each is a name, or the beginning of several names followed by `*`.",
        pattern=processes.VARIABLE_PATTERN,
        shape="list",
    ),
    "text": Kind(
        name="text",
        expected="text",
        parse=lambda text, _directory: text,
        is_free_text=True,
    ),
    "upstream": Kind(
        name="address or list of addresses",
        expected='a server such as "http://reports:3000" or "unix:/run/reports.sock"',
        parse=_alone(upstreams.parse_upstream),
        form="Each is `http://HOST:PORT`, with port 80 by default, or `unix:/path/of/a.sock`. Or a "
        "single `pool:NAME`.",
        pattern=upstreams.UPSTREAM_PATTERN,
        shape="one or more",
    ),
    "upstream host": Kind(
        name="keep or host",
        expected='"keep", or a host such as "reports.example.com"',
        parse=_alone(upstreams.parse_upstream_host),
        pattern=upstreams.UPSTREAM_HOST_PATTERN,
    ),
    "check host": Kind(
        name="auto or host",
        expected='"auto", or a host such as "reports.example.com"',
        parse=_alone(upstreams.parse_upstream_host),
        pattern=upstreams.UPSTREAM_HOST_PATTERN,
    ),
    "command": Kind(
        name="command line",
        expected='a command with "{socket}" or "{port}", such as "uvicorn api:app --uds {socket}"',
        parse=_alone(processes.parse_command),
        form="Quotes and backslashes as in a shell; no variables, pipes or redirections.",
        pattern=processes.COMMAND_PATTERN,
        is_free_text=True,
    ),
    "health path": Kind(
        name="path",
        expected='a path such as "/healthz", as the server has it',
        parse=_alone(paths.parse_probe),
        pattern=paths.PROBE_PATTERN,
    ),
    "probe path": Kind(
        name="path",
        expected='a path such as "/healthz", to be added to the mount\'s own',
        parse=_alone(paths.parse_probe),
        pattern=paths.PROBE_PATTERN,
    ),
    "directory": Kind(
        name="directory",
        expected="a directory, relative to the table's own",
        parse=paths.parse_directory,
        form="It must exist. It must not contain the table itself: that would publish the apps' "
        "code.",
        is_free_text=True,
    ),
    "place": Kind(
        name="path",
        expected='a path such as "var/environments", relative to the table\'s own directory',
        parse=paths.parse_place,
        form="It is created if it does not exist.",
        is_free_text=True,
    ),
    "folder": Kind(
        name="directory",
        expected="a directory, relative to the table's own",
        parse=paths.parse_folder,
        is_free_text=True,
    ),
    "file": Kind(
        name="file",
        expected="a file, relative to the table's directory",
        parse=paths.parse_file,
        is_free_text=True,
    ),
    "virtual environment": Kind(
        name="virtual environment",
        expected="a virtual environment's directory, relative to the table's own",
        parse=paths.parse_venv,
        is_free_text=True,
    ),
    "python": Kind(
        name="path or version",
        expected='a path such as "/usr/bin/python3.12", or a version such as "3.12"',
        parse=paths.parse_python,
        pattern=paths.PYTHON_PATTERN,
        is_free_text=True,
    ),
    "user": Kind(
        name="user",
        expected='a user such as "www-data"',
        parse=_alone(processes.parse_user),
        pattern=processes.USER_PATTERN,
    ),
    "group": Kind(
        name="group",
        expected='a group such as "www-data"',
        parse=_alone(processes.parse_group),
        pattern=processes.USER_PATTERN,
    ),
    "pool name": Kind(
        name="pool",
        expected='a pool such as "shop", or "own"',
        parse=_alone(parse_pool_name),
        pattern=POOL_NAME_PATTERN,
    ),
    "file name": Kind(
        name="file name",
        expected='a file\'s name such as "index.html"',
        parse=_alone(paths.parse_file_name),
        pattern=paths.FILE_NAME_PATTERN,
        is_free_text=True,
    ),
    "location": Kind(
        name="path or URL",
        expected='a path such as "/new", or an http(s) URL',
        parse=_alone(paths.parse_location),
        form="Percent-encoded as in a URL, without a query.",
        pattern=paths.LOCATION_PATTERN,
    ),
}
