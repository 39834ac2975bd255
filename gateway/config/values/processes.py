"""What a pool's processes are started with: how many, which command, as whom, which variables.

Refuses to start anything, and to know who the gateway runs as. Source: sched_getaffinity(2) and
cgroup v2's ``cpu.max`` (cores), the POSIX shell's quoting as ``shlex`` reads it (commands),
passwd(5) and group(5) (users).
"""

import grp
import os
import pwd
import re
import shlex
from pathlib import Path

from gateway.config.text.problems import BadValueError, did_you_mean

WORKERS_PATTERN = r"auto|[1-9][0-9]{0,8}"
COMMAND_PATTERN = r".*\{(socket|port)\}.*"
USER_PATTERN = "[a-z_][a-z0-9_-]*"
VARIABLE_PATTERN = r"[A-Za-z_][A-Za-z0-9_]*\*?"

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")

# --- how many ---------------------------------------------------------------------------------


def parse_workers(text: str) -> int:
    """A number, or one for each usable core for ``auto``. Raises BadValueError."""
    if text == "auto":
        # One worker alone could not serve while it is being replaced.
        return max(2, usable_cores())
    if re.fullmatch(f"0|{WORKERS_PATTERN}", text):
        return int(text)
    raise BadValueError


def usable_cores() -> int:
    """How many cores the scheduler lets this process use."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # Linux alone has it
        cores = os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text().split()
        return min(cores, -(-int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2, or "max", which is no quota
        return cores


# --- which command ----------------------------------------------------------------------------


def parse_command(text: str) -> str:
    """A command line. Raises BadValueError unless it can be split into words, and either
    ``{socket}`` or ``{port}`` says where the server listens."""
    try:
        shlex.split(text)
    except ValueError as exc:
        raise BadValueError(str(exc).lower()) from exc
    if ("{socket}" in text) == ("{port}" in text):
        raise BadValueError("use one of the two, not both" if "{port}" in text else "")
    return text


# --- as whom ----------------------------------------------------------------------------------


def parse_user(text: str) -> str:
    """A user's name. Raises BadValueError if there is no such user."""
    names = [entry.pw_name for entry in pwd.getpwall()]
    return _known(text, names, "user")


def find_user(name: str) -> int:
    """A user's number. Raises BadValueError if there is no such user."""
    return pwd.getpwnam(parse_user(name)).pw_uid


def parse_group(text: str) -> str:
    """A group's name. Raises BadValueError if there is no such group."""
    names = [entry.gr_name for entry in grp.getgrall()]
    return _known(text, names, "group")


def _known(text: str, names: list[str], what: str) -> str:
    if text not in names:
        raise BadValueError(did_you_mean(text, names) or f"there is no such {what} here")
    return text


# --- which variables --------------------------------------------------------------------------


def parse_variable(text: str) -> str:
    """The name of an environment variable, or the beginning of several names and ``*``. Raises
    BadValueError."""
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
