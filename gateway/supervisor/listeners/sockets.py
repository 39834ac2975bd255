"""Listening sockets: opened once, owned for the supervisor's whole life, inherited by all workers.

Source: socket(7), unix(7).
"""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from gateway.errors import ConfigError

Pair = tuple[socket.socket, socket.socket]

BACKLOG = 4096  # the kernel takes the smaller of this and net.core.somaxconn


def split_address(address: str) -> tuple[str, int]:
    """``HOST:PORT`` or ``[IPv6]:PORT`` as (host, port)."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def open_listener(address: str, key: str) -> socket.socket:
    """A bound, listening socket for ``HOST:PORT``, ``[IPv6]:PORT`` or ``unix:/path``.

    ``key`` is the table's key, for the message. Raises ConfigError if it cannot be opened.
    """
    try:
        if address.startswith("unix:"):
            return _open_unix(Path(address.removeprefix("unix:")), 0o660)
        host, port = split_address(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        with _closing_on_error(listener):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(BACKLOG)
        return listener
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE and Path(address.removeprefix("unix:")).is_socket():
            reason = "another process answers there"
        elif error.errno == errno.EACCES and address.startswith("unix:"):
            folder = Path(address.removeprefix("unix:")).parent
            reason += f': have user {os.geteuid()} own {folder}: "chown {os.geteuid()} {folder}"'
        raise ConfigError([f"{key}: cannot listen on {address}: {reason}"]) from error


def open_control(path: Path) -> socket.socket:
    """A listening socket for this user alone. Raises ConfigError, also if a gateway
    answers there."""
    try:
        return _open_unix(path, 0o600)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE and path.is_socket():
            reason = "another gateway answers there; stop it, or give one of them another path"
        raise ConfigError([f"server.control: cannot listen on unix:{path}: {reason}"]) from error


def open_pool_listener(path: Path, user: int) -> socket.socket:
    """A pool's listening socket, to which only the front workers' ``user`` can connect; -1 is the
    user of this process."""
    try:
        listener = _open_unix(path, 0o600)
        with _closing_on_error(listener):
            os.chown(path, user, -1, follow_symlinks=False)
        return listener
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError([f"pools: cannot listen on unix:{path}: {reason}"]) from error


def open_handover() -> Pair:
    """A pair of sockets: each message that is sent on one is received whole, by one of the
    processes that read the other (unix(7))."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _open_unix(path: Path, mode: int) -> socket.socket:
    # the file of a gateway that was killed is removed; not one at which somebody answers, and links
    # are not followed
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode) and not _answers(path):
            path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _closing_on_error(listener):
        # bind(2) makes the file: nobody else may have it for even a moment
        mask = os.umask(0o777 & ~mode)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        listener.listen(BACKLOG)
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


@contextlib.contextmanager
def removing(listener: socket.socket) -> Iterator[socket.socket]:
    """At the end remove the file of a socket, if it has one, and close it. In this order: once it
    is closed, another gateway may make its own file there."""
    path = find_path(listener)
    made = _mark(path)
    try:
        yield listener
    finally:
        if path and _mark(path) == made:
            path.unlink(missing_ok=True)
        listener.close()


def _mark(path: Path | None) -> tuple[int, int]:
    """What identifies a file; inode numbers are used again, so its time is part of it."""
    try:
        found = path.lstat() if path else None
    except OSError:
        found = None
    return (found.st_ino, found.st_ctime_ns) if found else (0, 0)


def find_path(listener: socket.socket) -> Path | None:
    """The file of a Unix socket."""
    if listener.family != socket.AF_UNIX:
        return None
    return Path(os.fsdecode(listener.getsockname()))


@contextlib.contextmanager
def _closing_on_error(listener: socket.socket):  # type: ignore[no-untyped-def]
    try:
        yield
    except OSError:
        listener.close()
        raise


def raise_descriptor_limit() -> None:
    """Allow as many open files as the hard limit does: each connection is one."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def describe(listener: socket.socket) -> str:
    """The address of a listening socket, as in the table."""
    if path := find_path(listener):
        return f"unix:{path}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
