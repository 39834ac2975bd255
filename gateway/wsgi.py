"""The types of the WSGI border (PEP 3333), named once. Knows nothing of the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Optional, Protocol

Environ = dict[str, Any]
ExcInfo = tuple[type[BaseException], BaseException, Optional[TracebackType]]
Write = Callable[[bytes], object]


class StartResponse(Protocol):
    def __call__(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None, /
    ) -> Write: ...


WSGIApp = Callable[[Environ, StartResponse], Iterable[bytes]]


class ReadableFile(Protocol):
    def read(self, size: int, /) -> bytes: ...


class FileWrapper:
    """PEP 3333 "Optional Platform-Specific File Handling": the server sends it with sendfile.

    Iterating serves middleware that looks inside; then it yields blocks of ``block_size`` bytes.
    """

    def __init__(self, file: ReadableFile, block_size: int = 64 * 1024) -> None:
        self.file = file
        self.block_size = block_size

    def __iter__(self) -> FileWrapper:
        return self

    def __next__(self) -> bytes:
        block = self.file.read(self.block_size)
        if not block:
            raise StopIteration
        return block

    def close(self) -> None:
        close = getattr(self.file, "close", None)
        if close is not None:
            close()
