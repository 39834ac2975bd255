"""Other servers: their addresses, and the Host that they get.

Resolves no names and opens no connections. Source: RFC 3986 §3.2 (authority), RFC 9110 §4.2.1
(http URLs), unix(7).
"""

import re

from gateway.config.text.problems import BadValueError
from gateway.config.values.addresses import is_host_name, parse_address

UPSTREAM_PATTERN = r"pool:.+|unix:/.+|http://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?/?"
UPSTREAM_HOST_PATTERN = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?"
_ANY_SCHEME = re.compile("[A-Za-z][A-Za-z0-9+.-]*://")


def parse_upstream(text: str) -> str:
    """``http://HOST:PORT`` in lower case, ``unix:/path``, or ``pool:NAME``. Raises
    BadValueError."""
    if text.startswith("pool:"):
        return text
    if text.startswith("unix:"):
        return parse_address(text)
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.lower() != "http":
        raise BadValueError(_scheme_hint(text))
    authority, _, path = rest.partition("/")
    if "@" in authority:
        raise BadValueError(expected="a server without user and password")
    if path or "?" in authority or "#" in authority:
        raise BadValueError(f'leave out the path: write "http://{re.split("[/?#]", rest)[0]}"')
    return f"http://{_with_port(authority)}"


def _with_port(authority: str) -> str:
    if re.search(r"[^:\]]$|\]$", authority) and not re.search(r"[^:]:[0-9]*$", authority):
        authority += ":80"
    host, _, port = parse_address(authority).rpartition(":")
    if not int(port):
        raise BadValueError(expected="a port from 1 to 65535")
    return f"{host}:{int(port)}"


def _scheme_hint(text: str) -> str:
    if text.lower().startswith("https://"):
        return "the gateway does not speak TLS to servers: write http://, and use a private network"
    if text.startswith("/"):
        return f'write "unix:{text}"'
    if not _ANY_SCHEME.match(text) and re.fullmatch(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?", text):
        return f'write "http://{text}"'
    return ""


def parse_upstream_host(text: str) -> str:
    """``keep``, or a host with or without a port. Raises BadValueError."""
    if text == "keep":
        return text
    if _ANY_SCHEME.match(text):
        raise BadValueError("leave out the scheme and the path")
    if is_host_name(text.lower()):
        return text.lower()
    return parse_address(text) if not text.startswith("unix:") else _refuse()


def _refuse() -> str:
    raise BadValueError
