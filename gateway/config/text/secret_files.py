"""Files that a table takes values from: secrets, and variables of pools. They are read with the
gateway's rights only if nobody else decides which file that is.

A gateway that runs as root starts apps as other users. If one of these could replace its secret
with a link to another file, root would read that file and give it to the app. Does not know what is
in a file. Source: path_resolution(7), the sticky bit of inode(7), what
sshd(8) asks of paths.
"""

import errno
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# as in the kernel: more are a loop
MAX_LINKS = 40
# several users: read with the rights of none of them
OTHERS = -1
NOBODY = 65_534
# a user may have put a file there that never ends
READ_SECONDS = 5.0
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def read_file(path: Path, most_bytes: int, table_directory: Path) -> bytes:
    """The first ``most_bytes`` of the file. A user who can change the table's directory
    controls the gateway anyway, and counts as its user. Raises OSError, also if it is not a regular
    file."""
    stranger = None
    if os.geteuid() == 0:
        stranger = find_stranger(path, {0, table_directory.stat().st_uid})
    if stranger is None:
        with open_regular(path) as file:
            return file.read(most_bytes)
    return _read_as(*stranger, path, most_bytes)


def open_regular(path: Path) -> BinaryIO:
    """Raises OSError, also for what is not a regular file: a pipe would wait for its writer."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        _check_regular(path, os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return open(descriptor, "rb")


def _check_regular(path: Path, found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def find_stranger(path: Path, trusted: set[int]) -> tuple[int, int] | None:
    """A user and a group that can change which file ``path`` leads to, OTHERS for all that are in a
    group, or all at all. None where only the users ``trusted`` can: each directory and each link on
    the way is theirs. Raises OSError."""
    writable = None
    for step in _walk(path):
        if step.st_uid not in trusted:
            return step.st_uid, step.st_gid
        is_shared = step.st_mode & _WRITABLE_BY_OTHERS and not step.st_mode & stat.S_ISVTX
        if is_shared and stat.S_ISDIR(step.st_mode):
            anybody = bool(step.st_mode & stat.S_IWOTH)
            if anybody or step.st_gid != 0:  # group 0 is root's
                writable = writable or (OTHERS, NOBODY if anybody else step.st_gid)
    return writable


def _walk(path: Path) -> Iterator[os.stat_result]:
    """The directories and links by which the kernel finds the file, from the root on, without the
    file itself."""
    names = [*reversed(Path(os.path.abspath(path)).parts)]  # noqa: PTH100  links stay
    place, links = "/", 0
    while names:
        name = names.pop()
        step = place if name == ".." else os.path.join(place, name)  # noqa: PTH118
        if name == "..":
            place = os.path.dirname(place)  # noqa: PTH120  it has no links in it
            continue
        found = os.lstat(step)
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            names += reversed(Path(os.readlink(step)).parts)  # noqa: PTH115
        else:
            place = step
        if names or stat.S_ISLNK(found.st_mode):
            yield found


def _read_as(user: int, group: int, path: Path, most_bytes: int) -> bytes:
    """As that user could. The supervisor may reap the process: only what it writes says whether it
    was able to."""
    _check_regular(path, path.stat())
    name, groups = _find_name(user), [group]
    if name:
        group = pwd.getpwuid(user).pw_gid
        groups = os.getgrouplist(name, group)
    try:
        ran = subprocess.run(
            [shutil.which("head") or "head", "-c", str(most_bytes), "--", str(path)],
            user=NOBODY if user == OTHERS else user,
            group=group,
            extra_groups=groups,
            env={"LC_ALL": "C"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=READ_SECONDS,
            check=False,
        )
    except PermissionError as error:
        if error.errno != errno.EPERM:
            raise
        with open_regular(path) as file:  # it may become nobody else, so that no app is another's
            return file.read(most_bytes)
    except subprocess.TimeoutExpired as error:
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), str(path)) from error
    if ran.stderr or ran.returncode:
        reason = ran.stderr.decode(errors="replace").strip().rpartition(": ")[2].lower()
        who = "others" if user == OTHERS else f"user {name or user}"
        whose = f"{who}, who can change which file this is, may not read it"
        raise PermissionError(errno.EACCES, f"{reason}: {whose}", str(path))
    return ran.stdout


def _find_name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except (KeyError, OverflowError):  # OTHERS, for one
        return ""
