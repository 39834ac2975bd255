"""Where the bytes of a response go. Refuses to know what they are."""

from __future__ import annotations

from typing import Protocol


class Sink(Protocol):
    """Each call may switch greenlets and raises ClientDisconnected. ``sent_bytes`` counts what has
    gone out for the request."""

    sent_bytes: int

    def send(self, data: bytes, /) -> None:
        """Send ``data`` now."""

    def send_part(self, data: bytes, /) -> None:
        """Send what is likely to be followed by more at once, and may share a segment with it."""

    def send_pieces(self, pieces: list[bytes], /) -> None:
        """Send ``pieces`` without joining them."""

    def send_file(self, head: bytes, file_descriptor: int, offset: int, size: int, /) -> None:
        """Send ``head``, and ``size`` bytes of a file from ``offset`` on."""
