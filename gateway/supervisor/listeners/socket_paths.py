"""The directories of the control socket and of the pools' sockets: their owner alone can create
names there, so that nothing found there is another user's.

Finds, makes, checks and removes these directories. Source: the XDG Base Directory Specification
(XDG_RUNTIME_DIR), file-hierarchy(7) (/run), open(2) (O_NOFOLLOW), inode(7) (the sticky bit).
"""

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from gateway.errors import ConfigError

RUN = Path("/run")
TEMPORARY = Path("/tmp")
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def make_control(control: str, table: str | Path) -> Path:
    """The path of the control socket for the setting ``server.control`` of ``table``; without that
    setting its directory is made. Raises ConfigError if that cannot be done."""
    if control == "auto":
        return _make_place() / _name_socket(table)
    path = Path(control.removeprefix("unix:"))
    with contextlib.suppress(FileNotFoundError):
        mode = path.parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            problem = f"anybody may change what is in {path.parent}: choose another directory"
            raise ConfigError([f"server.control: {problem}"])
    return path


def find_control(control: str, table: str | Path) -> Path:
    """The path at which a command finds that socket, or at which it would be. For root, that of
    another user's gateway too."""
    if control != "auto":
        return Path(control.removeprefix("unix:"))
    paths = [place / _name_socket(table) for place in _find_places(table)]
    # root may lack the capability to look into another user's directory: that comes last
    return max(paths, key=_rank)


def _rank(path: Path) -> int:
    """2 for a socket, 1 for a path that cannot be examined, else 0."""
    try:
        return 2 * stat.S_ISSOCK(path.lstat().st_mode)
    except PermissionError:
        return 1
    except OSError:
        return 0


def _name_socket(table: str | Path) -> str:
    # not resolve(): the command and the gateway are given one path, wherever it may lead
    return sha256(os.fsencode(os.path.abspath(table))).hexdigest()[:16] + ".sock"  # noqa: PTH100


# --- for a gateway --------------------------------------------------------------------------------


def _make_place() -> Path:
    """The first directory that can be made. Root's can be passed through by others, whose pools
    have sockets below it."""
    user = os.geteuid()
    for place in _list_shared(user):
        with contextlib.suppress(OSError):
            if place.parent != RUN or not user:
                place.mkdir(mode=0o700, exist_ok=True)
            if _is_own(place, user) and os.access(place, os.W_OK):
                _restrict(place, 0o700 if user else 0o711)
                return place
    place = _name_temporary(user)
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        _restrict(place, 0o700 if user else 0o711)
    except OSError as error:
        raise ConfigError([f"server.control: {place}: {error.strerror}"]) from error
    return place


def _list_shared(user: int) -> list[Path]:
    """Directories of the gateway below ones that strangers cannot write to. /run/gateway is made by
    what starts the gateway as this user, such as systemd or an image."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    is_usable = user and runtime.startswith("/") and _is_own(Path(runtime), user)
    return [*([Path(runtime) / "gateway"] if is_usable else []), RUN / "gateway"]


def _name_temporary(user: int) -> Path:
    return TEMPORARY / f"gateway-{user}"


def _is_own(place: Path, user: int) -> bool:
    """It is a directory, not a link, in which ``user`` alone can create names."""
    try:
        found = place.lstat()
    except OSError:
        return False
    is_closed = not found.st_mode & _WRITABLE_BY_OTHERS
    return stat.S_ISDIR(found.st_mode) and found.st_uid == user and is_closed


def _restrict(place: Path, mode: int) -> None:
    """Give a directory of ours its mode. Raises ConfigError if it is another user's, or if others
    could write to it and may have left something there; OSError if it is no directory."""
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid():
            raise ConfigError([f"server.control: {place} is another user's: remove it"])
        if found.st_mode & _WRITABLE_BY_OTHERS:
            problem = f"{place} can be written to by others: remove it"
            raise ConfigError([f"server.control: {problem}"])
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def making_folder(control: Path) -> Iterator[Path]:
    """A folder for the sockets of pools, beside the control socket, which this gateway has opened.
    Others can pass through it, and list or change nothing. It is removed at the end.

    Raises ConfigError if another user's folder, or a link, is in its place."""
    is_usual = control.suffix == ".sock"
    folder = (
        control.with_suffix(".pools") if is_usual else control.with_name(f"{control.name}-pools")
    )
    try:
        with contextlib.suppress(FileNotFoundError):
            _restrict(folder, 0o700)
            shutil.rmtree(folder)  # of a gateway that was killed
        folder.mkdir(mode=0o700)
        _restrict(folder, 0o711)
    except OSError as error:
        raise ConfigError([f"server.control: {folder}: {error.strerror}"]) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- for commands ---------------------------------------------------------------------------------


def _find_places(table: str | Path) -> list[Path]:
    """The directories in which a gateway that the caller may command may have made its socket: the
    caller's own, and for root those of the table's owner too."""
    caller = os.geteuid()
    places = [(place, caller) for place in _list_shared(caller)]
    users = [caller]
    if not caller:
        users += _find_owner(table)
        # only root decides who owns that
        places += [(RUN / "gateway", owner) for owner in _find_owner(RUN / "gateway")]
    for user in dict.fromkeys(users):
        places += [(RUN / "user" / str(user) / "gateway", user), (_name_temporary(user), user)]
    found = [place for place, owner in places if _is_own(place, owner)]
    return found or [_name_temporary(caller)]


def _find_owner(path: str | Path) -> list[int]:
    try:
        return [Path(path).stat().st_uid]
    except OSError:
        return []
