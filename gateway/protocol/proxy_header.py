"""Parses the PROXY header, in which a TCP proxy names the client of a connection.

Both versions. Callers decide who may send one. Source: "The PROXY protocol, Versions 1 & 2"
(HAProxy's doc/proxy-protocol.txt), cited by section.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from struct import unpack_from

from gateway.errors import MalformedRequest

MAX_LINE_BYTES = 107  # §2.1: the longest line, with its CRLF
# §2 promises 536; names in certificates can make it longer. nginx has the same bound.
MAX_BINARY_BYTES = 4096

_LINE_START = b"PROXY "
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED_BYTES = 16  # of the binary form, before the addresses

_ENDPOINTS = re.compile(
    rb"PROXY TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+)"
    rb" (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})\r\n"
)
# §2.1: "the receiver must ignore anything presented before the CRLF is found". A bare CR or LF is
# refused here, too: it must not be mistaken for the end of the line.
_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?\r\n")

# §2.2: version 2 in the high half, the command in the low one
_LOCAL, _PROXY = 0x20, 0x21
_INET, _INET6 = 1, 2
# §2.2: the bytes of both addresses and ports, by address family; 0 is UNSPEC, 3 AF_UNIX
_ADDRESS_BYTES = (0, 12, 36, 216)
_LAST_TRANSPORT = 2  # DGRAM


@dataclass(frozen=True)
class ProxyHeader:
    """A header of ``size_bytes``. ``peer`` and ``port`` are the client's, "" if it names none;
    ``is_local`` for a connection of the proxy itself (LOCAL)."""

    size_bytes: int
    peer: str = ""
    port: str = ""
    is_local: bool = False


def parse_proxy_header(data: bytes) -> ProxyHeader | None:
    """The header at the start of ``data``, or None while it is incomplete.

    Raises MalformedRequest as soon as ``data`` cannot be one: §2 forbids guessing.
    """
    if data.startswith(_LINE_START):
        return _parse_line(data)
    if data.startswith(_SIGNATURE):
        return _parse_binary(data)
    if _LINE_START.startswith(data) or _SIGNATURE.startswith(data):
        return None
    raise MalformedRequest("the connection does not begin with a PROXY header")


def _parse_line(data: bytes) -> ProxyHeader | None:
    """Version 1, §2.1."""
    size = data.find(b"\r\n", 0, MAX_LINE_BYTES) + 2
    if size < 2:
        if len(data) >= MAX_LINE_BYTES or b"\n" in data:
            raise MalformedRequest(f"no CRLF ends the PROXY line within {MAX_LINE_BYTES} bytes")
        return None
    if _UNKNOWN.fullmatch(data, 0, size):
        return ProxyHeader(size_bytes=size)
    found = _ENDPOINTS.fullmatch(data, 0, size)
    if found is None:
        raise MalformedRequest("the PROXY line is not as version 1 of the protocol has it")
    kind = IPv4Address if found[1] == b"4" else IPv6Address
    source, _destination = (_normalised(kind, text.decode()) for text in found.group(2, 3))
    if max(int(port) for port in found.group(4, 5)) > 65_535:
        raise MalformedRequest("a port above 65535 in the PROXY line")
    return ProxyHeader(size_bytes=size, peer=source, port=found[4].decode())


def _parse_binary(data: bytes) -> ProxyHeader | None:
    """Version 2, §2.2. TLVs are skipped, as it allows, the checksum among them (§2.2.3): TCP has
    its own."""
    if len(data) < _FIXED_BYTES:
        return None
    command, kind, length = unpack_from("!BBH", data, len(_SIGNATURE))
    family, transport = divmod(kind, 16)
    size = _FIXED_BYTES + length
    if command not in (_LOCAL, _PROXY):
        raise MalformedRequest(f"a PROXY header of version and command {command:#04x}")
    if size > MAX_BINARY_BYTES:
        raise MalformedRequest(f"a PROXY header of more than {MAX_BINARY_BYTES} bytes")
    # LOCAL: the family must be ignored
    if command == _PROXY:
        if family >= len(_ADDRESS_BYTES) or transport > _LAST_TRANSPORT:
            raise MalformedRequest(f"a PROXY header of family and transport {kind:#04x}")
        if transport and length < _ADDRESS_BYTES[family]:
            raise MalformedRequest("a PROXY header that is too short for its addresses")
    if len(data) < size:
        return None
    if command == _LOCAL:
        return ProxyHeader(size_bytes=size, is_local=True)
    # DGRAM, too: clients of HTTP/3 reach the proxy over UDP
    if transport and family == _INET:
        return _named(size, IPv4Address, data[16:20], data[24:26])
    if transport and family == _INET6:
        return _named(size, IPv6Address, data[16:32], data[48:50])
    return ProxyHeader(size_bytes=size)


def _named(
    size: int, kind: type[IPv4Address] | type[IPv6Address], address: bytes, port: bytes
) -> ProxyHeader:
    peer = _normalised(kind, address)
    return ProxyHeader(size_bytes=size, peer=peer, port=str(int.from_bytes(port, "big")))


def _normalised(kind: type[IPv4Address] | type[IPv6Address], address: str | bytes) -> str:
    """The address as text; IPv4-mapped IPv6 addresses as IPv4, as in forwarding fields."""
    try:
        found = kind(address)
    except ValueError as error:
        raise MalformedRequest("an address in the PROXY line is none") from error
    return str(getattr(found, "ipv4_mapped", None) or found)
