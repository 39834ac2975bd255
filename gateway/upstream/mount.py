"""A mount that forwards its requests to another HTTP/1.1 server, as a WSGI app.

Owns which requests are sent again and how failures are reported. Only addresses of the table are
ever contacted. Refuses to know bytes. Source: RFC 9110 §9.2.2 (what may be sent again), §15.6 (502,
503, 504) and §7.8 (Upgrade).
"""

from collections.abc import Callable, Iterable, Iterator
from math import ceil
from time import monotonic
from typing import Any

import gevent
from gevent import get_hub

from gateway.errors import ClientDisconnected, RequestEnded
from gateway.logs import faults
from gateway.protocol.framing import split_list
from gateway.protocol.response import InvalidResponseError, ResponseHead
from gateway.upstream.address import Address
from gateway.upstream.balance import Balance
from gateway.upstream.hop import Hop, NoResponseError, NotSentError
from gateway.upstream.link import READ_BYTES
from gateway.upstream.request import Rules, UpstreamRequest, read_request
from gateway.upstream.rewrite import Rewriter
from gateway.upstream.sticky import Sticky
from gateway.upstream.tunnel import Tunnel
from gateway.wsgi import Environ, StartResponse

# interval of the check for clients that have left and for connections idle for too long
SWEEP_SECONDS = 0.5
# Retry-After when it is unknown when an address will be available
RETRY_SECONDS = 5


class Upstream:
    """WSGI app that forwards each request to one of ``addresses``, and the response to the client.

    ``rewriter`` changes fields of responses, if it is not None; ``sticky`` sends clients to the
    same address again; ``checks`` run until the app is closed. Without ``repeats`` no request is
    sent a second time: for servers that close idle connections only when they crash.
    """

    def __init__(
        self,
        name: str,
        addresses: Iterable[Address],
        rules: Rules,
        *,
        connect_timeout_seconds: float,
        keep_alive_seconds: float,
        rewriter: Rewriter | None = None,
        sticky: Sticky | None = None,
        checks: Iterable[Any] = (),
        repeats: bool = True,
    ) -> None:
        self._name = name
        self._balance = Balance(addresses, sticky)
        self._sticky = sticky
        self._rules = rules
        self._connect_timeout_seconds = connect_timeout_seconds
        self._keep_alive_seconds = keep_alive_seconds
        self._rewriter = rewriter
        self._checks = tuple(checks)
        self._repeats = repeats
        self._clients: dict[Hop, Callable[[], bool]] = {}  # whether each has left
        self._sweeper: Any = None
        self._until = 0.0

    def put_off(self, cause: str, until: float) -> None:
        """No address is available before ``until``, a monotonic time. The cause is logged
        already."""
        self._until = until

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        request = read_request(environ, self._rules)
        if request.is_circular:
            why = "the request goes in circles: an address leads back here"
            raise self._fail(environ, "", "508 Loop Detected", why)
        hop, answer = self._ask(environ, request)
        try:
            if answer.code == 101:
                return self._open_tunnel(hop, request, answer)
            fields = answer.fields
            if self._rewriter is not None:
                fields = self._rewriter.rewrite(fields, environ)
            if self._sticky is not None:
                fields = fields + self._sticky.mark(environ, hop.address)
            start_response(answer.status, fields)
            if not hop.is_received:
                hop.take_rest(environ["wsgi.input"])
        except BaseException as error:  # noqa: BLE001  raised again, perhaps as another
            self._end(hop)
            raise self._explain(environ, hop, error) from None
        if hop.is_received:
            self._end(hop)
            return [hop.received]
        return _Relay(self._relay(environ, hop), lambda: self._end(hop))

    # --- to the server ------------------------------------------------------------------------

    def _ask(self, environ: Environ, request: UpstreamRequest) -> tuple[Hop, ResponseHead]:
        """The head of the response, and the hop that reads the rest. The caller has to end it."""
        first: bytes | None = None
        is_fresh = False
        while True:
            hop = self._begin(environ, request, is_fresh=is_fresh)
            try:
                if first is None:
                    first = _read_first(environ, request)
                hop.send(request.head, first, request.length, environ["wsgi.input"])
                return hop, hop.read_response(request.method, environ["wsgi.early_hints"])
            except NoResponseError as error:
                self._end(hop)
                # a new connection was not closed for being idle: the request may crash servers
                may_repeat = self._repeats and hop.link.parked and request.is_idempotent
                if not (isinstance(error, NotSentError) or (may_repeat and hop.is_repeatable)):
                    raise self._explain(environ, hop, error) from None
                is_fresh = True
            except BaseException as error:  # noqa: BLE001  raised again, perhaps as another
                self._end(hop)
                raise self._explain(environ, hop, error) from None

    def _begin(self, environ: Environ, request: UpstreamRequest, *, is_fresh: bool) -> Hop:
        """A connection to an available address. Raises RequestEnded if there is none."""
        must_live = not (self._repeats and request.is_idempotent) or request.length != 0
        tried: list[Address] = []
        failure: OSError | None = None
        while (address := self._balance.choose(tried, environ)) is not None:
            try:
                link = None if is_fresh else address.take(must_live)
                hop = Hop(address, link or address.connect(self._connect_timeout_seconds))
            except OSError as error:
                tried.append(address)
                failure = error
                continue
            self._clients[hop] = environ["gateway.client_disconnected"]
            if self._sweeper is None:
                self._sweeper = get_hub().loop.timer(SWEEP_SECONDS, SWEEP_SECONDS, ref=False)
                self._sweeper.start(self._sweep)
            return hop
        names = ", ".join(address.text for address in tried)
        if isinstance(failure, TimeoutError):
            raise self._fail(environ, names, "504 Gateway Timeout", failure)
        why = failure or "no address is healthy"
        raise self._fail(environ, names, "503 Service Unavailable", why, self._find_retry())

    def _find_retry(self) -> tuple[str, str]:
        seconds = ceil(self._until - monotonic())
        return "Retry-After", str(seconds if seconds > 0 else RETRY_SECONDS)

    def _end(self, hop: Hop) -> None:
        self._clients.pop(hop, None)
        hop.end()

    def _sweep(self) -> None:
        """End requests whose clients have left, and close connections idle for too long."""
        for hop, has_left in tuple(self._clients.items()):
            if has_left():
                hop.link.interrupt(ClientDisconnected("the client left"))
        before = monotonic() - self._keep_alive_seconds
        has_idle = [address.close_idle(before) for address in self._balance.addresses]
        if not self._clients and not any(has_idle):
            self._stop_sweeper()

    def _stop_sweeper(self) -> None:
        if self._sweeper is not None:
            self._sweeper.stop()
            self._sweeper.close()
            self._sweeper = None

    def close(self) -> None:
        """Close idle connections and stop health checks. Requests in flight are completed."""
        gevent.killall(self._checks)
        for address in self._balance.addresses:
            address.close()
        if not self._clients:
            self._stop_sweeper()

    # --- to the client ------------------------------------------------------------------------

    def _relay(self, environ: Environ, hop: Hop) -> Iterator[bytes]:
        try:
            yield from hop.pieces()
        except (InvalidResponseError, RequestEnded) as error:
            raise self._explain(environ, hop, error) from None

    def _open_tunnel(self, hop: Hop, request: UpstreamRequest, answer: ResponseHead) -> Tunnel:
        if not request.upgrade:
            raise InvalidResponseError("it switched protocols without being asked to")
        # RFC 9110 §7.8: a server must not switch to a protocol that was not indicated
        if not split_list(answer.upgrade) <= split_list(request.upgrade):
            name = answer.upgrade[:60]
            what = f"a protocol that nobody asked for: {name!r}" if name else "an unnamed protocol"
            raise InvalidResponseError(f"it switched to {what}")
        self._clients.pop(hop)  # whether a client has left is the tunnel's to see
        return Tunnel(hop, answer)

    def _explain(self, environ: Environ, hop: Hop, error: BaseException) -> BaseException:
        """The exception to raise for ``error``, which is logged if it is the server's."""
        where = hop.address.text
        if isinstance(error, NoResponseError | InvalidResponseError):
            return self._fail(environ, where, "502 Bad Gateway", error)
        if isinstance(error, RequestEnded):
            self._report(environ, f"upstream {where}: {error}")
        return error

    def _fail(
        self, environ: Environ, where: str, status: str, why: object, *fields: tuple[str, str]
    ) -> RequestEnded:
        fault = f"upstream {where}: {why}" if where else f"upstream: {why}"
        self._report(environ, fault)
        return RequestEnded(fault, status, "The server behind this address failed.", *fields)

    def _report(self, environ: Environ, fault: str) -> None:
        request_id = environ["gateway.request_id"]
        extra = {"mount": self._name, "request_id": request_id}
        faults.error("%s: %s (request %s)", self._name, fault, request_id, extra=extra)


class _Relay:
    """The content of a response that is still being received, with PEP 3333's ``close``."""

    def __init__(self, pieces: Iterator[bytes], close: Callable[[], None]) -> None:
        self._pieces = pieces
        self.close = close

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces


def _read_first(environ: Environ, request: UpstreamRequest) -> bytes:
    """The beginning of the content, to be sent together with the head, if it is small.

    b"" for large content, and for clients that wait for a 100.
    """
    if 0 < request.length <= READ_BYTES and "HTTP_EXPECT" not in environ:
        return environ["wsgi.input"].read1(request.length)  # type: ignore[no-any-return]
    return b""
