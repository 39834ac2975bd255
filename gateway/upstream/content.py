"""The content of an answer, out of the bytes that come, piece by piece.

Refuses to know sockets. Source: RFC 9112 §6.3, §7.1 (chunks) and §8 (incomplete messages).
"""

import re
from abc import abstractmethod

from gateway.http.body import MAX_CHUNK_LINE, MAX_TRAILER_BYTES
from gateway.upstream.answer import CHUNKED, UNTIL_CLOSE, BadAnswerError

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?[ \t]*", re.ASCII)


class Content:
    """``take`` gives what is content of the bytes that came; ``is_complete`` turns true with the
    last, and ``has_surplus`` where something came behind it, which belongs to no answer."""

    is_complete = False
    has_surplus = False

    @abstractmethod
    def take(self, data: bytes) -> bytes:
        """Raises BadAnswerError."""

    def end(self) -> None:
        """The server has closed. Raises BadAnswerError where that is too early."""
        raise BadAnswerError("closed in the middle of its answer")


class LengthContent(Content):
    """Content of a length known beforehand."""

    def __init__(self, length: int) -> None:
        self._remaining = length
        self.is_complete = not length

    def take(self, data: bytes) -> bytes:
        """See ``Content``."""
        if len(data) > self._remaining:
            data = data[: self._remaining]
            self.has_surplus = True
        self._remaining -= len(data)
        self.is_complete = not self._remaining
        return data


class ContentUntilClose(Content):
    """Content whose end is the end of the connection."""

    def take(self, data: bytes) -> bytes:
        """See ``Content``."""
        return data

    def end(self) -> None:
        """See ``Content``."""


class ChunkedContent(Content):
    """Content in chunks; extensions are passed over, trailers dropped (RFC 9110 §6.5.1)."""

    def __init__(self) -> None:
        self._received = b""
        self._position = 0  # how much of that has been looked at
        self._chunk_remaining = 0
        self._is_behind_chunk = False
        self._is_in_trailers = False
        self._trailer_budget = MAX_TRAILER_BYTES

    def take(self, data: bytes) -> bytes:
        """See ``Content``. What came together leaves together."""
        if len(data) < self._chunk_remaining:  # the middle of a large chunk
            self._chunk_remaining -= len(data)
            return data
        self._received += data
        self._position = 0
        pieces = []
        while not self.is_complete:
            if self._chunk_remaining:
                start = self._position
                piece = self._received[start : start + self._chunk_remaining]
                if not piece:
                    break
                self._position += len(piece)
                self._chunk_remaining -= len(piece)
                self._is_behind_chunk = not self._chunk_remaining
                pieces.append(piece)
            elif not self._read_line():
                break
        self._received = self._received[self._position :]
        self.has_surplus = self.is_complete and bool(self._received)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read_line(self) -> bool:
        """The next line of the framing; whether it is there."""
        limit = self._trailer_budget if self._is_in_trailers else MAX_CHUNK_LINE
        end = self._received.find(b"\n", self._position, self._position + limit + 2)
        if end < 0:
            if len(self._received) - self._position >= limit + 2:
                raise BadAnswerError("a line of its chunk framing is too long")
            return False
        line = self._received[self._position : end + 1]
        if line[-2:] != b"\r\n":
            raise BadAnswerError("a line of its chunk framing ends without CR")
        self._position = end + 1
        self._take_line(line[:-2])
        return True

    def _take_line(self, line: bytes) -> None:
        if self._is_behind_chunk:
            if line:
                raise BadAnswerError("a chunk is longer than its size says")
            self._is_behind_chunk = False
        elif self._is_in_trailers:
            self._trailer_budget -= len(line)
            self.is_complete = not line
        else:
            found = _CHUNK_LINE.fullmatch(line)
            if found is None:
                raise BadAnswerError(f"chunk size is no hexadecimal number: {line[:60]!r}")
            self._chunk_remaining = int(found[1], 16)
            self._is_in_trailers = not self._chunk_remaining


def open_answer(length: int) -> Content:
    """The content of an answer whose head says ``length``."""
    if length == CHUNKED:
        return ChunkedContent()
    return ContentUntilClose() if length == UNTIL_CLOSE else LengthContent(length)
