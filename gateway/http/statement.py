"""What a front worker states of a request to the pool that runs its mount, written and read.

Two fields, on the way from a front worker to a pool worker and nowhere else: ``Gateway-Statement``
has what is the same each time such a request comes (its mount, its Host, how the client has come),
``Gateway-Request`` what belongs to this one (the client, the request id). So the front alone
decides, and the workers of pools serve what it has decided. All other fields cross as the client,
or a proxy in front, has sent them.

Whoever can connect to a pool's socket is believed: it belongs to the user of the front workers, and
nobody else may open it (``supervisor/sockets.py``). From anybody else the parser drops both fields.
Refuses to know sockets and mounts.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote

from gateway.protocol.fields import REQUEST_KEY, STATEMENT_KEY
from gateway.protocol.names import CACHE_ENTRIES
from gateway.protocol.request import RequestHead
from gateway.wsgi import Environ

# Host of each such request, which RFC 9112 §3.2 demands; the one that counts is in the statement
_PLACEHOLDER_HOST = "pool"
# in place of a value: there is none; the one that it mostly is
_NONE, _SAME = "-", "="


class Statement(NamedTuple):
    """``mount`` is a name, ``prefix`` what a proxy has put before SCRIPT_NAME, ``host`` the
    HTTP_HOST, "" where the client sent none. All latin-1, as in an environ, but for the name."""

    mount: str
    scheme: str
    server_name: str
    server_port: str
    prefix: str
    host: str


@lru_cache(CACHE_ENTRIES)
def write_statement(statement: Statement) -> str:
    """The lines of a head that are the same each time such a request comes."""
    mount, *others = statement
    texts = [quote(mount), *(quote(text, safe="/:[]", encoding="latin-1") for text in others)]
    return f"Host: {_PLACEHOLDER_HOST}\r\nGateway-Statement: {'&'.join(texts)}\r\n"


@lru_cache(CACHE_ENTRIES)
def _read_statement(value: str) -> Statement:
    mount, *others = value.split("&")
    return Statement(unquote(mount), *(unquote(text, encoding="latin-1") for text in others))


def write_told(environ: Environ) -> str:
    """The line that belongs to one request: the client's address and port, the request id, and
    what a proxy has said of both, which mostly is the same."""
    client, request_id = environ["REMOTE_ADDR"], environ["gateway.request_id"]
    hops = _write_again(environ.get("HTTP_X_FORWARDED_FOR"), client)
    header = _write_again(environ.get("HTTP_X_REQUEST_ID"), request_id)
    port = environ["REMOTE_PORT"] or _NONE
    return f"Gateway-Request: {client or _NONE} {port} {request_id} {hops} {header}\r\n"


def _write_again(value: str | None, usual: str) -> str:
    if value is None:
        return _NONE
    return _SAME if value == usual else f"+{quote(value, encoding='latin-1')}"


def _read_told(parts: list[str]) -> Environ:
    client, port, request_id, hops, header = parts
    client = "" if client == _NONE else client
    told = {
        "REMOTE_ADDR": client,
        "REMOTE_PORT": "" if port == _NONE else port,
        "gateway.request_id": request_id,
    }
    if hops != _NONE:
        told["HTTP_X_FORWARDED_FOR"] = _read_again(hops, client)
    if header != _NONE:
        told["HTTP_X_REQUEST_ID"] = _read_again(header, request_id)
    return told


def _read_again(text: str, usual: str) -> str:
    return usual if text == _SAME else unquote(text[1:], encoding="latin-1")


class _Everybody(dict[str, tuple[str, bool]]):
    """Who can connect is trusted, whoever it is."""

    def __missing__(self, peer: str) -> tuple[str, bool]:
        return "", True


class FrontWorkers:
    """To a pool's worker what ``TrustedProxies`` is to others: whose word counts."""

    takes_statements = True
    peers = _Everybody()

    def apply(self, head: RequestHead, environ: Environ) -> str:
        """Take what is stated into ``environ``; the name of the mount, "" where nothing is, as by
        a probe of the worker's own."""
        value, told = environ.pop(STATEMENT_KEY, ""), environ.pop(REQUEST_KEY, "")
        if told:
            environ.update(_read_told(told.split(" ")))
        if not value:
            return ""
        stated = _read_statement(value)
        environ["wsgi.url_scheme"] = stated.scheme
        environ["SERVER_NAME"] = stated.server_name
        environ["SERVER_PORT"] = stated.server_port
        environ["SCRIPT_NAME"] = stated.prefix
        environ["HTTP_HOST"] = stated.host
        if not stated.host:
            del environ["HTTP_HOST"]
        return stated.mount
