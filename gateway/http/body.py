"""``wsgi.input``: the content of one request, taken in before the app is called, or streamed.

Owns what becomes of content that an app has not read when it answers. Refuses to know the socket
and the response: it asks a source for bytes. Source: RFC 9112 §6 and §7 (lengths and chunks), §9.3
(content is read to its end before a connection is used again), PEP 3333 "Input and Error Streams".
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
# what is still to come behind an early answer is read up to this, to keep the connection
DRAIN_BYTES = 256 * 1024
# what nobody wants is read and dropped up to this before the answer, which is then never lost: as
# much as max_body lets through by default
DROP_BYTES = 16 * 1024 * 1024
# how fast content has to come, on average, while nobody but the gateway reads it (Apache's
# mod_reqtimeout asks for as much): else a byte now and then would hold it for hours
MIN_BYTES_PER_SECOND = 500
_Received = TypeVar("_Received", bytes, int)


class Source(Protocol):
    """Where content comes from; both calls may switch greenlets."""

    def receive(self, size: int) -> bytes:
        """At most ``size`` bytes, at least one; b"" once the client has sent its last.

        Raises RequestTimeout and ClientDisconnected."""

    def receive_into(self, buffer: memoryview) -> int:
        """As ``receive``, into ``buffer``; returns how many."""


class Content(io.RawIOBase):
    """The bytes of one request's content, each exactly once.

    ``is_complete`` turns true once the last byte was received; ``received_bytes`` counts content.
    ``before_first_read`` is called once, before bytes are asked for (100-continue),
    ``on_complete`` once, after the last. What was refused once stays refused, as ``fault``: an app
    that goes on reading gets the same error again, and never bytes from behind it.

    With a ``store``, what the app does not read is kept there for it. ``is_lost`` is whether what
    is still to come will never be read. ``announced_bytes`` is the length; of chunks, whose length
    nobody knows beforehand (``has_length``), of those that have begun.
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
        # since when the gateway reads for itself, and how much had come by then
        self._taking_since = 0.0
        self._taken_from = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Raises RequestTimeout and ClientDisconnected; of chunks MalformedRequest,
        ContentTooLarge and HeaderFieldsTooLarge too."""
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
        """Whether what is left is known to be little, and its client sends it.

        RFC 9110 §10.1.1: one that waits for a 100 may never send it, or may send it all.
        """
        return self.has_length and self.fault is None and self._is_little(DRAIN_BYTES)

    @property
    def is_worth_dropping(self) -> bool:
        """The same, where the answer waits for it."""
        return self._is_little(DROP_BYTES)

    def _is_little(self, most: int) -> bool:
        left = self.announced_bytes - self.received_bytes
        return left <= most and self._before_first_read is None

    def take_in(self, store: Store) -> BinaryIO:
        """Read all of it into ``store``, from which the file that is returned reads.

        Raises as ``readinto``, and SpoolFullError. May switch greenlets.
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
        """Before the head of an answer whose app may still read: whether the connection may go on
        behind it. Where there is a store, the client is first read to its end. May switch
        greenlets."""
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
        """Before the head of an answer behind which nobody reads: read and drop what is still to
        come, within bounds; whether that was all. May switch greenlets."""
        if self.is_complete:
            return True
        # content above its bound is the one fault behind which its end can be found
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
        """Behind the answer: read and drop what is still to come, as far as that was promised;
        whether the connection may go on. May switch greenlets."""
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
        """Whether less has come than the least rate asks for, ``grace_seconds`` later."""
        if not self._taking_since:
            return False
        taken = self.received_bytes - self._taken_from
        return now - self._taking_since > grace_seconds + taken / MIN_BYTES_PER_SECOND

    def release(self) -> None:
        """The request has ended: nothing is kept for its app any more."""
        if self.store is not None:
            self.store.release()

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
        self.announced_bytes = length

    def _read_some(self, view: memoryview) -> int:
        left = self.announced_bytes - self.received_bytes
        size = _expect(self._source.receive_into(view[:left]))
        self.received_bytes += size
        if size == left:
            self._complete()
        return size


class ChunkedContent(Content):
    """Content in chunks (RFC 9112 §7.1)."""

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
        """What came behind the last chunk, once: the beginning of the next request."""
        return self._chunks.take_rest()

    def _read_some(self, view: memoryview) -> int:
        chunks = self._chunks
        while (piece := self._take(len(view))) is None and chunks.left_bytes < len(view):
            chunks.feed(_expect(self._source.receive(READ_BYTES)))
        if piece is None:  # whatever comes is content
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
) -> Content:
    """The content of a request whose head says ``length`` bytes, or CHUNKED. It is refused from the
    start, as its ``fault``, where the length alone tells that it is more than ``max_bytes``."""
    if length == CHUNKED:
        return ChunkedContent(source, max_bytes, before_first_read)
    content = LengthContent(source, length, before_first_read)
    if length > max_bytes:
        content.fault = ContentTooLarge(
            f"content of {length} bytes; at most {max_bytes} are taken here"
        )
    return content
