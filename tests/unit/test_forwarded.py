"""TrustedProxies: what is believed of a client, and of whom."""

import time
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest

from gateway.errors import MalformedRequest
from gateway.http.environ import build_base_environ, build_environ
from gateway.http.forwarded import MAX_FORWARDED, MAX_HOPS, TrustedProxies, parse_forwarded
from gateway.limits import Limits
from gateway.protocol.names import UNIX_PEER
from gateway.protocol.request import HeadParser, RequestHead

NETWORKS = ("10.0.0.0/8", "192.0.2.1/32", "2001:db8:1::/48")
PEER = "10.0.0.1"
BASE = build_base_environ("localhost", "8000", ())


def proxies(*networks: str) -> TrustedProxies:
    return TrustedProxies(
        [n if n.startswith(UNIX_PEER) else ip_network(n) for n in networks or NETWORKS]  # type: ignore[misc]
    )


def parse(*fields: str) -> RequestHead:
    lines = ["GET / HTTP/1.1", "Host: inner.example", *fields, "", ""]
    return HeadParser(Limits()).parse("\r\n".join(lines).encode("latin-1"), True)


def apply(*fields: str) -> dict[str, Any]:
    """The environ of a request that came with ``fields`` from a trusted peer."""
    head = parse(*fields)
    environ = build_environ(BASE, head, PEER, "50000")
    proxies().apply(head, environ)
    assert environ["HTTP_HOST"].partition(":")[0] == head.host
    return environ


def client(*fields: str) -> str:
    return str(apply(*fields)["REMOTE_ADDR"])


# --- whom ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "is_trusted"),
    [
        ("10.0.0.1", True),
        ("10.255.255.255", True),
        ("11.0.0.1", False),
        ("192.0.2.1", True),
        ("192.0.2.2", False),
        ("::ffff:10.0.0.1", True),
        ("::ffff:11.0.0.1", False),
        ("2001:db8:1:ffff::1", True),
        ("2001:db8:2::1", False),
        ("fe80::1%eth0", False),
        (UNIX_PEER, False),
        ("", False),
    ],
)
def test_peers_are_trusted_by_network(peer: str, is_trusted: bool) -> None:
    trusted = proxies()
    assert trusted.peers[peer][1] is is_trusted
    assert trusted.peers[peer][1] is is_trusted


def test_unix_peers_are_trusted_by_name() -> None:
    assert proxies(UNIX_PEER).peers[UNIX_PEER][1]
    assert not proxies(UNIX_PEER).peers["127.0.0.1"][1]


@pytest.mark.parametrize(
    ("peer", "is_trusted"),
    [("unix:33", True), ("unix:3", False), ("unix:333", False), ("unix:", False), ("", False)],
)
def test_unix_peers_are_trusted_by_user(peer: str, is_trusted: bool) -> None:
    assert proxies("unix:33").peers[peer] == ("", is_trusted)
    assert proxies("unix:33", "unix:").peers[peer][1] is bool(peer)


def test_nobody_is_trusted_where_none_is_named() -> None:
    assert not TrustedProxies([]).peers["127.0.0.1"][1]


def test_a_client_cannot_pass_for_a_unix_peer() -> None:
    trusted = proxies(UNIX_PEER)
    assert trusted.peers[UNIX_PEER][1]
    assert trusted.client("192.0.2.9, unix:") == ""
    assert proxies("unix:33").client("192.0.2.9, unix:33") == ""
    told = 'for=192.0.2.9;proto=https;host=evil.example, for="unix:";proto=http'
    assert trusted._read_forwarded(told) == ("", "http", "")


def test_what_is_learnt_of_hops_does_not_pile_up() -> None:
    trusted = proxies()
    for number in range(MAX_HOPS + 1000):
        trusted.client(f"198.51.{number // 256}.{number % 256}")
        trusted.client("[::1]:" + "1" * number)
        trusted.client("1" * number)
    assert len(trusted._hops) <= MAX_HOPS
    assert max(map(len, trusted._hops), default=0) < 100
    assert trusted.peers[PEER][1]


# --- X-Forwarded-For -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hops", "expected"),
    [
        ("198.51.100.1", "198.51.100.1"),
        ("2001:db8:2::1", "2001:db8:2::1"),
        ("198.51.100.1:4711", "198.51.100.1"),
        ("[2001:db8:2::1]:4711", "2001:db8:2::1"),
        ("[2001:DB8:2:0::1]", "2001:db8:2::1"),
        ("::ffff:198.51.100.1", "198.51.100.1"),
        # from the right, through trusted hops, and never beyond the first other one
        ("198.51.100.1, 10.0.0.2, 10.0.0.3", "198.51.100.1"),
        ("203.0.113.1, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.9, 198.51.100.1", "198.51.100.1"),
        ("127.0.0.1, 198.51.100.1,10.0.0.2\t,  10.0.0.3", "198.51.100.1"),
        ("10.0.0.2, 10.0.0.3", "10.0.0.2"),
        # where a hop tells no address, the one that said so is as far as we know
        ("unknown, 10.0.0.2", "10.0.0.2"),
        ("198.51.100.1, , 10.0.0.2", "10.0.0.2"),
        ("198.51.100.1, 10.0.0.300, 10.0.0.2", "10.0.0.2"),
        ("198.51.100.1, unknown", PEER),
        ("010.0.0.1", PEER),
        ("1", PEER),
        ("unix:", PEER),
        ("198.51.100.1\xa0", PEER),
        (",", PEER),
    ],
)
def test_the_client_is_the_last_hop_that_is_no_trusted_proxy(hops: str, expected: str) -> None:
    assert client(f"X-Forwarded-For: {hops}") == expected


def test_several_lines_are_one_list() -> None:
    lines = ("X-Forwarded-For: 203.0.113.1", "x-forwarded-for: 198.51.100.1, 10.0.0.2")
    assert client(*lines) == "198.51.100.1"


def test_the_peer_is_the_client_where_nothing_is_said() -> None:
    environ = apply()
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == (PEER, "50000")
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["HTTP_HOST"] == "inner.example"
    assert environ["SERVER_PORT"] == "8000"
    assert environ["SCRIPT_NAME"] == ""


def test_the_port_of_a_forwarded_client_is_not_the_peer_s() -> None:
    assert apply("X-Forwarded-For: 198.51.100.1")["REMOTE_PORT"] == ""


# --- the other fields ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "scheme"),
    [
        ("https", "https"),
        ("HTTPS", "https"),
        ("http", "http"),
        ("http, https", "https"),
        ("https, http", "http"),
        ("wss", "http"),
        ("https://", "http"),
        ("\xa0https", "http"),
        ("", "http"),
    ],
)
def test_scheme(value: str, scheme: str) -> None:
    assert apply(f"X-Forwarded-Proto: {value}")["wsgi.url_scheme"] == scheme


@pytest.mark.parametrize(
    ("value", "host"),
    [
        ("www.example.com", "www.example.com"),
        ("www.example.com:8443", "www.example.com:8443"),
        ("evil.example, www.example.com", "www.example.com"),
        ("", "inner.example"),
    ],
)
def test_host(value: str, host: str) -> None:
    assert apply(f"X-Forwarded-Host: {value}")["HTTP_HOST"] == host


def test_the_forwarded_host_is_the_one_that_mounts_are_chosen_by() -> None:
    head = parse("X-Forwarded-Host: WWW.Example.com.:443")
    proxies().apply(head, build_environ(BASE, head, PEER, ""))
    assert head.host == "www.example.com"


@pytest.mark.parametrize("host", ["\xa0a", "a/b", "user@example.com", "[::1", "a b", "a, b c"])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(MalformedRequest):
        apply(f"X-Forwarded-Host: {host}")


@pytest.mark.parametrize(
    ("value", "port"),
    [
        ("443", "443"),
        ("80, 443", "443"),
        ("https", "8000"),
        ("-1", "8000"),
        ("123456", "8000"),
        ("\xb2", "8000"),
        ("", "8000"),
    ],
)
def test_port(value: str, port: str) -> None:
    assert apply(f"X-Forwarded-Port: {value}")["SERVER_PORT"] == port


@pytest.mark.parametrize(
    ("value", "script_name"),
    [
        ("/shop", "/shop"),
        ("/shop/", "/shop"),
        ("/a/b", "/a/b"),
        ("/", ""),
        ("/evil, /shop", "/shop"),
        ("shop", ""),
        ("//evil.example", ""),
        ("/a//b", ""),
        ("/\\evil.example", ""),
        ("/a?b", ""),
        ("/a b", ""),
        ("https://evil.example", ""),
        ("/" + "a" * 255, "/" + "a" * 255),
        ("/" + "a" * 256, ""),
        ("", ""),
    ],
)
def test_prefix(value: str, script_name: str) -> None:
    assert apply(f"X-Forwarded-Prefix: {value}")["SCRIPT_NAME"] == script_name


@pytest.mark.parametrize(
    ("value", "request_id"),
    [
        ("0123abcd", "0123abcd"),
        ("req:1/2+3=a@b.c_d-e", "req:1/2+3=a@b.c_d-e"),
        ("a" * 128, "a" * 128),
        ("a" * 129, ""),
        ("a b", ""),
        ('a"', ""),
        ("<b>", ""),
        ("a, b", ""),
        ("\xe4", ""),
        ("", ""),
    ],
)
def test_request_id(value: str, request_id: str) -> None:
    assert apply(f"X-Request-ID: {value}")["gateway.request_id"] == request_id


def test_without_request_id_there_is_none() -> None:
    assert apply("Accept: a")["gateway.request_id"] == ""


# --- Forwarded (RFC 7239) ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "elements"),
    [
        # the examples of RFC 7239 §4, §6 and §7.1
        ('for="_gazonk"', [{"for": "_gazonk"}]),
        ('For="[2001:db8:cafe::17]:4711"', [{"for": "[2001:db8:cafe::17]:4711"}]),
        (
            "for=192.0.2.60;proto=http;by=203.0.113.43",
            [{"for": "192.0.2.60", "proto": "http", "by": "203.0.113.43"}],
        ),
        ("for=192.0.2.43, for=198.51.100.17", [{"for": "192.0.2.43"}, {"for": "198.51.100.17"}]),
        ("for=_hidden, for=_SEVKISEK", [{"for": "_hidden"}, {"for": "_SEVKISEK"}]),
        (
            'for=192.0.2.43,for="[2001:db8:cafe::17]",for=unknown',
            [{"for": "192.0.2.43"}, {"for": "[2001:db8:cafe::17]"}, {"for": "unknown"}],
        ),
        # quoted strings (RFC 9110 §5.6.4)
        (r'host="a\"b\\c"', [{"host": r"a\"b\c".replace(r"\"", '"')}]),
        ('host="a,b;for=c"', [{"host": "a,b;for=c"}]),
        ('host=""', [{"host": ""}]),
        # blanks, empty pairs and members
        ("for=a ; proto=b\t,\t for=c", [{"for": "a", "proto": "b"}, {"for": "c"}]),
        ("for=a;;proto=b;,,for=c,", [{"for": "a", "proto": "b"}, {"for": "c"}]),
        ("", []),
        (" , ,", []),
        # quotes left out, as some proxies do
        ("for=192.0.2.43:4711", [{"for": "192.0.2.43:4711"}]),
        ("for=[2001:db8::1]:4711", [{"for": "[2001:db8::1]:4711"}]),
        # what is not known is passed over
        ("secret=a;FOR=b", [{"secret": "a", "for": "b"}]),
    ],
)
def test_forwarded_is_parsed(value: str, elements: list[dict[str, str]]) -> None:
    assert parse_forwarded(value) == elements


@pytest.mark.parametrize(
    "value",
    [
        "for",
        "for=",
        "=a",
        "for =a",
        "for= a",
        "for=a b",
        "for=a=b",
        'for="a',
        'for=a"',
        'for="a"b',
        'for="a" "b"',
        'for="a\\"',
        "for=a;for=b",
        "for=a;FOR=b",
        "for=(a)",
        "for=a\x0b",
        "for=\xe4",
        # a client's open quote, and what a proxy adds to it
        'for=", for=198.51.100.1',
        'host="a, for="[2001:db8:2::1]:4711"',
        'x="\\", for="[2001:db8:2::1]"',
    ],
)
def test_a_malformed_forwarded_is_refused(value: str) -> None:
    with pytest.raises(MalformedRequest):
        parse_forwarded(value)


def time_refusal(value: str) -> float:
    """The CPU time, in seconds, of the fastest of three."""
    seconds = []
    for _ in range(3):
        started = time.process_time()
        with pytest.raises(MalformedRequest):
            parse_forwarded(value)
        seconds.append(time.process_time() - started)
    return min(seconds)


@pytest.mark.parametrize(
    "make",
    [
        lambda size: " " * 30 * size + "x",
        lambda size: 'for="' + "\\a" * 15 * size,
        lambda size: "a=b " * 8 * size,
    ],
)
def test_a_malformed_forwarded_is_refused_in_linear_time(make: Callable[[int], str]) -> None:
    most = MAX_FORWARDED // 32  # times 32 characters
    assert time_refusal(make(most)) < 200 * time_refusal(make(most // 32))  # 1024 in quadratic


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("for=198.51.100.1", "198.51.100.1"),
        ('for="198.51.100.1:4711"', "198.51.100.1"),
        ('for="198.51.100.1:_port"', "198.51.100.1"),
        ('for="[2001:db8:2::1]:4711"', "2001:db8:2::1"),
        ("for=203.0.113.1, for=198.51.100.1, for=10.0.0.2", "198.51.100.1"),
        ("for=10.0.0.9, for=198.51.100.1", "198.51.100.1"),
        ("for=10.0.0.2, for=10.0.0.3", "10.0.0.2"),
        ("for=198.51.100.1, for=unknown, for=10.0.0.2", "10.0.0.2"),
        ("for=198.51.100.1, for=_hidden, for=10.0.0.2", "10.0.0.2"),
        ("for=198.51.100.1, proto=http, for=10.0.0.2", "10.0.0.2"),
        ("for=198.51.100.1, for=unknown", PEER),
        ("proto=https", PEER),
        ("", PEER),
    ],
)
def test_the_client_of_forwarded(value: str, expected: str) -> None:
    assert client(f"Forwarded: {value}") == expected


@pytest.mark.parametrize(
    ("value", "scheme", "host"),
    [
        ("for=198.51.100.1;proto=https;host=www.example.com", "https", "www.example.com"),
        ('proto=HTTPS;host="www.example.com:8443"', "https", "www.example.com:8443"),
        ("for=198.51.100.1", "http", "inner.example"),
        ("for=198.51.100.1;proto=wss", "http", "inner.example"),
        # those of the hop that saw the client, not of another
        (
            "for=203.0.113.1;proto=http;host=evil.example, "
            "for=198.51.100.1;proto=https;host=www.example.com, for=10.0.0.2;proto=http;host=in",
            "https",
            "www.example.com",
        ),
        ("for=198.51.100.1, for=10.0.0.2;proto=https;host=in", "http", "inner.example"),
        ("for=_hidden;proto=https;host=www.example.com", "https", "www.example.com"),
    ],
)
def test_scheme_and_host_of_forwarded(value: str, scheme: str, host: str) -> None:
    environ = apply(f"Forwarded: {value}")
    assert environ["wsgi.url_scheme"] == scheme
    assert environ["HTTP_HOST"] == host


HOPS = ", ".join(["for=198.51.100.1;by=10.0.0.1;proto=https;host=www.example.com"] * 64)


def pad(size: int) -> str:
    """A well-formed field of ``size`` characters, whose last element names the client."""
    last = ",for=198.51.100.1"
    return "," * (size - len(last)) + last


@pytest.mark.parametrize("value", [HOPS, pad(MAX_FORWARDED)])
def test_a_forwarded_within_its_bound_is_read(value: str) -> None:
    assert client(f"Forwarded: {value}") == "198.51.100.1"


def test_a_longer_forwarded_is_refused() -> None:
    """Not ignored: its client would then be taken for the proxy itself, which is trusted."""
    with pytest.raises(MalformedRequest, match="at most 5120"):
        apply(f"Forwarded: {pad(MAX_FORWARDED + 1)}")


def test_a_longer_forwarded_does_not_matter_beside_the_other_family() -> None:
    long = f"Forwarded: {pad(MAX_FORWARDED + 1)}"
    assert client("X-Forwarded-For: 198.51.100.1", long) == "198.51.100.1"


@pytest.mark.parametrize("value", ["host=a/b", 'host="a b"', "for=", 'for="'])
def test_a_forwarded_that_cannot_be_believed_is_refused(value: str) -> None:
    with pytest.raises(MalformedRequest):
        apply(f"Forwarded: {value}")


@pytest.mark.parametrize(
    "field",
    [
        "X-Forwarded-For: 198.51.100.1",
        "X-Forwarded-Proto: http",
        "X-Forwarded-Host: inner.example",
    ],
)
def test_forwarded_does_not_count_beside_the_other_family(field: str) -> None:
    environ = apply("Forwarded: for=203.0.113.1;proto=https;host=evil.example", field)
    assert environ["REMOTE_ADDR"] in (PEER, "198.51.100.1")
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["HTTP_HOST"] == "inner.example"
    assert "HTTP_FORWARDED" not in environ


def test_forwarded_counts_beside_what_it_has_no_word_for() -> None:
    fields = ("X-Forwarded-Prefix: /shop", "X-Forwarded-Port: 443", "X-Forwarded-For:")
    environ = apply("Forwarded: for=198.51.100.1;proto=https", *fields)
    assert environ["REMOTE_ADDR"] == "198.51.100.1"
    assert environ["wsgi.url_scheme"] == "https"
    assert (environ["SCRIPT_NAME"], environ["SERVER_PORT"]) == ("/shop", "443")
    assert "HTTP_FORWARDED" in environ
