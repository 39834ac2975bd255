"""Command lines of servers that pools run.

Refuses to start anything. Source: the POSIX shell's quoting, as ``shlex`` reads it.
"""

import shlex

from gateway.config.text.problems import BadValueError

COMMAND_PATTERN = r".*\{(socket|port)\}.*"


def parse_command(text: str) -> str:
    """Raises BadValueError unless it can be split and has one place for where it is to listen."""
    try:
        shlex.split(text)
    except ValueError as exc:
        raise BadValueError(str(exc).lower()) from exc
    if ("{socket}" in text) == ("{port}" in text):
        raise BadValueError("it is told one of both: use one" if "{port}" in text else "")
    return text
