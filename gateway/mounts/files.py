"""Regular files below one directory, opened so that nothing outside it is ever read.

Owns the system calls and the descriptors of static files. Does not know HTTP. Source: open(2),
proc_pid_fd(5), PEP 3333 "Optional Platform-Specific File Handling".
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterable, Iterator
from stat import S_ISDIR, S_ISREG
from typing import Any

WrapFile = Callable[[Any, int], Iterable[bytes]]

# Up to here, one read costs less than the additional system calls for sendfile.
_SMALL_BYTES = 16 * 1024
_PIECE_BYTES = 64 * 1024

# O_NONBLOCK: opening a FIFO that nobody writes to must not wait.
_OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_DESCRIPTORS = b"/proc/self/fd"
_GIVEN_AWAY = -1


class OpenFile:
    """An open regular file. It is closed by ``close``, or by what ``content`` returned."""

    __slots__ = ("_descriptor", "modified_ns", "size_bytes")

    def __init__(self, descriptor: int, status: os.stat_result) -> None:
        self._descriptor = descriptor
        self.size_bytes = status.st_size
        self.modified_ns = status.st_mtime_ns

    def close(self) -> None:
        """Close the file unless it has been given away; may be called again."""
        descriptor, self._descriptor = self._descriptor, _GIVEN_AWAY
        if descriptor != _GIVEN_AWAY:
            os.close(descriptor)

    def content(self, part: range, wrap: WrapFile | None) -> Iterable[bytes]:
        """The bytes ``part`` as a WSGI response; large ones by the server's ``wrap``, if any.

        The wrapped file is positioned at the first byte; the server stops at Content-Length.
        """
        if len(part) <= _SMALL_BYTES:
            return [os.pread(self._descriptor, len(part), part.start)] if part else []
        file = io.FileIO(self._descriptor)
        self._descriptor = _GIVEN_AWAY
        try:
            if part.start:
                file.seek(part.start)
            return wrap(file, _PIECE_BYTES) if wrap else _Pieces(file, len(part))
        except BaseException:
            file.close()
            raise


class _Pieces:
    """The next ``length`` bytes of a file, for a server without ``wsgi.file_wrapper``."""

    def __init__(self, file: io.FileIO, length: int) -> None:
        self._file = file
        self._left = length
        self.close = file.close

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece = self._file.read(min(_PIECE_BYTES, self._left))
        if not piece:
            raise StopIteration
        self._left -= len(piece)
        return piece


def open_below(root: bytes, path: bytes) -> OpenFile:
    """Open ``root + path``. ``root`` is a real path that does not end with a slash, ``path`` begins
    with one.

    Raises OSError: IsADirectoryError for a directory, FileNotFoundError for what is not a regular
    file, or is outside ``root`` by a symbolic link or ``..``.
    """
    descriptor = os.open(root + path, _OPEN_FLAGS)
    try:
        status = os.fstat(descriptor)
        # Check the opened file, not its name, which may refer to another file now.
        if not (_real_path(descriptor, root + path) + b"/").startswith(root + b"/"):
            raise FileNotFoundError(errno.ENOENT, "outside the directory")
        if S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "a directory")
        if not S_ISREG(status.st_mode):
            raise FileNotFoundError(errno.ENOENT, "not a regular file")
    except BaseException:
        os.close(descriptor)
        raise
    return OpenFile(descriptor, status)


def is_current(path: bytes, modified_ns: int) -> bool:
    """Whether ``path`` exists and is not older than ``modified_ns``."""
    # Usually it does not exist, and this takes less than half the time of a stat that raises.
    if not os.access(path, os.F_OK):
        return False
    try:
        return os.stat(path).st_mtime_ns >= modified_ns  # noqa: PTH116 (bytes)
    except OSError:
        return False


def _real_path(descriptor: int, path: bytes) -> bytes:
    try:
        return os.readlink(b"%s/%d" % (_DESCRIPTORS, descriptor))  # noqa: PTH115 (bytes)
    except OSError:
        # No procfs: macOS, a bare chroot. Only those who may write to the directory could win this
        # race.
        return os.path.realpath(path)
