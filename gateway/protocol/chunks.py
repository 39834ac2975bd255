"""Decodes chunked content (RFC 9112 §7.1) of requests and of upstream responses, without I/O.

Chunk extensions are ignored (§7.1.1). Trailers are checked like other fields, and dropped (RFC 9110
§6.5.1: they must not be merged into the header section).
"""

from __future__ import annotations

import re

from gateway.errors import MalformedMessage
from gateway.protocol.fields import check_field_line

MAX_CHUNK_LINE = 256  # size and extensions, in bytes; §7.1.1 asks for a limit
MAX_TRAILER_BYTES = 8 * 1024

# the end of the previous chunk and the line of the next one; sizes have up to 64 bits
_LINE = rb"\r\n([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?"
_CHUNK_LINE = re.compile(_LINE + rb"\r\n")
_PADDED_CHUNK_LINE = re.compile(_LINE + rb"[ \t]*\r\n")


class LargeTrailersError(MalformedMessage):
    """More than MAX_TRAILER_BYTES."""


class ChunkDecoder:
    """``feed`` it received bytes and ``take`` content. ``left_bytes`` of the current chunk have not
    been taken; while the decoder holds none of them, callers may receive them directly and subtract
    them. ``announced_bytes`` is the size of all chunks so far. ``allows_padding`` accepts blanks
    after a chunk size."""

    def __init__(self, *, allows_padding: bool = False) -> None:
        self._chunk_line = _PADDED_CHUNK_LINE if allows_padding else _CHUNK_LINE
        self._received = b"\r\n"  # as if there were a chunk before the first
        self._position = 0  # how much of it has been decoded
        self.left_bytes = self.announced_bytes = 0
        self._is_in_trailers = False
        self._left_trailer_bytes = MAX_TRAILER_BYTES

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        self._received = self._received[self._position :] + data
        self._position = 0

    def take(self, most_bytes: int) -> bytes | None:
        """Content; b"" at the end, None if more bytes are needed. Raises MalformedMessage."""
        if not self.left_bytes and not self._is_in_trailers:
            start = self._position
            found = self._chunk_line.match(self._received, start, start + MAX_CHUNK_LINE + 4)
            if found is None:
                self._refuse_chunk_line(start)
                return None
            self._position = found.end()
            self.left_bytes = size = int(found[1], 16)
            self.announced_bytes += size
            self._is_in_trailers = not size
        if self._is_in_trailers:
            return self._read_trailers()
        start = self._position
        piece = self._received[start : start + min(most_bytes, self.left_bytes)]
        self._position = start + len(piece)
        self.left_bytes -= len(piece)
        return piece or None

    def take_rest(self) -> bytes:
        """The bytes after the end; call it once."""
        rest, self._received = self._received[self._position + 2 :], b""
        return rest

    def _read_trailers(self) -> bytes | None:
        too_long = LargeTrailersError(f"trailers of more than {MAX_TRAILER_BYTES} bytes")
        while line := self._find_line(self._position, self._left_trailer_bytes, too_long):
            check_field_line(line.decode("latin-1"))
            self._position += len(line) + 2
            self._left_trailer_bytes -= len(line)
        return line

    def _refuse_chunk_line(self, start: int) -> None:
        if not b"\r\n".startswith(self._received[start : start + 2]):
            raise MalformedMessage("chunk is longer than its size says")
        too_long = MalformedMessage(f"the line of a chunk has more than {MAX_CHUNK_LINE} bytes")
        line = self._find_line(start + 2, MAX_CHUNK_LINE, too_long)
        if line is not None:
            raise MalformedMessage("chunk size is not a hexadecimal number", line[:60])

    def _find_line(self, start: int, limit: int, too_long: MalformedMessage) -> bytes | None:
        end = self._received.find(b"\n", start, start + limit + 2)
        if end < 0:
            if len(self._received) >= start + limit + 2:
                raise too_long
            return None
        # RFC 9112 §2.2 allows to accept a bare LF; a hop that does not would split differently
        if not self._received.endswith(b"\r", start, end):
            raise MalformedMessage("a line of the chunk framing ends without CR")
        return self._received[start : end - 1]
