"""Known methods, and the syntax of hosts. Source: RFC 3986 §3.2.2, RFC 9110 §7.2."""

import re
from functools import lru_cache
from ipaddress import IPv6Address

from gateway.errors import MalformedRequest

CACHE_ENTRIES = 1024  # bounded, since clients choose the hosts
# Methods with an RFC, UPnP's two and PURGE of caches; not CONNECT, which is for proxies.
METHODS = frozenset((
    "ACL", "BIND", "CHECKOUT", "COPY", "DELETE", "GET", "HEAD", "LINK", "LOCK", "M-SEARCH", "MERGE",
    "MKACTIVITY", "MKCALENDAR", "MKCOL", "MOVE", "NOTIFY", "OPTIONS", "PATCH", "POST", "PROPFIND",
    "PROPPATCH", "PURGE", "PUT", "QUERY", "REBIND", "REPORT", "SEARCH", "SUBSCRIBE", "TRACE",
    "UNBIND", "UNLINK", "UNLOCK", "UNSUBSCRIBE",
))  # fmt: skip

# the peer of a connection over a Unix socket; a user id may follow
UNIX_PEER = "unix:"
# RFC 3986 §3.2.2: a name or IPv4 address, or IPv6 in brackets; RFC 9110 §7.2: then a port. Names
# may have only the characters of DNS and container networks: the others occur in HTML and SQL.
_HOST = re.compile(
    r"(?:([0-9A-Za-z_~-]+(?:\.[0-9A-Za-z_~-]+)*\.?)|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{0,5}))?",
    re.ASCII,
)
_MAX_HOST = 261  # RFC 1035 §2.3.4: a name of 255, then ":" and a port


@lru_cache(CACHE_ENTRIES)
def parse_host(raw_host: str) -> str:
    """The host of a Host field, in lower case, without port. Raises MalformedRequest."""
    found = _HOST.fullmatch(raw_host)
    if found is None or len(raw_host) > _MAX_HOST or int(found[3] or 0) > 65535:
        raise MalformedRequest("Host is not a host name or an address")
    if found[1]:
        return found[1].lower().removesuffix(".")
    try:
        IPv6Address(found[2])
    except ValueError as error:
        raise MalformedRequest("Host is not a host name or an address") from error
    return f"[{found[2].lower()}]"
