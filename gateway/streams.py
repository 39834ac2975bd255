"""The streams of a worker: one of the gateway's own for its log, and those that apps write to.

Owns where each leads. Apps share ``sys.stdout`` and ``sys.stderr``, and any of them may close or
detach these, or close descriptors 1 and 2, whose numbers the next socket then takes. So nothing is
written to those numbers: all streams share one descriptor that apps do not know, none of them can
be closed, and a write never fails. Refuses to know what is written. Source: the io module.
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
    """A further descriptor of the same file, which no process inherits; never one of 0 to 2."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)


class _Raw(io.RawIOBase):
    """Writes to ``outlet``; ``number`` is what it says its descriptor is."""

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
        """Stay open: it is everybody's."""


class _Buffer(io.BufferedWriter):
    """Keeps no whole line: who writes here without an ``OutletStream`` may never flush it."""

    def write(self, data: Any, /) -> int:
        written = super().write(data)
        if b"\n" in data:
            self.flush()
        return written

    def close(self) -> None:
        """Stay open, see ``OutletStream``."""
        self.flush()

    def detach(self) -> _Raw:
        self.flush()
        return self.raw  # type: ignore[return-value]


class OutletStream(io.TextIOWrapper):
    """Text to ``outlet``, a whole line at once; ``number`` is what ``fileno()`` gives.

    It cannot be closed; what ``detach`` gives writes there as well.
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
    """Where descriptors 1 and 2 lead, under a number that apps do not know."""

    descriptor = 2


def set_standard_streams(outlet: Outlet) -> None:
    """Have ``sys.stdout`` and ``sys.stderr`` write to ``outlet``."""
    _Standard.descriptor = outlet.descriptor
    sys.stdout = sys.__stdout__ = OutletStream(outlet, 1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = OutletStream(outlet, 2)  # type: ignore[misc]


def find_files() -> list[tuple[int, int] | None]:
    """Which files descriptors 0 to 2 lead to, as device and inode; None for one that is closed."""
    found: list[tuple[int, int] | None] = []
    for number in (0, 1, 2):
        try:
            status = os.fstat(number)
            found.append((status.st_dev, status.st_ino))
        except OSError:
            found.append(None)
    return found


def find_closed() -> list[int]:
    """Those of descriptors 0 to 2 that are closed."""
    return [number for number, file in enumerate(find_files()) if file is None]


def reopen(numbers: Iterable[int]) -> None:
    """Open descriptors that were closed: 1 and 2 lead to the log, 0 to nothing. The next socket
    would take the number, and its peer get what others print."""
    for number in numbers:
        descriptor = duplicate(_Standard.descriptor) if number else os.open(os.devnull, os.O_RDONLY)
        if descriptor == number:
            os.set_inheritable(number, True)
            continue
        os.dup2(descriptor, number)
        os.close(descriptor)
