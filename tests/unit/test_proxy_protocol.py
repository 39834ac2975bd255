"""The PROXY protocol: its header as a value, and what it makes of a connection."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from struct import pack
from typing import Any

import answers
import pytest
from harness import GET, PEER, Client, Gateway
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import MalformedRequest
from gateway.limits import Limits
from gateway.protocol.proxy_header import ProxyHeader, parse_proxy_header

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
LOCAL, PROXY = 0x20, 0x21
MAX_LINE_BYTES = 107  # §2.1
MAX_BINARY_BYTES = 4096  # ours
V4 = ip_address("203.0.113.9").packed + ip_address("192.0.2.1").packed + pack("!HH", 56324, 443)
V6 = ip_address("2001:db8::9").packed + ip_address("::1").packed + pack("!HH", 56324, 443)
UNIX = b"/run/a.sock".ljust(108, b"\0") * 2
TLVS = b"\x04\0\x03abc\x05\0\x02id"
LONGEST = b"PROXY UNKNOWN " + b"f" * (MAX_LINE_BYTES - 16) + b"\r\n"


def binary(command: int, kind: int, block: bytes = b"", length: int | None = None) -> bytes:
    return SIGNATURE + pack("!BBH", command, kind, len(block) if length is None else length) + block


def named(peer: str) -> dict[str, Any]:
    return {"peer": peer, "port": "56324"}


LOCAL_HEADER, NOBODY = {"is_local": True}, {}  # type: ignore[var-annotated]

HEADERS = {
    "v1 over IPv4": (b"PROXY TCP4 203.0.113.9 192.0.2.1 56324 443\r\n", named("203.0.113.9")),
    "v1 over IPv6": (b"PROXY TCP6 2001:db8::9 ::1 56324 443\r\n", named("2001:db8::9")),
    "v1 in capitals": (b"PROXY TCP6 2001:DB8:0::9 ::1 56324 443\r\n", named("2001:db8::9")),
    "v1 IPv4-mapped": (b"PROXY TCP6 ::ffff:203.0.113.9 ::1 56324 443\r\n", named("203.0.113.9")),
    "v1 ports at their ends": (
        b"PROXY TCP4 203.0.113.9 192.0.2.1 0 65535\r\n",
        {"peer": "203.0.113.9", "port": "0"},
    ),
    "v1 longest IPv6": (
        b"PROXY TCP6 " + b" ".join([b":".join([b"ffff"] * 8)] * 2) + b" 65535 65535\r\n",
        {"peer": ":".join(["ffff"] * 8), "port": "65535"},
    ),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", NOBODY),
    "v1 unknown with text to ignore": (b"PROXY UNKNOWN \xff 1 2 \0\r\n", NOBODY),
    "v1 longest line": (LONGEST, NOBODY),
    "v2 local": (binary(LOCAL, 0), LOCAL_HEADER),
    "v2 local with a block to ignore": (binary(LOCAL, 0x11, V4), LOCAL_HEADER),
    "v2 local, family ignored": (binary(LOCAL, 0xFF, b"short"), LOCAL_HEADER),
    "v2 TCP over IPv4": (binary(PROXY, 0x11, V4), named("203.0.113.9")),
    "v2 UDP over IPv4": (binary(PROXY, 0x12, V4), named("203.0.113.9")),
    "v2 TCP over IPv6": (binary(PROXY, 0x21, V6), named("2001:db8::9")),
    "v2 UDP over IPv6": (binary(PROXY, 0x22, V6), named("2001:db8::9")),
    "v2 IPv4-mapped": (
        binary(PROXY, 0x21, ip_address("::ffff:203.0.113.9").packed + V6[16:]),
        named("203.0.113.9"),
    ),
    "v2 with TLVs": (binary(PROXY, 0x11, V4 + TLVS), named("203.0.113.9")),
    "v2 with a TLV that is none": (binary(PROXY, 0x11, V4 + b"\x04\xff"), named("203.0.113.9")),
    "v2 longest": (
        binary(PROXY, 0x21, V6.ljust(MAX_BINARY_BYTES - 16, b"\xff")),
        named("2001:db8::9"),
    ),
    "v2 unspecified": (binary(PROXY, 0), NOBODY),
    "v2 unspecified with a block to ignore": (binary(PROXY, 0, V4), NOBODY),
    "v2 IPv4 without transport": (binary(PROXY, 0x10, V4), NOBODY),
    "v2 transport without family": (binary(PROXY, 0x01), NOBODY),
    "v2 Unix stream": (binary(PROXY, 0x31, UNIX), NOBODY),
    "v2 Unix datagram": (binary(PROXY, 0x32, UNIX), NOBODY),
}

REFUSED = {
    "a request": GET,
    "TLS": b"\x16\x03\x01\x02\x00",
    "empty lines and a request": b"\r\n\r\n" + GET,
    "v1 in lower case": b"proxy TCP4 203.0.113.9 192.0.2.1 1 2\r\n",
    "v1 of another word": b"PROXYTCP4",
    "v1 after a space": b" PROXY UNKNOWN\r\n",
    "v1 with two spaces": b"PROXY  TCP4 203.0.113.9 192.0.2.1 1 2\r\n",
    "v1 with a space at its end": b"PROXY TCP4 203.0.113.9 192.0.2.1 1 2 \r\n",
    "v1 with a tab": b"PROXY\tTCP4 203.0.113.9 192.0.2.1 1 2\r\n",
    "v1 ends with LF alone": b"PROXY TCP4 203.0.113.9 192.0.2.1 1 2\n",
    "v1 ends with CR alone": b"PROXY TCP4 203.0.113.9 192.0.2.1 1 2\r" + GET,
    "v1 with LF inside": b"PROXY UNKNOWN \n\r\n",
    "v1 with CR inside": b"PROXY UNKNOWN \r.\r\n",
    "v1 of UDP": b"PROXY UDP4 203.0.113.9 192.0.2.1 1 2\r\n",
    "v1 of no protocol": b"PROXY \r\n",
    "v1 of an unknown word": b"PROXY UNKNOWNS\r\n",
    "v1 without ports": b"PROXY TCP4 203.0.113.9 192.0.2.1\r\n",
    "v1 without the second port": b"PROXY TCP4 203.0.113.9 192.0.2.1 1\r\n",
    "v1 with more": b"PROXY TCP4 203.0.113.9 192.0.2.1 1 2 3\r\n",
    "v1 IPv4 named IPv6": b"PROXY TCP6 203.0.113.9 192.0.2.1 1 2\r\n",
    "v1 IPv6 named IPv4": b"PROXY TCP4 2001:db8::9 ::1 1 2\r\n",
    "v1 of two families": b"PROXY TCP4 203.0.113.9 ::1 1 2\r\n",
    "v1 with a heading zero": b"PROXY TCP4 203.0.113.09 192.0.2.1 1 2\r\n",
    "v1 with a byte too large": b"PROXY TCP4 203.0.113.256 192.0.2.1 1 2\r\n",
    "v1 with a byte too few": b"PROXY TCP4 203.0.113 192.0.2.1 1 2\r\n",
    "v1 with a bad destination": b"PROXY TCP4 203.0.113.9 192.0.2.256 1 2\r\n",
    "v1 with a scope": b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    "v1 with a name": b"PROXY TCP4 a.example 192.0.2.1 1 2\r\n",
    "v1 with another script's digits": "PROXY TCP4 203.0.113.٩ 192.0.2.1 1 2\r\n".encode(),
    "v1 with a port from zero": b"PROXY TCP4 203.0.113.9 192.0.2.1 01 2\r\n",
    "v1 with a signed port": b"PROXY TCP4 203.0.113.9 192.0.2.1 +1 2\r\n",
    "v1 with a port too large": b"PROXY TCP4 203.0.113.9 192.0.2.1 65536 2\r\n",
    "v1 with its second port too large": b"PROXY TCP4 203.0.113.9 192.0.2.1 1 65536\r\n",
    "v1 one byte too long": LONGEST.replace(b"\r\n", b"f\r\n"),
    "v1 without end": b"PROXY UNKNOWN " + b"f" * MAX_LINE_BYTES,
    "v2 of another signature": SIGNATURE[:-1] + b"\r" + pack("!BBH", LOCAL, 0, 0),
    "v2 of version 1": binary(0x11, 0x11, V4),
    "v2 of version 3": binary(0x31, 0x11, V4),
    "v2 of another command": binary(0x22, 0x11, V4),
    "v2 of another family": binary(PROXY, 0x41, UNIX),
    "v2 of another transport": binary(PROXY, 0x13, V4),
    "v2 too short for IPv4": binary(PROXY, 0x11, V4[:-1]),
    "v2 too short for IPv6": binary(PROXY, 0x21, V6[:-1]),
    "v2 too short for Unix": binary(PROXY, 0x31, UNIX[:-1]),
    "v2 too short, and told at once": binary(PROXY, 0x11, length=11),
    "v2 too long": binary(PROXY, 0x11, V4.ljust(MAX_BINARY_BYTES - 15, b"\0")),
    "v2 too long, and told at once": binary(LOCAL, 0, length=0xFFFF),
}


def outcome(data: bytes) -> ProxyHeader | str | None:
    try:
        return parse_proxy_header(data)
    except MalformedRequest:
        return "refused"


# --- bytes to a value -------------------------------------------------------------------------


@pytest.mark.parametrize("name", HEADERS)
def test_header_is_read_and_what_follows_is_left(name: str) -> None:
    data, fields = HEADERS[name]
    expected = ProxyHeader(size_bytes=len(data), **fields)
    assert parse_proxy_header(data) == parse_proxy_header(data + GET) == expected


@pytest.mark.parametrize("name", HEADERS)
def test_every_beginning_of_a_header_is_waited_for(name: str) -> None:
    data, _ = HEADERS[name]
    assert {outcome(data[:end]) for end in range(len(data))} == {None}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_header_is_refused(name: str) -> None:
    with pytest.raises(MalformedRequest):
        parse_proxy_header(REFUSED[name])


def test_what_can_be_no_header_is_refused_at_once() -> None:
    assert outcome(b"G") == outcome(b"PRI") == outcome(SIGNATURE[:4] + b"G") == "refused"
    assert outcome(b"P") is outcome(b"PRO") is outcome(SIGNATURE[:4]) is None


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(
    st.one_of(
        st.binary(max_size=40),
        st.binary(max_size=150).map(b"PROXY ".__add__),
        st.from_regex(rb"\APROXY (TCP[46]|UNKNOWN) [0-9a-f:. \r\n]{0,60}\r\n", fullmatch=False),
        st.binary(max_size=300).map(SIGNATURE.__add__),
        st.tuples(
            st.sampled_from([LOCAL, PROXY]), st.integers(0, 0x33), st.binary(max_size=300)
        ).map(lambda parts: binary(*parts)),
    )
)
def test_pieces_mean_what_the_whole_means(data: bytes) -> None:
    whole = outcome(data)
    parts = [outcome(data[:end]) for end in range(len(data))]
    decided = next((part for part in parts if part is not None), whole)
    assert decided == whole
    assert whole is None or whole == "refused" or whole == outcome(data + b"\r\n")


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    source=st.ip_addresses(v=4) | st.ip_addresses(v=6),
    port=st.integers(0, 65_535),
    tlvs=st.binary(max_size=50),
)
def test_both_versions_name_the_same_client(
    source: IPv4Address | IPv6Address, port: int, tlvs: bytes
) -> None:
    version = source.version
    line = f"PROXY TCP{version} {source} {source} {port} 0\r\n".encode()
    block = source.packed * 2 + pack("!HH", port, 0) + tlvs
    one = parse_proxy_header(line)
    two = parse_proxy_header(binary(PROXY, 0x11 if version == 4 else 0x21, block))
    assert one is not None
    assert two is not None
    assert (one.peer, one.port) == (two.peer, two.port) == (one.peer, str(port))
    assert ip_address(one.peer) in (source, getattr(source, "ipv4_mapped", None))


# --- a connection -----------------------------------------------------------------------------

V1 = b"PROXY TCP4 203.0.113.9 192.0.2.1 56324 443\r\n"
V1_FROM_PROXY = b"PROXY TCP4 192.0.2.8 192.0.2.1 56324 443\r\n"
FORWARDED = (
    b"GET / HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-For: 198.51.100.4\r\n"
    b"X-Forwarded-Proto: https\r\nX-Request-ID: told\r\n\r\n"
)
TRUSTED = (ip_network("192.0.2.0/24"),)


@pytest.fixture
def proxied(serve: Any) -> Any:
    """``serve`` with the PROXY protocol, and PEER trusted."""

    def start(app: Any = answers.environ_as_text, **options: Any) -> Gateway:
        options = {"proxy_protocol": True, "trusted_proxies": TRUSTED, **options}
        return serve(app, **options)  # type: ignore[no-any-return]

    return start


def told(client: Client, *pieces: bytes) -> dict[str, str]:
    """What the app was told of the client, by a request sent in ``pieces``."""
    lines = client.ask(*pieces).content.decode().splitlines()
    environ = dict(line.split("=", 1) for line in lines)
    names = ("REMOTE_ADDR", "REMOTE_PORT", "wsgi.url_scheme")
    return {name: environ[name].strip("'") for name in names}


def of(peer: str, port: str, scheme: str = "http") -> dict[str, str]:
    return {"REMOTE_ADDR": peer, "REMOTE_PORT": port, "wsgi.url_scheme": scheme}


@pytest.mark.parametrize("name", HEADERS)
def test_whom_the_header_names_is_the_client(proxied: Any, name: str) -> None:
    header, fields = HEADERS[name]
    gateway = proxied()
    client = gateway.connect()
    expected = of(fields.get("peer", PEER), fields.get("port", "50000"))
    assert told(client, header + GET) == told(client, GET) == expected
    assert [record["client"] for record in gateway.records] == [expected["REMOTE_ADDR"]] * 2


@pytest.mark.parametrize("header", [V1, binary(PROXY, 0x11, V4 + TLVS)], ids=["v1", "v2"])
def test_header_may_come_byte_by_byte(proxied: Any, header: bytes) -> None:
    client = proxied().connect()
    data = header + GET
    expected = of("203.0.113.9", "56324")
    assert told(client, *(data[i : i + 1] for i in range(len(data)))) == expected


def test_requests_behind_the_header_are_pipelined(proxied: Any) -> None:
    gateway = proxied(answers.one_piece)
    client = gateway.connect()
    client.send(V1 + GET + GET)
    assert [client.read_answer().content for _ in range(2)] == [answers.CONTENT] * 2
    client.expect_open()
    assert [record["client"] for record in gateway.records] == ["203.0.113.9"] * 2


def test_header_without_a_request_is_an_idle_connection(proxied: Any) -> None:
    gateway = proxied()
    client = gateway.connect()
    client.send(V1[:-1], V1[-1:])
    gateway.pass_time(gateway.service.limits.head_timeout_seconds + 1)
    assert told(client, GET) == of("203.0.113.9", "56324")


def test_health_check_that_sends_no_request_leaves_no_record(proxied: Any) -> None:
    gateway = proxied()
    client = gateway.connect()
    client.send(binary(LOCAL, 0))
    client.end()
    client.expect_end()
    assert gateway.records == []


def test_forwarding_fields_of_a_client_are_not_believed(proxied: Any) -> None:
    gateway = proxied()
    assert told(gateway.connect(), V1 + FORWARDED) == of("203.0.113.9", "56324")
    [record] = gateway.records
    assert (record["client"], record["request_id"] == "told") == ("203.0.113.9", False)


@pytest.mark.parametrize("header", [V1_FROM_PROXY, binary(LOCAL, 0)], ids=["named", "local"])
def test_forwarding_fields_of_a_trusted_proxy_are_believed(proxied: Any, header: bytes) -> None:
    gateway = proxied()
    assert told(gateway.connect(), header + FORWARDED) == of("198.51.100.4", "", "https")
    [record] = gateway.records
    assert (record["client"], record["request_id"]) == ("198.51.100.4", "told")


@pytest.mark.parametrize(
    "name", [name for name, (_, fields) in HEADERS.items() if fields is NOBODY]
)
def test_forwarding_fields_of_nobody_are_not_believed(proxied: Any, name: str) -> None:
    header, _ = HEADERS[name]
    assert told(proxied().connect(), header + FORWARDED) == of(PEER, "50000")


@pytest.mark.parametrize("name", REFUSED)
def test_connection_without_a_header_is_refused(proxied: Any, name: str) -> None:
    gateway = proxied(never_called)
    client = gateway.connect()
    answer = client.ask(REFUSED[name] + GET)
    assert (answer.status, answer.is_last) == (400, True)
    client.expect_end()
    [record] = gateway.records
    assert (record["status"], record["client"]) == (400, PEER)
    assert "PROXY" in record["error"]


def test_a_head_that_is_well_known_needs_a_header_before_it_as_any(proxied: Any) -> None:
    gateway = proxied(answers.one_piece)
    known = gateway.connect()
    known.send(binary(LOCAL, 0))
    assert {known.ask(GET).status for _ in range(4)} == {200}
    assert gateway.connect().ask(GET).status == 400


def test_second_header_is_a_bad_request(proxied: Any) -> None:
    client = proxied(never_called).connect()
    assert client.ask(V1 + V1 + GET).status == 400
    client.expect_end()


@pytest.mark.parametrize("data", [V1 + GET, binary(PROXY, 0x11, V4) + GET, GET, b"P"])
def test_peer_that_is_no_trusted_proxy_is_refused(proxied: Any, data: bytes) -> None:
    gateway = proxied(never_called)
    client = gateway.connect("198.51.100.1")
    answer = client.ask(data)
    assert (answer.status, answer.is_last) == (403, True)
    client.expect_end()
    [record] = gateway.records
    assert (record["status"], record["client"]) == (403, "198.51.100.1")
    assert "trusted proxies" in record["error"]


def test_half_a_header_is_waited_for_no_longer_than_a_head(proxied: Any) -> None:
    gateway = proxied(never_called, limits=Limits(head_timeout_seconds=3.0))
    client = gateway.connect()
    client.send(V1[:20])
    gateway.pass_time(2.9)
    client.expect_open()
    gateway.pass_time(3.1)
    assert client.read_answer().status == 408
    client.expect_end()
    assert [record["status"] for record in gateway.records] == [408]


def test_client_that_leaves_within_the_header_has_a_record(proxied: Any) -> None:
    gateway = proxied(never_called)
    client = gateway.connect()
    client.send(V1[:20])
    client.end()
    assert client.read_answer().status == 400
    assert [record["client"] for record in gateway.records] == [PEER]


@pytest.mark.parametrize("header", [V1, binary(PROXY, 0x11, V4)], ids=["v1", "v2"])
def test_header_is_refused_where_it_is_not_asked_for(serve: Any, header: bytes) -> None:
    gateway = serve(never_called, trusted_proxies=TRUSTED)
    client = gateway.connect()
    assert client.ask(header + GET).status == 400
    client.expect_end()


def never_called(environ: Any, start_response: Any) -> list[bytes]:
    raise AssertionError("a refused connection reached an app")
