"""The types of the WSGI interface (PEP 3333)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Optional, Protocol

Environ = dict[str, Any]
# names and values of a response's header fields
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

    Middleware may iterate it instead, in blocks of ``block_size`` bytes.
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


# an empty piece that makes the server send the head before there is content
HEAD_NOW = _HeadNow()


class Takeover:
    """What an upstream mount returns instead of content after a 101 of its server
    (RFC 9110 §15.2.2).

    ``head`` is the complete 101 response; ``run`` then owns the client's connection. The connection
    is closed if no byte is transferred for the mount's ``tunnel_timeout``; ``received_bytes``
    counts what the client sent.
    """

    head = b""
    received_bytes = 0
    # it also stands for the request's content, which never ends: the connection closes after it
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
        return iter(())  # for callers that expect content

    def run(self, connection: Any) -> None:
        """Relay until both sides have closed. Raises ClientDisconnected. May switch greenlets."""
