"""The types of the WSGI border (PEP 3333), named once. Knows nothing of the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Optional, Protocol

Environ = dict[str, Any]
# names and values of an answer
Fields = tuple[tuple[str, str], ...]
# environ key: PATH_INFO as the client encoded it, with dot segments resolved
RAW_PATH_INFO = "gateway.raw_path_info"
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


class _HeadNow(bytes):
    pass


# an empty piece that has the head sent, by whom has no content yet and waits for some
HEAD_NOW = _HeadNow()


class Takeover:
    """What an upstream mount returns instead of content once its server has switched protocols
    (RFC 9110 §15.2.2).

    ``head`` is the whole 101; ``run`` then has the client's connection to itself. Until it returns
    the connection is given up where no byte has moved for the mount's ``tunnel_timeout``;
    ``received_bytes`` counts what came from the client.
    """

    head = b""
    received_bytes = 0
    # it is the content of its request, and never at its end: the connection ends with it
    is_complete = False
    fault = store = None

    def settle(self) -> bool:
        return False

    drain = drop = settle

    def is_too_slow(self, now: float, grace_seconds: float) -> bool:
        return False

    def release(self) -> None:
        pass

    def __iter__(self) -> Iterator[bytes]:
        return iter(())  # to whom expects content

    def run(self, connection: Any) -> None:
        """Until both sides have ended. Raises ClientDisconnected. May switch greenlets."""
