"""Which hop to believe: client address, scheme, host, port and prefix from trusted proxies.

Refuses to know sockets and mounts. What an untrusted peer says never gets here: the parser drops
it. Source: the X-Forwarded-* practice as nginx and Traefik write it.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv4Network, IPv6Network, ip_address

from gateway.http.parser import CACHE_ENTRIES, RequestHead, parse_host
from gateway.wsgi import Environ

UNIX_PEER = "unix:"

# [v6]:port, v4:port, or a bare address
_HOP = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]+)?|([0-9.]+):[0-9]+|([0-9A-Fa-f:.]+)", re.ASCII)
_REQUEST_ID = re.compile(r"[0-9A-Za-z._:/+=@-]{1,128}", re.ASCII)
_PREFIX = re.compile(r"(?:/[^/\s?#\\]+)*/?", re.ASCII)


class TrustedProxies:
    """The peers whose word counts. ``networks`` holds networks and, for Unix sockets, ``unix:``."""

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network | str]) -> None:
        networks = tuple(networks)
        self._networks = tuple(n for n in networks if not isinstance(n, str))
        self._known: dict[str, bool] = {UNIX_PEER: UNIX_PEER in networks}

    def trusts(self, peer: str) -> bool:
        """Whether ``peer``, an address as text or UNIX_PEER, is one of them."""
        known = self._known.get(peer)
        if known is None:
            address = parse_hop(peer)
            known = address is not None and any(address in network for network in self._networks)
            if len(self._known) < CACHE_ENTRIES:
                self._known[peer] = known
        return known

    def client(self, hops: str) -> str:
        """The client of an X-Forwarded-For list: from the right, the first that is no trusted
        proxy, or the leftmost. "" where the rightmost is no address."""
        client = ""
        for hop in reversed(hops.split(",")):
            address = parse_hop(hop.strip())
            if address is None:
                break
            client = str(address)
            if not self.trusts(client):
                break
        return client

    def apply(self, head: RequestHead, environ: Environ) -> None:
        """Take what a trusted peer says of its client into ``head`` and ``environ``.

        Raises MalformedRequest where the forwarded host is none.
        """
        fields = head.fields
        hops = fields.get("HTTP_X_FORWARDED_FOR")
        if hops:
            client = self.client(hops)
            if client:
                environ["REMOTE_ADDR"] = client
                environ["REMOTE_PORT"] = ""
        scheme = fields.get("HTTP_X_FORWARDED_PROTO")
        if scheme:
            scheme = _last(scheme).lower()
            if scheme in ("http", "https"):
                environ["wsgi.url_scheme"] = scheme
        host = fields.get("HTTP_X_FORWARDED_HOST")
        if host:
            host = _last(host)
            head.host = parse_host(host)
            environ["HTTP_HOST"] = host
        port = fields.get("HTTP_X_FORWARDED_PORT")
        if port:
            port = _last(port)
            if port.isascii() and port.isdigit() and len(port) <= 5:
                environ["SERVER_PORT"] = port
        prefix = fields.get("HTTP_X_FORWARDED_PREFIX")
        if prefix and _PREFIX.fullmatch(_last(prefix)):
            environ["SCRIPT_NAME"] = _last(prefix).rstrip("/")

    def request_id(self, head: RequestHead) -> str:
        """The id a trusted peer gave the request; "" where it gave none that can be logged."""
        request_id = head.fields.get("HTTP_X_REQUEST_ID", "")
        return request_id if _REQUEST_ID.fullmatch(request_id) else ""


def parse_hop(hop: str) -> IPv4Address | IPv6Address | None:
    """An address from a forwarding list, with or without port; None if it is none.

    An IPv4-mapped IPv6 address is the IPv4 one, as a dual-stack listener reports it.
    """
    found = _HOP.fullmatch(hop)
    if found is None:
        return None
    try:
        address = ip_address(found[1] or found[2] or found[3])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _last(value: str) -> str:
    # each hop appends; the last entry is the one our own peer vouches for
    return value.rpartition(",")[2].strip()
