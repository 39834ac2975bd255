"""The content of a response, decoded piece by piece.

Refuses to know sockets. Source: RFC 9112 §6.3, §7.1 (chunks) and §8 (incomplete messages).
"""

from abc import abstractmethod

from gateway.errors import MalformedMessage
from gateway.protocol.chunks import ChunkDecoder
from gateway.protocol.framing import CHUNKED, UNTIL_CLOSE
from gateway.protocol.response import InvalidResponseError


class ResponseContent:
    """``take`` decodes received bytes. ``is_complete`` becomes true with the last byte of content,
    ``has_surplus`` when bytes follow it, which belong to no response."""

    is_complete = False
    has_surplus = False

    @abstractmethod
    def take(self, data: bytes) -> bytes:
        """Raises InvalidResponseError."""

    def end(self) -> None:
        """The server has closed. Raises InvalidResponseError if the content is incomplete."""
        raise InvalidResponseError("closed in the middle of its answer")


class ResponseContentOfLength(ResponseContent):
    """With a Content-Length."""

    def __init__(self, length: int) -> None:
        self._remaining = length
        self.is_complete = not length

    def take(self, data: bytes) -> bytes:
        """See ``ResponseContent``."""
        piece = data[: self._remaining]
        self._remaining -= len(piece)
        self.is_complete = not self._remaining
        self.has_surplus = len(piece) < len(data)
        return piece


class ResponseContentUntilClose(ResponseContent):
    """Ends with the connection."""

    def take(self, data: bytes) -> bytes:
        """See ``ResponseContent``."""
        return data

    def end(self) -> None:
        """See ``ResponseContent``."""


class ChunkedResponseContent(ResponseContent):
    """In chunks."""

    def __init__(self) -> None:
        # old connectors of Tomcat and embedded servers pad the size; nginx and browsers accept it
        self._chunks = ChunkDecoder(allows_padding=True)

    def take(self, data: bytes) -> bytes:
        """See ``ResponseContent``. Chunks received together are returned together."""
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


def open_response_content(length: int) -> ResponseContent:
    """``length`` is that of the response head."""
    if length == CHUNKED:
        return ChunkedResponseContent()
    return ResponseContentUntilClose() if length == UNTIL_CLOSE else ResponseContentOfLength(length)
