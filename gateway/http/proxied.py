"""A client connection that a proxy relays and has to introduce: the PROXY header, then requests.

Owns what the header changes about a connection. Refuses to know its form. Source: HAProxy's
doc/proxy-protocol.txt, §2 (only from trusted proxies; nothing is processed before it is whole).
"""

from time import monotonic
from typing import Any

from gateway.errors import MalformedRequest, UntrustedPeer
from gateway.http.connection import Connection
from gateway.http.handover import Known
from gateway.http.service import Service
from gateway.http.wire.stream import IDLE, State
from gateway.protocol.proxy_header import ProxyHeader, parse_proxy_header


class ProxiedConnection(Connection):
    """Refused unless its peer is a trusted proxy and a whole header comes in ``head_timeout``."""

    __slots__ = ("_has_header", "_is_nobody")

    def __init__(self, service: Service, client_socket: Any, peer: str, peer_port: str) -> None:
        super().__init__(service, client_socket, peer, peer_port)
        self._has_header = False
        self._is_nobody = False

    def describe(self) -> tuple[int, Known]:
        descriptor, known = super().describe()
        return descriptor, known._replace(has_header=self._has_header, is_nobody=self._is_nobody)

    def resume(self, known: Known) -> None:
        super().resume(known)
        self._has_header, self._is_nobody = known.has_header, known.is_nobody

    def _on_readable(self) -> None:
        if self._has_header or self.state is not IDLE:
            super()._on_readable()
            return
        # what comes first is the header, which is due as soon as a head is
        self.state = State.HEAD
        self.since = monotonic()
        super()._on_readable()
        if self.state is State.HEAD and not self._buffer:
            self.state = IDLE  # nothing had come

    def _advance(self, data: bytes) -> None:
        if self._has_header:
            super()._advance(data)
            return
        try:
            if not self._trusts_peer:
                raise UntrustedPeer("the PROXY protocol is spoken here, by trusted proxies alone")
            header = parse_proxy_header(data)
        except (MalformedRequest, UntrustedPeer) as error:
            self._refuse(error)
            return
        if header is None:
            self._buffer = data
            return
        self._take(header)
        self.state = IDLE
        self.since = monotonic()
        super()._advance(data[header.size_bytes :])

    def _take(self, header: ProxyHeader) -> None:
        """From now on the peer is whom the header names, and its word counts as that one's."""
        self._has_header = True
        if header.peer:
            self._peer = header.peer
            self._peer_port = header.port
            _, self._trusts_peer = self._service.proxies.peers[header.peer]
        elif not header.is_local:
            # a stranger's bytes under the proxy's address, which it can tell no other for
            self._trusts_peer, self._is_nobody = False, True
