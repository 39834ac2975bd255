"""The kinds of value that a setting can have: how each is read, bounded, described and shown.

Refuses to know which settings there are. Source: the modules that read each kind.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gateway.config import addresses, importstring, paths, units, workers
from gateway.config.problems import Mistake

ENVIRONMENT_NAME_PATTERN = "[A-Za-z_][A-Za-z0-9_]*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How one value is read.

    ``name`` is the kind's own, ``expected`` what a person should write. ``parse`` gets the text
    and the table's directory and raises Mistake. ``pattern`` is the form of the text before
    interpolation, for editors.
    """

    name: str
    expected: str
    parse: Callable[[str, Path], Any]
    pattern: str
    shape: Literal["single", "list", "mapping"] = "single"
    is_number: bool = False  # a YAML number is welcome, not text alone
    is_free_text: bool = False  # anything goes, so YAML's own idea of it must be the same
    least: float = float("-inf")
    most: float = float("inf")
    show: Callable[[Any], str] = str
    choices: tuple[Any, ...] = ()


def choice(choices: tuple[Any, ...]) -> Kind:
    """One of a few words or numbers."""
    by_text = {str(value): value for value in choices}

    def parse(text: str, _directory: Path) -> Any:
        if text in by_text:
            return by_text[text]
        raise Mistake(f'write "{text.lower()}"' if text.lower() in by_text else "")

    pattern = "|".join(map(re.escape, by_text))
    words = f"one of {', '.join(by_text)}"
    return Kind(name=words, expected=words, parse=parse, pattern=pattern, choices=choices)


def _alone(parse: Callable[[str], Any]) -> Callable[[str, Path], Any]:
    return lambda text, _directory: parse(text)


KINDS = {
    "duration": Kind(
        name="duration",
        expected='a duration such as "30s", "5m" or "1m30s"',
        parse=_alone(units.parse_duration),
        pattern=units.DURATION_PATTERN,
        least=0.001,
        most=3650 * 86_400.0,
        show=units.format_duration,
    ),
    "size": Kind(
        name="size",
        expected='a size such as "64KiB", "16MiB" or "1GiB"',
        parse=_alone(units.parse_size),
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
    "workers": Kind(
        name="whole number or auto",
        expected='a whole number such as 4, or "auto"',
        parse=_alone(workers.parse_workers),
        pattern=workers.WORKERS_PATTERN,
        is_number=True,
        least=1,
    ),
    "address": Kind(
        name="address",
        expected='an address such as "127.0.0.1:8000", "[::1]:8000" or "unix:/run/x.sock"',
        parse=_alone(addresses.parse_address),
        pattern=addresses.ADDRESS_PATTERN,
    ),
    "networks": Kind(
        name="list of networks",
        expected='an address, a CIDR such as "172.16.0.0/12", or "unix:"',
        parse=_alone(addresses.parse_network),
        pattern=addresses.NETWORK_PATTERN,
        shape="list",
    ),
    "import string": Kind(
        name="import string",
        expected='an app such as "notes.wsgi:app" or "notes.wsgi:create_app()"',
        parse=importstring.parse_import_string,
        pattern=importstring.IMPORT_STRING_PATTERN,
    ),
    "environment": Kind(
        name="mapping of variables",
        expected="text",
        parse=lambda text, _directory: text,
        pattern=".*",
        shape="mapping",
        is_free_text=True,
    ),
    "directory": Kind(
        name="directory",
        expected="a directory, relative to the table's own",
        parse=paths.parse_directory,
        pattern=".+",
        is_free_text=True,
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
        pattern=paths.LOCATION_PATTERN,
    ),
}
