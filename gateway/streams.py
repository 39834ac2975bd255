"""A worker's text streams: the gateway's own for its log, and the standard streams of apps.

Apps share ``sys.stdout`` and ``sys.stderr``. Any app may close or detach them, or close descriptors
1 and 2, whose numbers the next socket then gets. So nothing is written to these numbers: all
streams share one descriptor that apps do not know, they cannot be closed, and a write never fails.
Source: the io module.
"""

from __future__ import annotations

import fcntl
import io
import os
import sys
from collections.abc import Iterable
from typing import Any

from gateway.outlet import Outlet


def duplicate(descriptor: int) -> int:
    """A duplicate that child processes do not inherit; never 0, 1 or 2."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)


class _Raw(io.RawIOBase):
    """Writes to ``outlet``; ``fileno()`` returns ``number``."""

    def __init__(self, outlet: Outlet, number: int) -> None:
        self._outlet = outlet
        self._number = number

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._outlet.descriptor)

    def write(self, data: Any, /) -> int:
        self._outlet.put(bytes(data))
        return len(data)

    def close(self) -> None:
        """Stay open: all streams share the outlet."""


class _Buffer(io.BufferedWriter):
    """Flushes at each line break: apps that write to the buffer itself may never flush it."""

    def write(self, data: Any, /) -> int:
        written = super().write(data)
        if b"\n" in data:
            self.flush()
        return written

    def close(self) -> None:
        """Stay open."""
        self.flush()

    def detach(self) -> _Raw:
        self.flush()
        return self.raw  # type: ignore[return-value]


class OutletStream(io.TextIOWrapper):
    """Text to ``outlet``, line by line; ``fileno()`` returns ``number``.

    It cannot be closed; the buffer that ``detach`` returns writes to ``outlet``, too.
    """

    def __init__(self, outlet: Outlet, number: int) -> None:
        buffer: Any = _Buffer(_Raw(outlet, number))
        super().__init__(buffer, "utf-8", "backslashreplace", line_buffering=True)

    def close(self) -> None:
        self.flush()

    def detach(self) -> _Buffer:
        self.flush()
        return _Buffer(self.buffer.raw)  # type: ignore[attr-defined]


class _Standard:
    """A duplicate of descriptors 1 and 2 under a number that apps do not know."""

    descriptor = 2


def set_standard_streams(outlet: Outlet) -> None:
    """Make ``sys.stdout`` and ``sys.stderr`` write to ``outlet``."""
    _Standard.descriptor = outlet.descriptor
    sys.stdout = sys.__stdout__ = OutletStream(outlet, 1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = OutletStream(outlet, 2)  # type: ignore[misc]


def find_files() -> list[tuple[int, int] | None]:
    """Device and inode of descriptors 0 to 2; None for one that is closed."""
    found: list[tuple[int, int] | None] = []
    for number in (0, 1, 2):
        try:
            status = os.fstat(number)
            found.append((status.st_dev, status.st_ino))
        except OSError:
            found.append(None)
    return found


def find_closed() -> list[int]:
    """Which of descriptors 0 to 2 are closed."""
    return [number for number, file in enumerate(find_files()) if file is None]


def reopen(numbers: Iterable[int]) -> None:
    """Reopen closed descriptors: 1 and 2 as the log, 0 as /dev/null. Otherwise the next socket gets
    the number, and its peer receives what apps print."""
    for number in numbers:
        descriptor = duplicate(_Standard.descriptor) if number else os.open(os.devnull, os.O_RDONLY)
        if descriptor == number:
            os.set_inheritable(number, True)
            continue
        os.dup2(descriptor, number)
        os.close(descriptor)
