"""Client address, scheme, host, port and prefix from trusted proxies.

Knows neither sockets nor mounts. The parser drops forwarding fields of untrusted peers. Source: the
practice of nginx and Traefik.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from gateway.limits import Limits
from gateway.protocol.memory import Memory
from gateway.protocol.names import UNIX_PEER, parse_host
from gateway.protocol.request import HeadParser, RequestHead
from gateway.wsgi import Environ

# [v6]:port, v4:port, or a bare address; a port may be obfuscated (RFC 7239 §6)
_HOP = re.compile(
    r"\[([0-9A-Fa-f:.]+)\](?::[0-9A-Za-z._-]+)?|([0-9.]+):[0-9A-Za-z._-]+|([0-9A-Fa-f:.]+)",
    re.ASCII,
)
_MAX_HOP = 64  # an IPv6 address with IPv4 tail, brackets and a port
# one for each client address; some 4 MiB at most
MAX_HOPS = 16384
_REQUEST_ID = re.compile(r"[0-9A-Za-z._:/+=@-]{1,128}", re.ASCII)
_PREFIX = re.compile(r"(?:/[^/\s?#\\]+)*/?", re.ASCII)
# prefixes are parts of keys of caches (``http.statement``, ``upstream.request``), and clients may
# choose them
_MAX_PREFIX = 256


class Hops(Memory[tuple[str, bool]]):
    """Hops as sent to their address ("" for none), and whether they are trusted."""

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network | str]) -> None:
        super().__init__(MAX_HOPS, _MAX_HOP)
        self._networks = tuple(n for n in networks if not isinstance(n, str))

    def __missing__(self, hop: str) -> tuple[str, bool]:
        address = parse_hop(hop)
        if address is None:
            return "", False
        judged = str(address), any(address in network for network in self._networks)
        self.keep(hop, judged)
        return judged


class Peers(Hops):
    """As ``Hops``, for peers, which may also be UNIX_PEER with a user id."""

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network | str]) -> None:
        networks = tuple(networks)
        super().__init__(networks)
        self._unix_peers = frozenset(n for n in networks if isinstance(n, str))

    def __missing__(self, peer: str) -> tuple[str, bool]:
        if not peer.startswith(UNIX_PEER):
            return super().__missing__(peer)
        return "", not self._unix_peers.isdisjoint((UNIX_PEER, peer))


class TrustedProxies:
    """The trusted peers. ``networks`` holds networks and, for Unix sockets, ``unix:UID`` for each
    trusted user, or ``unix:`` for all users.

    ``peers`` maps a peer, an address as text or ``unix:UID``, to whether it is trusted.
    """

    add_date = False

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network | str]) -> None:
        networks = tuple(networks)
        self.peers = Peers(networks)
        self._hops = Hops(networks)

    def build_parser(self, limits: Limits) -> HeadParser:
        """A parser for requests of any peer."""
        return HeadParser(limits)

    def client(self, hops: str) -> str:
        """The client of an X-Forwarded-For list: from the right, the first address that is not a
        trusted proxy, or the leftmost one. "" if the rightmost entry is not an address."""
        if "," not in hops:
            return self._hops[hops][0]
        client = ""
        for hop in reversed(hops.split(",")):
            address, is_trusted = self._hops[hop.strip(" \t")]
            if not address:
                break
            client = address
            if not is_trusted:
                break
        return client

    def apply(self, head: RequestHead, environ: Environ) -> str:
        """Apply the fields of a trusted peer to ``head`` and ``environ``: its client, and its
        request id if that can be logged. Returns "": a proxy does not choose the mount.

        Raises MalformedRequest for an invalid forwarded host.
        """
        fields = head.fields
        hops = fields.get("HTTP_X_FORWARDED_FOR")
        scheme = fields.get("HTTP_X_FORWARDED_PROTO")
        host = fields.get("HTTP_X_FORWARDED_HOST")
        if hops:
            client = self.client(hops)
            if client:
                environ["REMOTE_ADDR"] = client
                environ["REMOTE_PORT"] = ""
        if scheme:
            scheme = _last(scheme).lower()
            if scheme in ("http", "https"):
                environ["wsgi.url_scheme"] = scheme
        if host:
            host = _last(host)
            head.host = parse_host(host)
            environ["HTTP_HOST"] = host
        request_id = fields.get("HTTP_X_REQUEST_ID")
        if request_id and _REQUEST_ID.fullmatch(request_id):
            environ["gateway.request_id"] = request_id
        port = fields.get("HTTP_X_FORWARDED_PORT")
        if port:
            port = _last(port)
            if port.isascii() and port.isdigit() and len(port) <= 5:
                environ["SERVER_PORT"] = port
        prefix = fields.get("HTTP_X_FORWARDED_PREFIX")
        if prefix:
            prefix = _last(prefix)
            if len(prefix) <= _MAX_PREFIX and _PREFIX.fullmatch(prefix):
                environ["SCRIPT_NAME"] = prefix.rstrip("/")
        return ""


def parse_hop(hop: str) -> IPv4Address | IPv6Address | None:
    """The address of an entry in a forwarding list, with or without port; None if it has none.

    IPv4-mapped IPv6 addresses become IPv4, as dual-stack listeners report them.
    """
    found = _HOP.fullmatch(hop)
    if found is None or len(hop) > _MAX_HOP:
        return None
    try:
        address = ip_address(found[1] or found[2] or found[3])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _last(value: str) -> str:
    # each hop appends an entry; the last one is that of our own peer
    return value.rpartition(",")[2].strip(" \t")
