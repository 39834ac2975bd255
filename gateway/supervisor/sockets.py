"""Listening sockets: opened once, owned for the supervisor's whole life, inherited by all workers.

Knows nothing of who accepts. Source: socket(7), unix(7).
"""

import contextlib
import errno
import os
import socket
import stat
from hashlib import sha256
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

    ``key`` is the table's key, for the message. Raises ConfigError where it cannot be had.
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
        raise ConfigError([f"{key}: cannot listen on {address}: {reason}"]) from error


def find_control(control: str, table: str | Path) -> Path:
    """The path of the control socket for the setting ``server.control`` of ``table``."""
    if control != "auto":
        return Path(control.removeprefix("unix:"))
    # not resolve(): the command and the gateway are told of one path, wherever it may lead
    name = sha256(os.fsencode(os.path.abspath(table))).hexdigest()[:16]  # noqa: PTH100
    return Path("/tmp") / f"gateway-{name}.sock"


def open_control(path: Path) -> socket.socket:
    """A listening socket for this user alone. Raises ConfigError, where a gateway answers too."""
    try:
        return _open_unix(path, 0o600)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE and path.is_socket():
            reason = "another gateway answers there; stop it, or give one of them another path"
        raise ConfigError([f"server.control: cannot listen on unix:{path}: {reason}"]) from error


def make_folder(control: Path) -> Path:
    """A folder for the sockets of pools, beside the control socket. Others may pass through it to
    what is theirs, and see or change nothing."""
    folder = control.with_suffix(".pools")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.geteuid():
        raise ConfigError([f"server.control: {folder} is another user's: remove it"])
    folder.chmod(0o711)
    return folder


def open_pool_listener(path: Path, user: int) -> socket.socket:
    """A pool's listening socket, for the front workers alone: ``user``'s, -1 for this one."""
    try:
        listener = _open_unix(path, 0o600)
        with _closing_on_error(listener):
            os.chown(path, user, -1)
        return listener
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError([f"pools: cannot listen on unix:{path}: {reason}"]) from error


def open_handover() -> Pair:
    """What one end is given, one of those takes who have the other: whole messages (unix(7))."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _open_unix(path: Path, mode: int) -> socket.socket:
    # the file of a gateway that was killed is in the way; one that still answers is not ours
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.stat().st_mode) and not _answers(path):
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
def _closing_on_error(listener: socket.socket):  # type: ignore[no-untyped-def]
    try:
        yield
    except OSError:
        listener.close()
        raise


def raise_descriptor_limit() -> None:
    """As many open files as the hard limit allows: each connection is one."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def describe(listener: socket.socket) -> str:
    """Where it can be reached, as a person types it."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(listener.getsockname())}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
