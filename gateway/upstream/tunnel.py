"""A connection after a 101: forwards bytes in both directions until both sides have closed.

Refuses to know what they mean. Source: RFC 9110 §7.8 and §15.2.2, RFC 6455 (WebSocket).
"""

from contextlib import suppress
from typing import Any

from gevent import get_hub
from greenlet import GreenletExit, getcurrent, greenlet

from gateway.protocol.response import ResponseHead
from gateway.upstream.hop import Hop
from gateway.upstream.link import Link
from gateway.wsgi import Takeover


class Tunnel(Takeover):
    """Runs in two greenlets: the request's own forwards to the client, another to the server."""

    def __init__(self, hop: Hop, answer: ResponseHead) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in answer.fields)
        self.head = (
            f"HTTP/1.1 {answer.status}\r\nConnection: Upgrade\r\nUpgrade: {answer.upgrade}\r\n"
            f"{lines}\r\n"
        ).encode("latin-1")
        self._hop = hop
        self._waiting: Any = None
        self._client: Link
        self.close = hop.end

    def run(self, connection: Any) -> None:
        """See ``Takeover``. When one side closes, the other is half-closed and may still send."""
        client, begun = connection.hand_over()
        self._client = Link(client)
        server = self._hop.link
        hub: Any = get_hub()
        other_way = greenlet(self._run_to_server, hub)
        begin = hub.loop.run_callback(other_way.switch, begun)
        try:
            data = self._hop.received or server.receive()
            while data:
                connection.send(data)
                data = server.receive()
            self._client.end()
            self._waiting = getcurrent()
            while not other_way.dead:
                hub.switch()
        finally:
            self._waiting = None
            begin.stop()
            if not other_way.dead:
                other_way.parent = getcurrent()
                other_way.throw()
            self._client.release()

    def _run_to_server(self, begun: bytes) -> None:
        server = self._hop.link
        with suppress(ConnectionError, GreenletExit):
            data = begun or self._client.receive()
            while data:
                self.received_bytes += len(data)
                server.send(data)
                data = self._client.receive()
            server.end()
        get_hub().loop.run_callback(self._wake)

    def _wake(self) -> None:
        if self._waiting is not None:
            self._waiting.switch()
