"""One request on one connection to a server: sends it, reads the response, and keeps or closes the
connection.

Refuses to know how the address was chosen and what happens after a failure. Source: RFC 9110 §15.2
(interim responses), RFC 9112 §9.3 (persistence).
"""

from collections.abc import Callable, Iterator
from typing import Any

from gateway.http.body import RequestContent
from gateway.protocol.fields import Field
from gateway.protocol.framing import CHUNKED
from gateway.protocol.response import InvalidResponseError, ResponseHead, parse_response_head
from gateway.upstream.address import Address
from gateway.upstream.content import ResponseContent, open_response_content
from gateway.upstream.feeder import Feeder
from gateway.upstream.link import Link
from gateway.wsgi import HEAD_NOW

MAX_HEAD_BYTES = 64 * 1024
# before the final response; each is progress, so the mount's timeout would never expire
MAX_INTERIM = 32


class NoResponseError(Exception):
    """The server closed the connection before the first byte of a response."""

    def __init__(self) -> None:
        super().__init__("closed without an answer")


class NotSentError(NoResponseError):
    """The server had closed the idle connection before. Nothing of the request was sent."""


class Hop:
    """Lasts until ``end``, which has to be called.

    ``received`` is the content that was received together with the head. ``is_received`` becomes
    true when the response is complete.
    """

    __slots__ = (
        *("_content", "_feeder", "_is_ended", "_is_persistent"),
        *("address", "is_received", "link", "received"),
    )

    def __init__(self, address: Address, link: Link) -> None:
        self.address = address
        self.link = link
        self.received = b""
        self.is_received = self._is_persistent = self._is_ended = False
        self._feeder: Feeder | None = None
        self._content: ResponseContent
        address.in_flight += 1

    def send(self, head: bytes, first: bytes, length: int, source: Any) -> None:
        """Send ``head`` and ``first``, the beginning of content with ``length``. The rest is sent
        from ``source`` while the response is read. Raises NotSentError."""
        link = self.link
        unsent = link.offer(head + first if first else head)
        if link.has_lost and link.parked:
            raise NotSentError
        left = CHUNKED if length == CHUNKED else length - len(first)
        if unsent or left:
            self._feeder = Feeder(link, unsent, source, left)

    @property
    def is_repeatable(self) -> bool:
        """Whether everything that was sent can be sent again."""
        return self._feeder is None

    def read_response(
        self, method: str, hint: Callable[[list[Field]], object] | None
    ) -> ResponseHead:
        """The head of the response. ``hint`` gets the fields of each 103 before it.

        Raises NoResponseError and InvalidResponseError. May switch greenlets.
        """
        for _ in range(MAX_INTERIM + 1):
            answer = parse_response_head(self._read_head(), method)
            if answer.code >= 200 or answer.code == 101:
                break
            if answer.code == 103 and hint is not None:
                hint(answer.fields)
        else:
            raise InvalidResponseError(f"more than {MAX_INTERIM} interim responses (1xx)")
        self._is_persistent = answer.persistent
        if len(self.received) == answer.length:  # the usual case, all in one piece
            self.is_received = True
        elif answer.code != 101:
            self._content = open_response_content(answer.length)
            self.received = self._take(self.received)
        return answer

    def take_rest(self, source: Any) -> None:
        """The response begins before the server has all of the content, ``source``. If possible,
        read the rest from the client first: behind the head of a response nginx forwards no more
        content, so it would be lost. May switch greenlets."""
        content, feeder = getattr(source, "raw", None), self._feeder
        if feeder is None or not isinstance(content, RequestContent) or content.store is None:
            return
        if feeder.is_at_work:
            feeder.hold()
            content.settle()
            feeder.go_on()
        else:
            content.drop()

    def _read_head(self) -> bytes:
        data = self.received or self.link.receive()
        if not data:
            raise NoResponseError
        while (end := data.find(b"\r\n\r\n") + 4) < 4:
            if len(data) > MAX_HEAD_BYTES:
                raise InvalidResponseError(f"more than {MAX_HEAD_BYTES} bytes of head")
            more = self.link.receive()
            if not more:
                raise InvalidResponseError("closed in the middle of its answer's head")
            data += more
        self.received = data[end:]
        return data[:end]

    def _take(self, data: bytes) -> bytes:
        piece = self._content.take(data)
        self.is_received = self._content.is_complete
        if self._content.has_surplus:
            self._is_persistent = False  # it could be taken for the next response
        return piece

    def pieces(self) -> Iterator[bytes]:
        """The content as it is received. Raises InvalidResponseError. May switch greenlets."""
        yield self.received or HEAD_NOW
        while not self.is_received:
            data = self.link.receive()
            if not data:
                if self.link.was_reset:  # RFC 9112 §8: an error of the connection is not an end
                    raise InvalidResponseError(
                        "the connection was reset in the middle of its answer"
                    )
                self._content.end()
                self.is_received = True
            elif piece := self._take(data):
                yield piece

    def end(self) -> None:
        """Keep the connection if request and response are complete, otherwise close it. May be
        called twice."""
        if self._is_ended:
            return
        self._is_ended = True
        self.address.in_flight -= 1
        feeder = self._feeder
        if feeder is not None:
            self._is_persistent &= feeder.is_complete
            feeder.stop()
        if self._is_persistent and self.is_received:
            self.address.give_back(self.link)
        else:
            self.link.close()

    def abandon(self) -> None:
        """Close the connection in any case. May be called twice."""
        self._is_persistent = False
        self.end()
