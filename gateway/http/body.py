"""``wsgi.input``: the content of one request, streamed from its connection.

Refuses to know the socket and the response: it asks a source for bytes. Source: RFC 9112 §6 and
§7 (lengths and chunks), PEP 3333 "Input and Error Streams".
"""

from __future__ import annotations

import io
import re
from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol

from gateway.errors import (
    ClientDisconnected,
    ContentTooLarge,
    HeaderFieldsTooLarge,
    MalformedRequest,
    RequestError,
)
from gateway.http.head import CHUNKED

READ_BYTES = 64 * 1024
MAX_CHUNK_LINE = 256  # chunk size and extensions; RFC 9112 §7.1.1 asks for a limit of our own
MAX_TRAILER_BYTES = 8 * 1024

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?", re.ASCII)
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*", re.ASCII)


# what an app left unread is read and dropped up to this, to keep the connection
DRAIN_BYTES = 256 * 1024


class Source(Protocol):
    """Where content comes from; both calls may switch greenlets."""

    def receive(self, size: int) -> bytes:
        """At most ``size`` bytes, at least one; b"" once the client has sent its last.

        Raises RequestTimeout and ClientDisconnected."""

    def receive_into(self, buffer: memoryview) -> int:
        """As ``receive``, into ``buffer``; returns how many."""


class Content(io.RawIOBase):
    """The bytes of one request's content, each exactly once.

    ``is_complete`` turns true with the last byte; ``received_bytes`` counts content.
    ``before_first_read`` is called once, before bytes are asked for (100-continue),
    ``on_complete`` once, after the last. What was refused once stays refused, as ``fault``: an app
    that goes on reading gets the same error again, and never bytes from behind it.
    """

    def __init__(self, source: Source, before_first_read: Callable[[], None] | None) -> None:
        self._source = source
        self._before_first_read = before_first_read
        self.on_complete: Callable[[], None] | None = None
        self.fault: RequestError | None = None
        self.is_complete = False
        self.received_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Raises RequestTimeout and ClientDisconnected; of chunks MalformedRequest,
        ContentTooLarge and HeaderFieldsTooLarge too."""
        if self.is_complete:
            return 0
        if self.fault is not None:
            raise self.fault
        if self._before_first_read is not None:
            announce, self._before_first_read = self._before_first_read, None
            announce()
        try:
            return self._read_some(memoryview(buffer))
        except RequestError as error:
            self.fault = error
            raise

    @abstractmethod
    def _read_some(self, view: memoryview) -> int: ...

    @property
    def is_worth_draining(self) -> bool:
        """Whether reading what is left is cheaper than a new connection.

        RFC 9110 §10.1.1: a client that waits for a 100 may never send it, or may send it all.
        """
        return self._before_first_read is None

    def _complete(self) -> None:
        self.is_complete = True
        if self.on_complete is not None:
            self.on_complete()


class LengthContent(Content):
    """Content of a length known beforehand (RFC 9112 §6.2)."""

    def __init__(
        self, source: Source, length: int, before_first_read: Callable[[], None] | None
    ) -> None:
        super().__init__(source, before_first_read)
        self.remaining = length

    def _read_some(self, view: memoryview) -> int:
        size = self._source.receive_into(view[: self.remaining])
        if not size:
            raise ClientDisconnected("the client left in the middle of the request's content")
        self.remaining -= size
        self.received_bytes += size
        if not self.remaining:
            self._complete()
        return size

    @property
    def is_worth_draining(self) -> bool:
        """See ``Content``."""
        return self.remaining <= DRAIN_BYTES and super().is_worth_draining


class ChunkedContent(Content):
    """Content in chunks (RFC 9112 §7.1); extensions are passed over, trailers dropped."""

    def __init__(
        self, source: Source, max_bytes: int, before_first_read: Callable[[], None] | None
    ) -> None:
        super().__init__(source, before_first_read)
        self._max_bytes = max_bytes
        self._received = b""  # as it came from the source
        self._position = 0  # how much of that has been read
        self._chunk_remaining = 0
        self._is_first = True

    def take_rest(self) -> bytes:
        """What came behind the last chunk, once: the beginning of the next request."""
        rest, self._received, self._position = self._received[self._position :], b"", 0
        return rest

    def _read_some(self, view: memoryview) -> int:
        if not self._chunk_remaining:
            self._read_chunk_line()
            if not self._chunk_remaining:
                self._read_trailers()
                self._complete()
                return 0
        if self._position == len(self._received):
            self._more()
        start = self._position
        end = min(start + len(view), start + self._chunk_remaining, len(self._received))
        size = end - start
        view[:size] = self._received[start:end]
        self._position = end
        self._chunk_remaining -= size
        self.received_bytes += size
        return size

    def _read_chunk_line(self) -> None:
        if self._is_first:
            self._is_first = False
        else:
            self._read_line_end()
        found = _CHUNK_LINE.fullmatch(self._read_line(MAX_CHUNK_LINE, MalformedRequest))
        if found is None:
            raise MalformedRequest("chunk size is no hexadecimal number")
        size = int(found[1], 16)
        if self.received_bytes + size > self._max_bytes:
            raise ContentTooLarge(f"content of more than {self._max_bytes} bytes")
        self._chunk_remaining = size

    def _read_line_end(self) -> None:
        while len(self._received) < self._position + 2:
            self._more()
        if self._received[self._position : self._position + 2] != b"\r\n":
            raise MalformedRequest("chunk is longer than its size says")
        self._position += 2

    def _read_trailers(self) -> None:
        # RFC 9110 §6.5.1: they must not be merged with the header; dropping is allowed
        budget = MAX_TRAILER_BYTES
        while line := self._read_line(budget, HeaderFieldsTooLarge):
            if not _TRAILER.fullmatch(line):
                raise MalformedRequest("trailer is no field")
            budget -= len(line)

    def _read_line(self, limit: int, too_long: type[RequestError]) -> bytes:
        while (end := self._received.find(b"\n", self._position, self._position + limit + 2)) < 0:
            if len(self._received) - self._position >= limit + 2:
                raise too_long(f"a line of more than {limit} bytes in the chunk framing")
            self._more()
        # RFC 9112 §2.2 lets us accept a bare LF; a hop that does not would split here otherwise
        line = self._received[self._position : end + 1]
        if line[-2:] != b"\r\n":
            raise MalformedRequest("a line of the chunk framing ends without CR")
        self._position = end + 1
        return line[:-2]

    def _more(self) -> None:
        data = self._source.receive(READ_BYTES)
        if not data:
            raise ClientDisconnected("the client left in the middle of the request's content")
        self._received = self._received[self._position :] + data
        self._position = 0


def open_content(
    source: Source, length: int, max_bytes: int, before_first_read: Callable[[], None] | None
) -> Content:
    """The content of a request whose head says ``length`` bytes, or CHUNKED.

    Raises ContentTooLarge where the length alone tells that it is more than ``max_bytes``.
    """
    if length == CHUNKED:
        return ChunkedContent(source, max_bytes, before_first_read)
    if length > max_bytes:
        raise ContentTooLarge(f"content of {length} bytes; at most {max_bytes} are taken here")
    return LengthContent(source, length, before_first_read)


def drain(content: Content) -> bool:
    """Read and drop what an app left, up to a bound; whether the end was reached, so that the
    connection may go on. May switch greenlets."""
    if not content.is_worth_draining:
        return False
    bound = content.received_bytes + DRAIN_BYTES
    scratch = memoryview(bytearray(READ_BYTES))
    try:
        while content.received_bytes < bound:
            if not content.readinto(scratch):
                return True
    except (RequestError, ClientDisconnected):
        return False
    return content.is_complete
