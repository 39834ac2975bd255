"""Sends a client to the same address again: to the one that its cookie names, or to the one chosen
by a hash of the client's own address.

Refuses to know how an address is reached. Source: RFC 6265 (cookies); rendezvous hashing, by which
only the clients of an address that is added or removed move.
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any
from urllib.parse import quote

from gateway.protocol.fields import Field
from gateway.upstream.address import Address
from gateway.wsgi import Environ

COOKIE = "gateway_sticky"


class Sticky:
    """``by`` is ``cookie`` or ``address``."""

    def __init__(self, by: str) -> None:
        self._uses_cookie = by == "cookie"

    def choose(self, environ: Environ, addresses: Iterable[Address]) -> Address | None:
        """The client's own among the available ``addresses``; None if any will do."""
        if self._uses_cookie:
            wanted = _read_cookie(environ.get("HTTP_COOKIE", ""))
            return next((a for a in addresses if wanted and _name(a) == wanted), None)
        client: str = environ["REMOTE_ADDR"]
        return max(addresses, key=lambda a: _weigh(client, a.text), default=None)

    def mark(self, environ: Environ, address: Address) -> list[Field]:
        """The fields that make a client come back to ``address``, if it would not anyway."""
        name = _name(address)
        if not self._uses_cookie or _read_cookie(environ.get("HTTP_COOKIE", "")) == name:
            return []
        path = quote(environ["SCRIPT_NAME"].encode("latin-1"), safe="/:@!$&'()*+,=") or "/"
        secure = "; Secure" if environ["wsgi.url_scheme"] == "https" else ""
        cookie = f"{COOKIE}={name}; Path={path}; HttpOnly; SameSite=Lax{secure}"
        return [("Set-Cookie", cookie)]


def _read_cookie(cookies: str) -> str:
    """RFC 6265 §5.4: the cookie with the longest Path comes first."""
    pairs: Any = (pair.strip(" \t").partition("=") for pair in cookies.split(";"))
    return next((value for name, _, value in pairs if name == COOKIE), "")


def _name(address: Address) -> str:
    """A name for an address that does not disclose it."""
    return blake2b(address.text.encode(), digest_size=8).hexdigest()


def _weigh(client: str, address: str) -> bytes:
    return blake2b(f"{client} {address}".encode(), digest_size=8).digest()
