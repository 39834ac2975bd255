"""Users and groups that workers run as.

Refuses to know who the gateway runs as. Source: passwd(5), group(5).
"""

import grp
import pwd

from gateway.config.text.problems import BadValueError, did_you_mean

USER_PATTERN = "[a-z_][a-z0-9_-]*"


def parse_user(text: str) -> str:
    """A user's name. Raises BadValueError where there is none."""
    names = [entry.pw_name for entry in pwd.getpwall()]
    return _known(text, names, "user")


def find_user(name: str) -> int:
    """A user's number. Raises BadValueError where there is none of that name."""
    return pwd.getpwnam(parse_user(name)).pw_uid


def parse_group(text: str) -> str:
    """A group's name. Raises BadValueError where there is none."""
    names = [entry.gr_name for entry in grp.getgrall()]
    return _known(text, names, "group")


def _known(text: str, names: list[str], what: str) -> str:
    if text not in names:
        raise BadValueError(did_you_mean(text, names) or f"there is no such {what} here")
    return text
