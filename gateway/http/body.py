"""``wsgi.input``: the content of one request, taken in before the app is called, or streamed.

Owns what becomes of content that an app has not read when it answers. Refuses to know the socket
and the response: it asks a source for bytes. Source: RFC 9112 §6 and §7 (lengths and chunks), §9.3
(content is read to its end before a connection is used again), PEP 3333 "Input and Error Streams".
"""

from __future__ import annotations

import io
import re
from abc import abstractmethod
from collections.abc import Callable
from time import monotonic
from typing import BinaryIO, Protocol

from gateway.errors import (
    ClientDisconnected,
    ContentTooLarge,
    HeaderFieldsTooLarge,
    MalformedRequest,
    RequestError,
)
from gateway.http.head import CHUNKED
from gateway.http.spool import SpoolFullError, Store

READ_BYTES = 64 * 1024
MAX_CHUNK_LINE = 256  # chunk size and extensions; RFC 9112 §7.1.1 asks for a limit of our own
MAX_TRAILER_BYTES = 8 * 1024

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?", re.ASCII)
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*", re.ASCII)


# what is still to come behind an early answer is read up to this, to keep the connection
DRAIN_BYTES = 256 * 1024
# what nobody wants is read and dropped up to this before the answer, which is then never lost: as
# much as max_body lets through by default
DROP_BYTES = 16 * 1024 * 1024
# how fast content has to come, on average, while nobody but the gateway reads it (Apache's
# mod_reqtimeout asks for as much): else a byte now and then would hold it for hours
MIN_BYTES_PER_SECOND = 500


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
    is still to come will never be read.
    """

    def __init__(self, source: Source, before_first_read: Callable[[], None] | None) -> None:
        self._source = source
        self._before_first_read = before_first_read
        self.on_complete: Callable[[], None] | None = None
        self.fault: RequestError | None = None
        self.store: Store | None = None
        self.is_complete = self.is_lost = False
        self.received_bytes = 0
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
        if self.is_complete:
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
    @abstractmethod
    def is_worth_draining(self) -> bool:
        """Whether what is left is known to be little, and its client sends it.

        RFC 9110 §10.1.1: one that waits for a 100 may never send it, or may send it all.
        """

    @property
    @abstractmethod
    def is_worth_dropping(self) -> bool:
        """The same, where the answer waits for it."""

    @property
    def _is_announced(self) -> bool:
        return self._before_first_read is None

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
        if self.is_lost or self.fault is not None or not self._is_announced:
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
        return self.remaining <= DRAIN_BYTES and self.fault is None and self._is_announced

    @property
    def is_worth_dropping(self) -> bool:
        """See ``Content``."""
        return self.remaining <= DROP_BYTES and self._is_announced


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

    @property
    def is_worth_draining(self) -> bool:
        """See ``Content``. How much is left is never known."""
        return False

    @property
    def is_worth_dropping(self) -> bool:
        """See ``Content``."""
        return self._chunk_remaining <= DROP_BYTES and self._is_announced

    def _drop(self, most: int) -> None:
        self._max_bytes = self.received_bytes + most
        super()._drop(most)

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
        self._chunk_remaining = size
        if self.received_bytes + size > self._max_bytes:
            raise ContentTooLarge(f"content of more than {self._max_bytes} bytes")

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
