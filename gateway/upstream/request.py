"""The head of a request to a server behind a mount, built from its environ.

Owns what is forwarded: the path, every end-to-end field, and what is reported of the client.
Refuses to know sockets. Source: RFC 9110 §7.6.1 (hop-by-hop fields), §7.8 (Upgrade), §9.2.2
(idempotent methods), RFC 9112 §3 and §6; for ``X-Forwarded-*`` the practice of nginx and Traefik.
"""

from dataclasses import dataclass
from functools import lru_cache
from io import BufferedReader
from urllib.parse import quote

from gateway.http.dispatch import PATH_SAFE
from gateway.http.statement import write_statement
from gateway.protocol.fields import DROPPED, HOP_KEYS, LONGEST_NAME, MAX_NAMES, is_field
from gateway.protocol.framing import CHUNKED, split_list
from gateway.protocol.memory import Memory
from gateway.protocol.names import CACHE_ENTRIES, UNIX_PEER
from gateway.wsgi import RAW_PATH_INFO, Environ

# RFC 9110 §9.2.2, and by their own RFCs the safe ones of WebDAV and QUERY
IDEMPOTENT = frozenset(
    ("DELETE", "GET", "HEAD", "OPTIONS", "PROPFIND", "PUT", "QUERY", "REPORT", "SEARCH", "TRACE")
)
# fields of one hop, and those that each head has of its own: no Connection can remove the latter
_NOT_PASSED_ON = HOP_KEYS | {
    "CONTENT_LENGTH", "HTTP_HOST", "HTTP_VIA", "HTTP_X_FORWARDED_FOR",
    "HTTP_X_FORWARDED_HOST", "HTTP_X_FORWARDED_PORT", "HTTP_X_FORWARDED_PREFIX",
    "HTTP_X_FORWARDED_PROTO", "HTTP_X_REQUEST_ID",
}  # fmt: skip
# deprecated by RFC 9113 §3.1, and a way around the rules of every hop on it
_NEVER_UPGRADED_TO = "h2c"
# RFC 9110 §7.6.3: the name of this hop, and how often a request may have it
_VIA = "1.1 gateway"
_MAX_HOPS = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rules:
    """How requests of one mount are written. ``prefix`` is the mount's, as in SCRIPT_NAME;
    ``host`` replaces the client's Host unless it is "", ``authority`` is used if there is no Host.
    ``own_mount`` is the mount's name, quoted, if it runs in a pool, otherwise ""."""

    prefix: str
    strips_prefix: bool
    host: str
    authority: str
    own_mount: str = ""


class _FieldNames(Memory[str]):
    """``HTTP_ACCEPT`` to "Accept: ", DROPPED for what is not forwarded."""

    def __missing__(self, key: str) -> str:
        name = DROPPED
        if is_field(key) and key not in _NOT_PASSED_ON:
            name = f"{_field_name(key).title()}: "
        self.keep(key, name)
        return name


_names = _FieldNames(MAX_NAMES, LONGEST_NAME)


class UpstreamRequest:
    """``length`` is that of the content in bytes, or CHUNKED; ``upgrade`` is the protocol that the
    client asks for, or "". ``is_circular`` is whether the request has passed through here too
    often. ``head`` is the complete head, with its empty line."""

    __slots__ = ("head", "is_circular", "is_idempotent", "length", "method", "upgrade")

    def __init__(self, environ: Environ, rules: Rules) -> None:
        self.method: str = environ["REQUEST_METHOD"]
        self.is_idempotent = self.method in IDEMPOTENT
        self.is_circular = False
        self.length = 0
        self.upgrade = ""
        if "CONTENT_LENGTH" in environ:
            self.length = int(environ["CONTENT_LENGTH"])
        elif isinstance(environ["wsgi.input"], BufferedReader):
            self.length = CHUNKED  # that were not taken in
        connection = environ.get("HTTP_CONNECTION")
        if connection is not None and connection not in ("keep-alive", "close"):
            options = split_list(connection)
            if "upgrade" in options:
                self.upgrade = _wanted_protocol(environ, self.length)
            environ = {key: environ[key] for key in environ if not _is_named(key, options)}
        self.head = self._write(environ, rules).encode("latin-1")

    def _write(self, environ: Environ, rules: Rules) -> str:
        names = _names
        lines = [f"{name}{environ[key]}\r\n" for key in environ if (name := names[key])]
        framing = ""
        if self.upgrade:
            framing = f"Connection: Upgrade\r\nUpgrade: {self.upgrade}\r\n"
        elif self.length == CHUNKED:
            framing = "Transfer-Encoding: chunked\r\n"
        elif "CONTENT_LENGTH" in environ:
            framing = f"Content-Length: {self.length}\r\n"
        return f"{self._write_way(environ, rules)}{''.join(lines)}{framing}\r\n"

    def _write_way(self, environ: Environ, rules: Rules) -> str:
        """The request line, and the fields that report the client and the hops so far."""
        via: str = environ.get("HTTP_VIA", "")
        self.is_circular = bool(via) and via.count(_VIA) >= _MAX_HOPS
        client: str = environ["REMOTE_ADDR"]
        is_address = client and not client.startswith(UNIX_PEER)
        hops = f"X-Forwarded-For: {client}\r\n" if is_address else ""
        return (
            f"{self.method} {build_target(environ, rules)} HTTP/1.1\r\n"
            f"{_write_place(environ, rules)}{hops}"
            f"X-Request-ID: {environ['gateway.request_id']}\r\n"
            f"Via: {via}{', ' if via else ''}{_VIA}\r\n"
        )


class PoolRequest(UpstreamRequest):
    """A request to a worker of a pool: the request line as received, and a statement with the
    fields and what this worker has found."""

    __slots__ = ()

    def _write(self, environ: Environ, rules: Rules) -> str:
        prefix = environ["SCRIPT_NAME"].removesuffix(rules.prefix)
        line = f"{self.method} {environ['REQUEST_URI']} {environ['SERVER_PROTOCOL']}\r\n"
        added = {}
        if self.upgrade:
            added = {"HTTP_CONNECTION": "Upgrade", "HTTP_UPGRADE": self.upgrade}
        elif self.length == CHUNKED:
            added = {"HTTP_TRANSFER_ENCODING": "chunked"}
        return line + write_statement(environ, rules.own_mount, prefix, added)


def read_request(environ: Environ, rules: Rules) -> UpstreamRequest:
    """The request of ``environ``."""
    return (PoolRequest if rules.own_mount else UpstreamRequest)(environ, rules)


def _field_name(key: str) -> str:
    return key.removeprefix("HTTP_").replace("_", "-")


def _is_named(key: str, options: set[str]) -> bool:
    """Whether ``options`` of the client's Connection limit this field to the hop before."""
    return is_field(key) and key not in _NOT_PASSED_ON and _field_name(key).lower() in options


def _wanted_protocol(environ: Environ, length: int) -> str:
    """RFC 9110 §7.8: an upgrade may be ignored."""
    wanted: str = environ.get("HTTP_UPGRADE", "")
    is_refused = length or environ["SERVER_PROTOCOL"] != "HTTP/1.1"
    if is_refused or _NEVER_UPGRADED_TO in wanted.lower():
        return ""
    return wanted


def _write_place(environ: Environ, rules: Rules) -> str:
    """Host and X-Forwarded-*, which replace those of the client."""
    prefix: str = environ["SCRIPT_NAME"]
    if not rules.strips_prefix:
        prefix = prefix.removesuffix(rules.prefix)  # what a proxy before us has stripped
    port = environ["SERVER_PORT"] if "HTTP_X_FORWARDED_PORT" in environ else ""
    asked, scheme = environ.get("HTTP_HOST", ""), environ["wsgi.url_scheme"]
    return _build_place(rules, asked, scheme, port, prefix)


@lru_cache(CACHE_ENTRIES)
def _build_place(rules: Rules, asked: str, scheme: str, port: str, prefix: str) -> str:
    lines = f"Host: {rules.host or asked or rules.authority}\r\n"
    if asked:
        lines += f"X-Forwarded-Host: {asked}\r\n"
    lines += f"X-Forwarded-Proto: {scheme}\r\n"
    lines += f"X-Forwarded-Port: {port or _port(asked, scheme)}\r\n"
    return f"{lines}X-Forwarded-Prefix: {prefix}\r\n" if prefix else lines


def _port(host: str, scheme: str) -> str:
    """The port of the client's Host, or the default one."""
    _, colon, port = host.rpartition(":")
    if colon and port.isdigit():
        return port
    return "443" if scheme == "https" else "80"


def build_target(environ: Environ, rules: Rules) -> str:
    """Path and query for the server. The path is the dispatched one: percent-encoding is kept, as
    a decoded slash would be a separator, and dot segments, which could lead out of the mount, are
    resolved."""
    target: str = environ[RAW_PATH_INFO]
    if not rules.strips_prefix:
        target = quote(rules.prefix.encode("latin-1"), safe=PATH_SAFE) + target
    _, mark, query = environ["REQUEST_URI"].partition("?")
    # RFC 9112 §3.2.1: an empty path is sent as a slash
    return f"{target or '/'}{mark}{query}"
