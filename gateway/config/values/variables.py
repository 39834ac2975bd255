"""Names of environment variables that the table passes on.

Refuses to know their values. Source: the setting ``pass_env``.
"""

import re

from gateway.config.text.problems import BadValueError

VARIABLE_PATTERN = r"[A-Za-z_][A-Za-z0-9_]*\*?"


def parse_variable(text: str) -> str:
    """A name, or the beginning of several and ``*``. Raises BadValueError."""
    if text == "*":
        raise BadValueError("name those that the app needs: others may be secrets of other apps")
    if not re.fullmatch(VARIABLE_PATTERN, text):
        raise BadValueError
    return text


def is_named(name: str, wanted: tuple[str, ...]) -> bool:
    """Whether one of ``wanted``, as ``parse_variable`` returns them, means the variable."""
    return any(
        name.startswith(each[:-1]) if each.endswith("*") else name == each for each in wanted
    )
