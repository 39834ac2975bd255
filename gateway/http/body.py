"""``wsgi.input``: the content of one request, buffered before the app is called, or streamed.

Owns what happens to content that an app has not read when it responds. Knows neither the socket nor
the response: it reads from a source. Source: RFC 9112 §6 and §7 (lengths and chunks), §9.3 (content
is read to its end before a connection is reused), PEP 3333 "Input and Error Streams".
"""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Callable
from time import monotonic
from typing import BinaryIO, Protocol, TypeVar

from gateway.errors import (
    ClientDisconnected,
    ContentTooLarge,
    HeaderFieldsTooLarge,
    MalformedMessage,
    MalformedRequest,
    RequestError,
)
from gateway.http.spool import SpoolFullError, Store
from gateway.protocol.chunks import ChunkDecoder, LargeTrailersError
from gateway.protocol.framing import CHUNKED

READ_BYTES = 64 * 1024
# maximum remaining content that is read after an early response, to keep the connection
DRAIN_BYTES = 256 * 1024
# maximum unread content that is read and dropped before the response, so that the client does not
# lose it; the default of max_body
DROP_BYTES = 16 * 1024 * 1024
# minimum average rate while only the gateway reads (as Apache's mod_reqtimeout): otherwise a slow
# client could occupy it for hours
MIN_BYTES_PER_SECOND = 500
_Received = TypeVar("_Received", bytes, int)


class Source(Protocol):
    """The source of the content; both methods may switch greenlets."""

    def receive(self, size: int) -> bytes:
        """One to ``size`` bytes; b"" if the client has closed.

        Raises RequestTimeout and ClientDisconnected."""

    def receive_into(self, buffer: memoryview) -> int:
        """As ``receive``, into ``buffer``; returns the number of bytes."""


class RequestContent(io.RawIOBase):
    """The bytes of one request's content, each exactly once.

    ``is_complete`` is true once the last byte is received; ``received_bytes`` counts content.
    ``before_first_read`` is called once, before the first read (100-continue), ``on_complete`` once
    after the last. Content that was refused once stays refused: an app that continues to read gets
    ``fault`` again.

    With a ``store``, content that the gateway reads is kept there for the app. ``is_lost``: the
    rest will not be read. ``announced_bytes`` is the length; for chunks, whose total is unknown
    (not ``has_length``), the sum of those that have begun.
    """

    has_length = True

    def __init__(self, source: Source, before_first_read: Callable[[], None] | None) -> None:
        self._source = source
        self._before_first_read = before_first_read
        self.on_complete: Callable[[], None] | None = None
        self.fault: RequestError | None = None
        self.store: Store | None = None
        self.is_complete = self.is_lost = False
        self.received_bytes = self.announced_bytes = 0
        # when the gateway started to read for itself, and how much had been received before
        self._taking_since = 0.0
        self._taken_from = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Raises RequestTimeout and ClientDisconnected; for chunks also MalformedRequest,
        ContentTooLarge and HeaderFieldsTooLarge."""
        view = memoryview(buffer)
        store = self.store
        if store is not None:
            if store.is_released:
                raise ClientDisconnected("the request has ended")
            if size := store.readinto(view):
                return size
        return self._receive(view)

    def _receive(self, view: memoryview) -> int:
        if self.fault is not None:
            raise self.fault
        if self.is_complete or not view:
            return 0
        if self._before_first_read is not None:
            announce, self._before_first_read = self._before_first_read, None
            announce()
        try:
            return self._read_some(view)
        except RequestError as error:
            self.fault = error
            raise

    @abstractmethod
    def _read_some(self, view: memoryview) -> int: ...

    @property
    def is_worth_draining(self) -> bool:
        """Whether the rest is known to be small, and the client sends it.

        RFC 9110 §10.1.1: a client that waits for a 100 may send all of it or nothing.
        """
        return self.has_length and self.fault is None and self._is_little(DRAIN_BYTES)

    @property
    def is_worth_dropping(self) -> bool:
        """As ``is_worth_draining``, while the response waits."""
        return self._is_little(DROP_BYTES)

    def _is_little(self, most: int) -> bool:
        left = self.announced_bytes - self.received_bytes
        return left <= most and self._before_first_read is None

    def take_in(self, store: Store) -> BinaryIO:
        """Read all content into ``store``; returns a file that reads from it.

        Raises SpoolFullError and what ``readinto`` raises. May switch greenlets.
        """
        self.store = store
        self._keep(store)
        data = store.in_memory
        return io.BufferedReader(self, READ_BYTES) if data is None else io.BytesIO(data)

    def _keep(self, store: Store) -> None:
        scratch = self._begin_taking()
        try:
            while size := self._receive(scratch):
                store.write(scratch[:size])
        finally:
            self._taking_since = 0.0

    def settle(self) -> bool:
        """Call it before the head of a response whose app may still read: whether the connection
        can be kept after it. With a store, the rest is read into it first. May switch greenlets."""
        if self.is_complete:
            return True
        if self.store is None:
            return self.is_worth_draining
        if self.is_lost or self.fault is not None or self._before_first_read is not None:
            return False
        try:
            self._keep(self.store)
        except (RequestError, ClientDisconnected, SpoolFullError):
            self.is_lost = True
        return self.is_complete

    def drop(self) -> bool:
        """Call it before the head of a response whose app no longer reads: read and drop the rest,
        within bounds; whether that was all. May switch greenlets."""
        if self.is_complete:
            return True
        # only content that is too large has a known end in spite of its fault
        is_readable = self.fault is None or type(self.fault) is ContentTooLarge
        if self.is_lost or not is_readable or not self.is_worth_dropping:
            self.is_lost = True
            return False
        fault, self.fault = self.fault, None
        try:
            self._drop(DROP_BYTES)
        except (RequestError, ClientDisconnected):
            pass
        finally:
            self.fault = fault or self.fault
        self.is_lost = not self.is_complete
        return self.is_complete

    def _drop(self, most: int) -> None:
        scratch = self._begin_taking()
        bound = self.received_bytes + most
        try:
            while self._receive(scratch) and self.received_bytes <= bound:
                pass
        finally:
            self._taking_since = 0.0

    def drain(self) -> bool:
        """Call it after the response: read and drop the rest, within bounds; whether the connection
        can be kept. May switch greenlets."""
        if self.is_complete:
            return True
        if self.is_lost or not self.is_worth_draining:
            return False
        try:
            self._drop(DRAIN_BYTES)
        except (RequestError, ClientDisconnected):
            return False
        return self.is_complete

    def _begin_taking(self) -> memoryview:
        self._taking_since, self._taken_from = monotonic(), self.received_bytes
        return memoryview(bytearray(READ_BYTES))

    def is_too_slow(self, now: float, grace_seconds: float) -> bool:
        """Whether the average rate is below the minimum, not counting ``grace_seconds``."""
        if not self._taking_since:
            return False
        taken = self.received_bytes - self._taken_from
        return now - self._taking_since > grace_seconds + taken / MIN_BYTES_PER_SECOND

    def release(self) -> None:
        """Free the store: the request has ended."""
        if self.store is not None:
            self.store.release()

    def _complete(self) -> None:
        self.is_complete = True
        if self.on_complete is not None:
            self.on_complete()


class RequestContentOfLength(RequestContent):
    """Content with a Content-Length (RFC 9112 §6.2)."""

    def __init__(
        self, source: Source, length: int, before_first_read: Callable[[], None] | None
    ) -> None:
        super().__init__(source, before_first_read)
        self.announced_bytes = length

    def _read_some(self, view: memoryview) -> int:
        left = self.announced_bytes - self.received_bytes
        size = _expect(self._source.receive_into(view[:left]))
        self.received_bytes += size
        if size == left:
            self._complete()
        return size


class ChunkedRequestContent(RequestContent):
    """Chunked content (RFC 9112 §7.1)."""

    has_length = False

    def __init__(
        self, source: Source, max_bytes: int, before_first_read: Callable[[], None] | None
    ) -> None:
        super().__init__(source, before_first_read)
        self._max_bytes = max_bytes
        self._chunks = ChunkDecoder()

    def _drop(self, most: int) -> None:
        self._max_bytes = self.received_bytes + most
        super()._drop(most)

    def take_rest(self) -> bytes:
        """The bytes after the last chunk, the beginning of the next request; call it once."""
        return self._chunks.take_rest()

    def _read_some(self, view: memoryview) -> int:
        chunks = self._chunks
        while (piece := self._take(len(view))) is None and chunks.left_bytes < len(view):
            chunks.feed(_expect(self._source.receive(READ_BYTES)))
        if piece is None:  # all that is received is content
            size = _expect(self._source.receive_into(view))
            chunks.left_bytes -= size
            self.received_bytes += size
            return size
        if not piece:
            self._complete()
        view[: len(piece)] = piece
        return len(piece)

    def _take(self, most_bytes: int) -> bytes | None:
        chunks = self._chunks
        try:
            piece = chunks.take(most_bytes)
        except LargeTrailersError as error:
            raise HeaderFieldsTooLarge(error.args[0]) from error
        except MalformedMessage as error:
            raise MalformedRequest(error.args[0]) from error
        self.announced_bytes = chunks.announced_bytes
        self.received_bytes = chunks.announced_bytes - chunks.left_bytes
        if chunks.announced_bytes > self._max_bytes:
            raise ContentTooLarge(f"content of more than {self._max_bytes} bytes")
        return piece


def _expect(received: _Received) -> _Received:
    if not received:
        raise ClientDisconnected("the client left in the middle of the request's content")
    return received


def open_content(
    source: Source, length: int, max_bytes: int, before_first_read: Callable[[], None] | None
) -> RequestContent:
    """The content of a request with this ``length`` in bytes, or CHUNKED. If the length exceeds
    ``max_bytes``, it has a ``fault`` from the start."""
    if length == CHUNKED:
        return ChunkedRequestContent(source, max_bytes, before_first_read)
    content = RequestContentOfLength(source, length, before_first_read)
    if length > max_bytes:
        content.fault = ContentTooLarge(
            f"content of {length} bytes; at most {max_bytes} are taken here"
        )
    return content
