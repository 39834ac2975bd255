"""TrustedProxies: what is believed of a client, and of whom."""

from ipaddress import ip_network
from typing import Any

import pytest

from gateway.errors import MalformedRequest
from gateway.http.environ import build_base_environ, build_environ
from gateway.http.forwarded import MAX_HOPS, TrustedProxies
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


def test_what_is_learnt_of_hops_does_not_pile_up() -> None:
    trusted = proxies()
    for number in range(MAX_HOPS + 1000):
        trusted.client(f"198.51.{number // 256}.{number % 256}")
        trusted.client(f"[::1]:{number}" + "1" * (number % 200))
        trusted.client(f"{number}" + "1" * (number % 200))
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


@pytest.mark.parametrize("value", ["for=203.0.113.1;proto=https;host=evil.example", 'for="', ""])
@pytest.mark.parametrize("fields", [(), ("X-Forwarded-For: 198.51.100.1",)])
def test_forwarded_is_not_read_and_no_app_sees_it(value: str, fields: tuple[str, ...]) -> None:
    environ = apply(f"Forwarded: {value}", *fields)
    assert environ == apply(*fields)
    assert "HTTP_FORWARDED" not in environ
