"""One request on one connection to a server: sent, answered, and the connection kept or closed.

Refuses to know which address that is and what is done when it fails. Source: RFC 9110 §15.2
(interim responses), RFC 9112 §9.3 (persistence).
"""

from collections.abc import Callable, Iterator
from typing import Any

from gateway.http.body import Content as Taken
from gateway.protocol.fields import Field
from gateway.protocol.framing import CHUNKED
from gateway.protocol.response import InvalidResponseError, ResponseHead, parse_response_head
from gateway.upstream.address import Address
from gateway.upstream.content import Content, open_answer
from gateway.upstream.feeder import Feeder
from gateway.upstream.link import Link
from gateway.wsgi import HEAD_NOW

MAX_HEAD_BYTES = 64 * 1024
# before a final answer; each is a byte that moves, so the mount's timeout would never pass
MAX_INTERIM = 32


class NoAnswerError(Exception):
    """The server closed the connection before a byte of its answer."""

    def __init__(self) -> None:
        super().__init__("closed without an answer")


class NotSentError(NoAnswerError):
    """The server had closed a connection that was kept: nothing of the request has left."""


class Hop:
    """From the sending to the end of the answer, or to ``end``, which has to be called.

    ``received`` is what came of the content together with the head; ``is_answered`` turns true with
    the last byte of it.
    """

    __slots__ = (
        "_content",
        "_feeder",
        "_is_ended",
        "_is_persistent",
        "address",
        "is_answered",
        "link",
        "received",
    )

    def __init__(self, address: Address, link: Link) -> None:
        self.address = address
        self.link = link
        self.received = b""
        self.is_answered = self._is_persistent = self._is_ended = False
        self._feeder: Feeder | None = None
        self._content: Content
        address.in_flight += 1

    def send(self, head: bytes, first: bytes, length: int, source: Any) -> None:
        """Send ``head``, ``first`` of the content, which has ``length``, and the rest of it as
        ``source`` gives it, while the answer is read. Raises NotSentError."""
        link = self.link
        unsent = link.offer(head + first if first else head)
        if link.has_lost and link.parked:
            raise NotSentError
        left = CHUNKED if length == CHUNKED else length - len(first)
        if unsent or left:
            self._feeder = Feeder(link, unsent, source, left)

    @property
    def is_repeatable(self) -> bool:
        """Whether all that was sent can be sent again."""
        return self._feeder is None

    def read_answer(
        self, method: str, hint: Callable[[list[Field]], object] | None
    ) -> ResponseHead:
        """The head of the answer; ``hint`` gets the fields of each 103 before it.

        Raises NoAnswerError and InvalidResponseError. May switch greenlets.
        """
        for _ in range(MAX_INTERIM + 1):
            answer = parse_response_head(self._read_head(), method)
            if answer.code >= 200 or answer.code == 101:
                break
            if answer.code == 103 and hint is not None:
                hint(answer.fields)
        else:
            raise InvalidResponseError(f"more than {MAX_INTERIM} interim answers (1xx)")
        self._is_persistent = answer.persistent
        if len(self.received) == answer.length:  # the usual case, all in one piece
            self.is_answered = True
        elif answer.code != 101:
            self._content = open_answer(answer.length)
            self.received = self._take(self.received)
        return answer

    def take_rest(self, source: Any) -> None:
        """The answer begins before the server has all of the content, ``source``: what the client
        still sends is taken in first, where it may be. Else it would be lost behind the answer's
        head: nginx passes nothing on any more. May switch greenlets."""
        content, feeder = getattr(source, "raw", None), self._feeder
        if feeder is None or not isinstance(content, Taken) or content.store is None:
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
            raise NoAnswerError
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
        self.is_answered = self._content.is_complete
        if self._content.has_surplus:
            self._is_persistent = False  # whose answer would that be?
        return piece

    def pieces(self) -> Iterator[bytes]:
        """The content, as it comes. Raises InvalidResponseError. May switch greenlets."""
        yield self.received or HEAD_NOW
        while not self.is_answered:
            data = self.link.receive()
            if not data:
                if self.link.was_reset:  # RFC 9112 §8: an error of the connection is not an end
                    raise InvalidResponseError(
                        "the connection was reset in the middle of its answer"
                    )
                self._content.end()
                self.is_answered = True
            elif piece := self._take(data):
                yield piece

    def end(self) -> None:
        """Keep the connection where both sides are done with it, else close it; safe to call
        twice."""
        if self._is_ended:
            return
        self._is_ended = True
        self.address.in_flight -= 1
        feeder = self._feeder
        if feeder is not None:
            self._is_persistent &= feeder.is_complete
            feeder.stop()
        if self._is_persistent and self.is_answered:
            self.address.give_back(self.link)
        else:
            self.link.close()

    def abandon(self) -> None:
        """Close the connection, however complete its answer; safe to call twice."""
        self._is_persistent = False
        self.end()
