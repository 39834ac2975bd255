"""Input to request heads: the side of a connection that reads, in the hub, without a greenlet.

Refuses to know what an answer is. A head, or the refusal of one, is handed to ``run``. Source:
RFC 9112 §2.2 (empty lines, bare LF), §9.6 (half-closed connections).
"""

from abc import abstractmethod
from time import monotonic
from typing import Any

from gateway.errors import (
    HeaderFieldsTooLarge,
    MalformedRequest,
    RequestError,
    UriTooLong,
)
from gateway.http.handover import Known
from gateway.http.service import Service
from gateway.http.wire.stream import IDLE, RUNNING, State, Stream
from gateway.logs import hide_unprintable
from gateway.protocol.request import RequestHead

# of one read between requests: most heads, with content that is short; what is longer is read in
# bigger pieces, once somebody asks for it
HEAD_READ_BYTES = 16 * 1024
# a pipelining client is read ahead up to this while its request runs
READ_AHEAD_BYTES = 64 * 1024


class Incoming(Stream):
    """Reads until a head is whole, then has ``run`` answer it; ``has_ended`` once the client will
    send no more."""

    __slots__ = (
        "_head",
        "_peer",
        "_peer_port",
        "_refusal",
        "_service",
        "_trusts_peer",
        "has_ended",
    )

    _head: Any

    def __init__(self, service: Service, client_socket: Any, peer: str, peer_port: str) -> None:
        self._service = service
        # super() takes longer, for each connection
        Stream.__init__(self, client_socket, service.pusher)
        self._peer = peer
        self._peer_port = peer_port
        _, self._trusts_peer = service.proxies.peers[peer]
        self._refusal: RequestError | None = None
        self.has_ended = False

    @abstractmethod
    def run(self, runner: Any, now: float) -> float:
        """Answer ``_head``, or ``_refusal`` where that is set. In the greenlet ``runner``, from
        ``now`` on, to the moment that is returned."""

    @abstractmethod
    def _wants_input(self) -> bool:
        """Whether what comes now is not content, which waits until it is asked for."""

    @abstractmethod
    def close(self) -> None:
        """Give the socket back."""

    def begin(self) -> None:
        """Serve from now on. Only from the hub.

        A request that came with the connection is read at once, and input is watched for behind its
        response, or from the next sweep on: one that is closed by then never costs a watcher.
        """
        self._on_readable()
        if self.state is IDLE or self.state is State.HEAD:
            self._watch(True)

    def describe(self) -> tuple[int, Known]:
        """The descriptor, and what another worker has to know to go on between two requests."""
        return self._socket.fileno(), Known(self._peer, self._peer_port, True, False, self._buffer)

    def resume(self, known: Known) -> None:
        """Go on where another worker was, before ``begin``."""
        self._trusts_peer &= not known.is_nobody
        if known.data:
            self._buffer = known.data
            self.state = State.HEAD

    def _watch_while_running(self) -> None:
        has_room = len(self._buffer) <= READ_AHEAD_BYTES
        if not self._is_watching and has_room and not self.has_ended and self._wants_input():
            self._watch(True)

    def _on_readable(self) -> None:
        try:
            data = self._socket.recv(HEAD_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._take_input(data, self.state)

    def _take_input(self, data: bytes, state: State) -> None:
        """What was read, or b"" for the end of input."""
        if state is IDLE or state is State.HEAD:
            if data:
                self._advance(self._buffer + data if self._buffer else data)
            else:
                self._close_silent()
        elif state is State.LINGERING:
            if not data:
                self.close()
        elif data:
            self._buffer += data
            if len(self._buffer) > READ_AHEAD_BYTES:
                self._watch(False)
        else:
            # a half-close is allowed (RFC 9112 §9.6): the response is still sent
            self.has_ended = True
            self._watch(False)

    def _advance(self, data: bytes) -> None:
        """Take the next request out of ``data`` and run it, or wait for the rest of its head."""
        if data[:2] == b"\r\n":
            data = _without_empty_lines(data)
        end = data.find(b"\r\n\r\n") + 4
        if end < 4:
            self._buffer = data
            self._keep_unfinished(data)
            return
        try:
            self._buffer = data[end:]
            self._head = self._service.parser.parse(data[:end], self._trusts_peer)
        except RequestError as error:
            self._refuse(error, data)
            return
        self.state = RUNNING
        self._service.submit(self)

    def _keep_unfinished(self, data: bytes) -> None:
        """Wait for the rest of a head, unless what is there tells that it will be refused."""
        limits = self._service.limits
        line_length = data.find(b"\n") - 1 if b"\n" in data else len(data) - 1
        if line_length > limits.max_request_line_bytes:
            limit = limits.max_request_line_bytes
            self._refuse(UriTooLong(f"a request line of more than {limit} bytes"), data)
        elif len(data) > limits.max_head_bytes:
            self._refuse(
                HeaderFieldsTooLarge(f"more than {limits.max_head_bytes} bytes of head"), data
            )
        elif data.count(b"\n") != data.count(b"\r\n"):
            self._refuse(MalformedRequest("a line ends without CR"), data)
        elif data and not 0x20 < data[0] < 0x7F and data[:1] != b"\r":
            self._refuse(MalformedRequest("this is not HTTP/1.1 (TLS on a plain port?)"), data)
        elif self.has_ended:
            self._close_silent()
        elif data and self.state is IDLE:
            self.state = State.HEAD
            self.since = monotonic()

    def _refuse(self, error: RequestError, data: bytes = b"") -> None:
        """Answer ``error``; ``data`` begins with what can be told of the request in its record."""
        self._refusal = error
        self._head = _build_unreadable_head(data)
        self.state = RUNNING
        self._service.submit(self)

    def _close_silent(self) -> None:
        """The client has closed: between requests, or within a head, which is then recorded."""
        if self._buffer:
            self.has_ended = True
            self._refuse(MalformedRequest("the client left within a head"), self._buffer)
        else:
            self.close()


def _without_empty_lines(data: bytes) -> bytes:
    # RFC 9112 §2.2: at least one before a request is ignored; some clients send one after content
    start = 0
    while data.startswith(b"\r\n", start):
        start += 2
    return data[start:]


def _build_unreadable_head(data: bytes) -> RequestHead:
    """Stands for a head that could not be read, in its refusal and its record."""
    head = RequestHead()
    words = data.partition(b"\r\n")[0].decode("latin-1").split(" ")
    is_told = len(words) == 3 and words[2].startswith("HTTP/")
    head.method, head.target = map(hide_unprintable, words[:2]) if is_told else ("", "")
    head.path = head.query = ""
    head.fields = {}
    head.is_http11 = True
    head.persistent = False
    return head
