"""``env_file:`` of a pool: the file's text to variables.

Does not know what they are for. Source: Compose's env files.
"""

import re

Variables = tuple[tuple[str, str], ...]

MAX_BYTES = 1024 * 1024
_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")


def parse_env_file(text: str) -> Variables:
    """Names and values, one on each line. Quotes around a value are removed. Empty lines, comments
    that begin with ``#``, and lines that are not variables are left out."""
    found = {}
    for line in text.splitlines():
        if match := _LINE.fullmatch(line.strip()):
            value = match[2].strip()
            if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
                value = value[1:-1]
            else:
                value = value.partition(" #")[0].rstrip()
            found[match[1]] = value
    return tuple(found.items())


def find_stray_lines(text: str) -> tuple[int, ...]:
    """The numbers, from 1, of lines that are left out and are not comments."""
    lines = enumerate((line.strip() for line in text.splitlines()), 1)
    return tuple(n for n, line in lines if line and line[0] != "#" and not _LINE.fullmatch(line))
