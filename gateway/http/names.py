"""Methods, field names and hosts: which are known, what a name is called in CGI, what is a host.

Refuses to know heads and sockets. Source: RFC 3875 §4.1.18, RFC 3986 §3.2.2, RFC 9110 §7.2.
"""

import re
from functools import lru_cache
from ipaddress import IPv6Address

from gateway.errors import MalformedRequest

CACHE_ENTRIES = 1024  # bound of what is remembered: a client chooses what is looked up
DROPPED = ""
# What llhttp knows beside CONNECT, which is for proxies.
METHODS = frozenset((
    "ACL", "BIND", "CHECKOUT", "COPY", "DELETE", "GET", "HEAD", "LINK", "LOCK", "M-SEARCH", "MERGE",
    "MKACTIVITY", "MKCALENDAR", "MKCOL", "MOVE", "NOTIFY", "OPTIONS", "PATCH", "POST", "PROPFIND",
    "PROPPATCH", "PURGE", "PUT", "QUERY", "REBIND", "REPORT", "SEARCH", "SUBSCRIBE", "TRACE",
    "UNBIND", "UNLINK", "UNLOCK", "UNSUBSCRIBE",
))  # fmt: skip

# the peer of whoever has come over a Unix socket; its user's number may follow
UNIX_PEER = "unix:"
# What front workers alone say, to pools alone; dropped whoever else says it, proxies too.
STATEMENT_KEY, REQUEST_KEY = "HTTP_GATEWAY_STATEMENT", "HTTP_GATEWAY_REQUEST"
# What only a trusted proxy may say (RFC 7239 §8.1); dropped when anyone else says it.
_FORWARDED_NAME = re.compile(rb"forwarded|x-forwarded-.*|x-real-ip|x-request-id", re.IGNORECASE)
# RFC 3986 §3.2.2: a name or IPv4 address, or IPv6 in brackets; then RFC 9110 §7.2's port. Of a
# name's characters only those that DNS and container networks use: the others are HTML and SQL.
_HOST = re.compile(
    r"(?:([0-9A-Za-z_~-]+(?:\.[0-9A-Za-z_~-]+)*\.?)|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{0,5}))?",
    re.ASCII,
)
_MAX_HOST = 261  # RFC 1035 §2.3.4: a name of 255, then ":" and a port


class CgiNames(dict[bytes, str]):
    """Field names as sent to CGI names, learnt as they come, begun anew when there are too many."""

    def __init__(self, *, trusts_peer: bool, takes_statements: bool = False) -> None:
        super().__init__()
        self._trusts_peer = trusts_peer
        self._takes_statements = takes_statements

    def __missing__(self, raw_name: bytes) -> str:
        name = cgi_name(raw_name)
        if not self._trusts_peer and _FORWARDED_NAME.fullmatch(raw_name):
            name = DROPPED
        if name in (STATEMENT_KEY, REQUEST_KEY) and not self._takes_statements:
            name = DROPPED
        if len(raw_name) <= 64:
            if len(self) >= CACHE_ENTRIES:
                self.clear()
            self[raw_name] = name
        return name


def cgi_name(raw_name: bytes) -> str:
    """RFC 3875 §4.1.18: ``User-Agent`` is ``HTTP_USER_AGENT``; "" for a name that is not let in.

    A name with ``_`` could pass for the one with ``-`` and is dropped, as nginx does; ``Proxy``
    would become HTTP_PROXY, which HTTP clients obey (CVE-2016-5385).
    """
    if b"_" in raw_name:
        return DROPPED
    name = raw_name.decode("ascii").upper().replace("-", "_")
    if name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        return name
    return DROPPED if name == "PROXY" else f"HTTP_{name}"


@lru_cache(CACHE_ENTRIES)
def parse_host(raw_host: str) -> str:
    """The host of a Host field, lower-case, without port and final dot. Raises MalformedRequest."""
    found = _HOST.fullmatch(raw_host)
    if found is None or len(raw_host) > _MAX_HOST or int(found[3] or 0) > 65535:
        raise MalformedRequest("Host is no host name or address")
    if found[1]:
        return found[1].lower().removesuffix(".")
    try:
        IPv6Address(found[2])
    except ValueError as error:
        raise MalformedRequest("Host is no host name or address") from error
    return f"[{found[2].lower()}]"
