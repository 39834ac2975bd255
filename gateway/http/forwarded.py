"""Which hop to believe: client address, scheme, host, port and prefix from trusted proxies.

Refuses to know sockets and mounts. What an untrusted peer says never gets here: the parser drops
it. Source: the practice of nginx and Traefik.
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
# clients, of which each has an address; at most some 4 MiB
MAX_HOPS = 16384
_REQUEST_ID = re.compile(r"[0-9A-Za-z._:/+=@-]{1,128}", re.ASCII)
_PREFIX = re.compile(r"(?:/[^/\s?#\\]+)*/?", re.ASCII)
# prefixes are in what is remembered (``http.statement``, ``upstream.request``); a client may choose
# them
_MAX_PREFIX = 256


class Hops(Memory[tuple[str, bool]]):
    """Hops as they are told, to the address of each, "" if it tells none, and whether it is
    trusted."""

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
    """The same of peers, which may be UNIX_PEER with a user: no forwarded hop can."""

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network | str]) -> None:
        networks = tuple(networks)
        super().__init__(networks)
        self._unix_peers = frozenset(n for n in networks if isinstance(n, str))

    def __missing__(self, peer: str) -> tuple[str, bool]:
        if not peer.startswith(UNIX_PEER):
            return super().__missing__(peer)
        return "", not self._unix_peers.isdisjoint((UNIX_PEER, peer))


class TrustedProxies:
    """The peers whose word counts. ``networks`` holds networks and, for Unix sockets, ``unix:UID``
    for each user whose processes are believed, or ``unix:`` for all users.

    ``peers`` tells of a peer, an address as text or ``unix:UID``, whether it is one of them.
    """

    add_date = False

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network | str]) -> None:
        networks = tuple(networks)
        self.peers = Peers(networks)
        self._hops = Hops(networks)

    def build_parser(self, limits: Limits) -> HeadParser:
        """One that reads what any peer sends."""
        return HeadParser(limits)

    def client(self, hops: str) -> str:
        """The client of an X-Forwarded-For list: from the right, the first that is no trusted
        proxy, or the leftmost. "" where the rightmost is no address."""
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
        """Take what a trusted peer says of its client, and its id of the request if that can be
        logged, into ``head`` and ``environ``. Returns "": which mount answers is not a proxy's to
        say.

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
    """An address from a forwarding list, with or without port; None if it is none.

    An IPv4-mapped IPv6 address is the IPv4 one, as a dual-stack listener reports it.
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
    # each hop appends; the last entry is the one our own peer vouches for
    return value.rpartition(",")[2].strip(" \t")
