"""Buffers content for its reader: small content in memory, larger content in a temporary file.

Owns the bound on all such files of a worker. The files have no name (open(2), O_TMPFILE), so none
remain after the worker.
"""

from __future__ import annotations

import os
import tempfile
from typing import BinaryIO

# of one request; larger content goes to a file. Most forms and API calls are smaller.
MEMORY_BYTES = 64 * 1024


class SpoolFullError(Exception):
    """Content cannot be buffered: the files have reached their bound, or cannot be written."""


class Spool:
    """The total size of the temporary files of a worker, at most ``max_bytes``. They are in the
    directory for temporary files (``TMPDIR``, else ``/tmp``)."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0

    def take(self, size: int) -> None:
        """Reserve ``size`` bytes. Raises SpoolFullError."""
        if self.used_bytes + size > self.max_bytes:
            raise SpoolFullError(f"request content in temporary files is at {self.max_bytes} bytes")
        self.used_bytes += size

    def give_back(self, size: int) -> None:
        """Free ``size`` reserved bytes."""
        self.used_bytes -= size


class Store:
    """A first-in, first-out buffer of bytes. Release it, even if somebody may still read."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._memory = bytearray()  # follows the content of the file
        self._file: BinaryIO | None = None
        self._written = self._read = 0  # of the file
        self.is_released = False

    def write(self, data: memoryview) -> None:
        """Append ``data``. Raises SpoolFullError if no more should be appended; ``data`` is kept
        nevertheless, in memory."""
        self._memory += data
        if self._file is not None or len(self._memory) > MEMORY_BYTES:
            self._spool.take(len(self._memory))
            try:
                self._write_file()
            except OSError as error:
                self._spool.give_back(len(self._memory))
                raise SpoolFullError(f"no temporary file for request content: {error}") from error

    def _write_file(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  see release
        written = os.pwrite(self._file.fileno(), self._memory, self._written)
        if written < len(self._memory):
            raise OSError(f"{written} of {len(self._memory)} bytes were written")  # a full disk
        self._written += written
        self._memory.clear()

    def readinto(self, buffer: memoryview) -> int:
        """Read up to the size of ``buffer``; returns the number of bytes, 0 if it is empty."""
        if self._file is not None and self._read < self._written:
            room = buffer[: self._written - self._read]
            size = os.preadv(self._file.fileno(), [room], self._read)
            self._read += size
        else:
            size = min(len(buffer), len(self._memory))
            buffer[:size] = self._memory[:size]
            del self._memory[:size]
        return size

    @property
    def in_memory(self) -> bytes | None:
        """The complete content; None if there is a file."""
        return bytes(self._memory) if self._file is None else None

    def release(self) -> None:
        """Free memory and file; may be called twice."""
        self.is_released = True
        self._spool.give_back(self._written)
        if self._file is not None:
            self._file.close()
        self._file = None
        self._written = self._read = 0
        self._memory = bytearray()
