"""The content of an answer, out of the bytes that come, piece by piece.

Refuses to know sockets. Source: RFC 9112 §6.3, §7.1 (chunks) and §8 (incomplete messages).
"""

from abc import abstractmethod

from gateway.errors import MalformedMessage
from gateway.protocol.chunks import ChunkDecoder
from gateway.protocol.framing import CHUNKED, UNTIL_CLOSE
from gateway.protocol.response import InvalidResponseError


class Content:
    """``take`` gives what is content of the bytes that came; ``is_complete`` turns true with the
    last, and ``has_surplus`` where something came behind it, which belongs to no answer."""

    is_complete = False
    has_surplus = False

    @abstractmethod
    def take(self, data: bytes) -> bytes:
        """Raises InvalidResponseError."""

    def end(self) -> None:
        """The server has closed. Raises InvalidResponseError where that is too early."""
        raise InvalidResponseError("closed in the middle of its answer")


class LengthContent(Content):
    """Content of a length known beforehand."""

    def __init__(self, length: int) -> None:
        self._remaining = length
        self.is_complete = not length

    def take(self, data: bytes) -> bytes:
        """See ``Content``."""
        piece = data[: self._remaining]
        self._remaining -= len(piece)
        self.is_complete = not self._remaining
        self.has_surplus = len(piece) < len(data)
        return piece


class ContentUntilClose(Content):
    """Content whose end is the end of the connection."""

    def take(self, data: bytes) -> bytes:
        """See ``Content``."""
        return data

    def end(self) -> None:
        """See ``Content``."""


class ChunkedContent(Content):
    """Content in chunks."""

    def __init__(self) -> None:
        # Tomcat's old connectors and embedded servers pad the size; nginx and browsers read that
        self._chunks = ChunkDecoder(allows_padding=True)

    def take(self, data: bytes) -> bytes:
        """See ``Content``. What came together leaves together."""
        chunks = self._chunks
        if len(data) < chunks.left_bytes:  # the middle of a large chunk
            chunks.left_bytes -= len(data)
            return data
        chunks.feed(data)
        pieces = []
        try:
            while piece := chunks.take(len(data)):
                pieces.append(piece)
        except MalformedMessage as error:
            raise InvalidResponseError(str(error)) from error
        if piece is not None:
            self.is_complete = True
            self.has_surplus = bool(chunks.take_rest())
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def open_answer(length: int) -> Content:
    """The content of an answer whose head says ``length``."""
    if length == CHUNKED:
        return ChunkedContent()
    return ContentUntilClose() if length == UNTIL_CLOSE else LengthContent(length)
