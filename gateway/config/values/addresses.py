"""Addresses: where to listen, and which peers to trust.

Refuses to resolve names or to open anything. Source: RFC 3986 §3.2.2 (IPv6 in brackets),
RFC 4632 §3.1 (CIDR), RFC 1123 §2.1 (host names), unix(7) (the length of a socket's path).
"""

import re
from ipaddress import ip_address, ip_interface, ip_network

from gateway.config.model import Network
from gateway.config.text.problems import BadValueError
from gateway.config.values.processes import find_user

MAX_SOCKET_PATH_BYTES = 107  # unix(7): sun_path holds 108 with its NUL
ADDRESS_PATTERN = r"unix:/.+|(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}"
CONTROL_PATTERN = "auto|unix:/.+"
NETWORK_PATTERN = r"unix:([a-z_][a-z0-9_-]*|[0-9]{1,10})?|[0-9A-Fa-f:.]+(/[0-9]{1,3})?"

_HOST_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")


def is_host_name(name: str) -> bool:
    """RFC 1123 in lower case, and the underscore that container names have."""
    labels = name.split(".")
    if len(name) > 253 or not all(_HOST_LABEL.fullmatch(label) for label in labels):
        return False
    # RFC 1123 §2.1: what ends in digits alone can only be an IPv4 address.
    return not labels[-1].isdigit() or is_address(name)


def is_address(text: str) -> bool:
    """An IPv4 or IPv6 address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def parse_address(text: str) -> str:
    """``HOST:PORT``, ``[IPv6]:PORT`` or ``unix:/path``; port 0 is any free one.

    Raises BadValueError.
    """
    if text.startswith("unix:"):
        return _unix_address(text)
    host, colon, port = text.rpartition(":")
    if not re.fullmatch("[0-9]{1,5}", port) or not colon:
        raise BadValueError(_address_hint(text))
    if int(port) > 65_535:
        raise BadValueError(expected="a port up to 65535")
    if host.startswith("[") and host.endswith("]"):
        if ":" in host and is_address(host[1:-1]):
            return text.lower()
    elif ":" in host and is_address(host):
        raise BadValueError(f'write "[{host}]:{port}"')
    elif is_host_name(host.lower()):
        return text.lower()
    raise BadValueError(f'write "0.0.0.0:{port}" for every address' if host in ("", "*") else "")


def _address_hint(text: str) -> str:
    if re.fullmatch("[0-9]{1,5}", text):
        return f'write "127.0.0.1:{text}", or "0.0.0.0:{text}" for every address'
    if text.startswith(("http://", "https://")):
        return "leave out the scheme and the path"
    if text.startswith(("/", "./")):
        return (
            f'write "unix:{text}"' if text.startswith("/") else 'write "unix:" and the whole path'
        )
    return "add a port" if text and is_host_name(text.lower()) else ""


def _unix_address(text: str) -> str:
    path = text.removeprefix("unix:")
    if not path.startswith("/") or path.endswith("/"):
        raise BadValueError(
            expected='"unix:" and the whole path of a socket, such as "unix:/run/x.sock"'
        )
    if len(path.encode(errors="surrogateescape")) > MAX_SOCKET_PATH_BYTES:
        raise BadValueError(expected=f"a socket path of at most {MAX_SOCKET_PATH_BYTES} bytes")
    return text


def parse_control(text: str) -> str:
    """``auto`` or ``unix:/path``. Raises BadValueError."""
    if text == "auto" or text.startswith("unix:"):
        return text if text == "auto" else _unix_address(text)
    raise BadValueError(f'write "unix:{text}"' if text.startswith("/") else "")


def parse_network(text: str) -> Network | str:
    """An address, a CIDR, ``unix:``, or ``unix:UID``, also for ``unix:`` and the name of a user.
    Raises BadValueError."""
    if text.startswith("unix:"):
        return _unix_peer(text)
    if re.fullmatch(NETWORK_PATTERN, text):
        try:
            return ip_network(text)
        except ValueError:
            _refuse_host_bits(text)
    raise BadValueError(_network_hint(text))


def _unix_peer(text: str) -> str:
    user = text.removeprefix("unix:")
    if not re.fullmatch(NETWORK_PATTERN, text):
        raise BadValueError('name the user of the peer, such as "unix:www-data"')
    if not user:
        return text
    # a container may have other names for the users of another
    number = int(user) if user.isdigit() else find_user(user)
    return f"unix:{number}"


def _refuse_host_bits(text: str) -> None:
    try:
        network = ip_interface(text).network
    except ValueError:
        return
    raise BadValueError(f'the CIDR has host bits: write "{network}", or "{text.partition("/")[0]}"')


def _network_hint(text: str) -> str:
    if text == "*":
        return 'write "0.0.0.0/0" and "::/0" to trust everybody'
    if re.fullmatch(r"[0-9.]+:[0-9]+|\[.*\](:[0-9]+)?", text):
        return "leave out the port and the brackets"
    return "names are not resolved" if is_host_name(text.lower()) else ""


def do_addresses_clash(one: str, other: str) -> bool:
    """Whether two listeners could not both be opened."""
    if one == other:
        return not one.endswith(":0")
    (host, _, port), (other_host, _, other_port) = one.rpartition(":"), other.rpartition(":")
    if one.startswith("unix:") or other.startswith("unix:") or port != other_port or port == "0":
        return False
    return "0.0.0.0" in (host, other_host) or "[::]" in (host, other_host)
