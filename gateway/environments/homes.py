"""The directories for environments of each user, below one directory that only root can change.

If the gateway runs as root, the environments of another user's pools are built by that user, in the
user's own directory: otherwise one user's packages could run as another. Source: openat(2),
path_resolution(7), and the checks of paths in sshd(8).
"""

import os
import pwd
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway.errors import BuildError

_HOME = re.compile(r"user-([0-9]+)")
# O_NOFOLLOW: another user may have created a link
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_ADVICE = "name another directory, one that only root can change (server.environments)"


def open_home(root: Path, user: int, group: int) -> Path:
    """The directory for the environments of ``user``, created below ``root`` if it does not exist;
    ``root`` itself for -1 and for the gateway's own user. Raises BuildError."""
    if user in (-1, os.geteuid()):
        return root
    try:
        root.mkdir(parents=True, exist_ok=True)
        root = root.parent.resolve() / root.name
        _check_parents(root, user)
        with _opened(root) as directory:
            _open_to_others(root, directory)
            _make_home(root, directory, user, group)
    except OSError as error:
        why = f"{error.filename or root}: {error.strerror}"
        raise BuildError(f"{why}: environments are kept there (server.environments)") from error
    return root / f"user-{user}"


def find_homes(root: Path) -> list[tuple[Path, int, int]]:
    """The existing directories, each with user id and group id, -1 for the gateway's own."""
    if os.geteuid() != 0:
        return [(root, -1, -1)] if root.is_dir() else []
    try:
        is_own = root.lstat().st_uid == 0
        found = [(root, -1, -1)] if is_own else []
        for path in root.glob("user-*") if is_own else ():
            named, status = _HOME.fullmatch(path.name), path.lstat()
            if named and int(named[1]) == status.st_uid and stat.S_ISDIR(status.st_mode):
                found.append((path, status.st_uid, status.st_gid))
    except FileNotFoundError:
        return []
    return found


def _check_parents(root: Path, user: int) -> None:
    """Raises BuildError if another user than root and ``user`` could replace ``root``."""
    for parent in root.parents:
        status = parent.stat()
        # with the sticky bit, users can replace only their own files; group 0 is root's
        is_shared = status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX
        is_roots = not status.st_mode & stat.S_IWOTH and status.st_gid == 0
        if status.st_uid not in (0, os.geteuid(), user):
            raise BuildError(_refuse(root, f"{parent} belongs to {_name(status.st_uid)}", user))
        if is_shared and not is_roots:
            raise BuildError(_refuse(root, f"{parent} can be written by others", user))


def _open_to_others(root: Path, directory: int) -> None:
    """Let other users enter ``root``. Raises BuildError if another user owns it."""
    status = os.fstat(directory)
    if status.st_uid != os.geteuid():
        owner = f"it belongs to {_name(status.st_uid)}, and not to the gateway's own user"
        raise BuildError(f"{root}: {owner}: remove it, or {_ADVICE}")
    mode = (stat.S_IMODE(status.st_mode) & ~_OTHERS_WRITE) | stat.S_IXOTH
    if mode != stat.S_IMODE(status.st_mode):
        os.fchmod(directory, mode)


def _make_home(root: Path, directory: int, user: int, group: int) -> None:
    name = f"user-{user}"
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=directory)
    with _opened(Path(name), directory) as home:
        owner = os.fstat(home).st_uid
        if owner == os.geteuid():
            os.fchown(home, user, group)
        elif owner != user:
            raise BuildError(f"{root}/{name}: it belongs to {_name(owner)}: remove it")


@contextmanager
def _opened(path: Path, directory: int | None = None) -> Iterator[int]:
    """Open a directory, without following links. Raises OSError."""
    opened = os.open(path, _OPEN_DIRECTORY, dir_fd=directory)
    try:
        yield opened
    finally:
        os.close(opened)


def _refuse(root: Path, why: str, user: int) -> str:
    return f"{root}: {why}, who could change what runs as {_name(user)}: {_ADVICE}"


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"
