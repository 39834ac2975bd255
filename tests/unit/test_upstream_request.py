"""What a server behind a mount is asked: target, fields, and what is told of the client."""

import socket
from collections.abc import Callable
from contextlib import closing
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from harness import PEER, Gateway
from scripted import OK, Peer, scripted

from gateway.http.server import Server

Load = Callable[..., Any]
TRUSTED = (ip_network(PEER),)


def ask(
    upstream: Load,
    head: str,
    *,
    prefix: str = "",
    keeps_prefix: bool = False,
    trusted_proxies: tuple[Any, ...] = (),
    **settings: Any,
) -> list[str]:
    """The lines of the head that the server gets for ``head``."""
    heads: list[str] = []
    chosen = "keep" if keeps_prefix else "strip"

    def script(peer: Peer) -> None:
        heads.append(peer.answer(OK))

    with scripted(script) as server:
        app = upstream(server.address, mounted=prefix, prefix=chosen, **settings)
        with closing(Gateway({prefix or "/": app}, trusted_proxies=trusted_proxies)) as gateway:
            client = gateway.connect()
            client.send(head.replace("\n", "\r\n").encode("latin-1"))
            assert client.read_answer().status == 200
    return heads[0].split("\r\n")


def values(lines: list[str], name: str) -> list[str]:
    pairs = [line.partition(": ") for line in lines[1:]]
    return [value for key, _, value in pairs if key.lower() == name]


# --- target ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "stripped", "kept"),
    [
        ("/reports/a", "/a", "/reports/a"),
        ("/reports/", "/", "/reports/"),
        ("/reports", "/", "/reports"),
        ("/reports?x=1", "/?x=1", "/reports?x=1"),
        ("/reports/a?x=/reports/b?c", "/a?x=/reports/b?c", "/reports/a?x=/reports/b?c"),
        ("/reports/a?", "/a?", "/reports/a?"),
        ("/reports/a%2Fb/%e9%25", "/a%2Fb/%e9%25", "/reports/a%2Fb/%e9%25"),
        ("/reports/a;b=c,d!$&'()*+@:~", "/a;b=c,d!$&'()*+@:~", "/reports/a;b=c,d!$&'()*+@:~"),
        ("/reports//a", "//a", "/reports//a"),
        ("/%72eports/a%20b", "/a%20b", "/reports/a%20b"),
        ("/x/../reports/a", "/a", "/reports/a"),
        ("/reports/b/%2e%2E/a b".replace(" ", "%20"), "/a%20b", "/reports/a%20b"),
        ("/reports/%2e%2e%2fa", "/%2e%2e%2fa", "/reports/%2e%2e%2fa"),
        ("http://a.example/reports/a%2Fb?c", "/a%2Fb?c", "/reports/a%2Fb?c"),
    ],
)
def test_prefix_is_stripped_or_kept_and_the_rest_is_as_the_client_sent_it(
    upstream: Load, asked: str, stripped: str, kept: str
) -> None:
    head = f"GET {asked} HTTP/1.1\nHost: a.example\n\n"
    lines = ask(upstream, head, prefix="/reports")
    assert lines[0] == f"GET {stripped} HTTP/1.1"
    assert values(lines, "x-forwarded-prefix") == ["/reports"]
    lines = ask(upstream, head, prefix="/reports", keeps_prefix=True)
    assert lines[0] == f"GET {kept} HTTP/1.1"
    assert values(lines, "x-forwarded-prefix") == []


def test_request_of_http10_becomes_one_of_http11(upstream: Load) -> None:
    lines = ask(upstream, "GET /a HTTP/1.0\n\n")
    assert lines[0] == "GET /a HTTP/1.1"
    assert len(values(lines, "host")) == 1


# --- fields ---------------------------------------------------------------------------------------


def test_fields_arrive_but_for_those_between_two_hops(upstream: Load) -> None:
    lines = ask(
        upstream,
        "POST / HTTP/1.1\nHost: a.example:8080\nAccept: text/html\nAccept: */*\nCookie: a=1\n"
        "Cookie: b=2\nX-Latin: caf\xe9\nX-None:\nContent-Type: text/plain\nAuthorization: Basic x\n"
        "Connection: keep-alive, X-Named, close\nX-Named: 1\nKeep-Alive: 5\nTE: trailers\n"
        "Trailer: A\nUpgrade: websocket\nProxy-Connection: x\nProxy-Authorization: y\n"
        "Expect: 100-continue\nForwarded: for=1.2.3.4\nContent-Length: 0\n\n",
    )
    told = ("X-Forwarded-", "X-Request-ID", "Via")
    own = [line for line in lines[1:] if not line.startswith(told)]
    assert sorted(own) == [
        "Accept: text/html, */*",
        "Authorization: Basic x",
        "Content-Length: 0",
        "Content-Type: text/plain",
        "Cookie: a=1; b=2",
        "Host: a.example:8080",
        "X-Latin: caf\xe9",
        "X-None: ",
    ]


def test_connection_cannot_name_what_the_hop_needs(upstream: Load) -> None:
    lines = ask(
        upstream,
        "GET / HTTP/1.1\nHost: a.example\nConnection: Host, X-Forwarded-For, X-Request-ID\n\n",
    )
    assert values(lines, "host") == ["a.example"]
    assert values(lines, "x-forwarded-for") == [PEER]
    assert len(values(lines, "x-request-id")) == 1


# --- the client -----------------------------------------------------------------------------------

SPOOFED = (
    "GET / HTTP/1.1\nHost: a.example\nX-Forwarded-For: 198.51.100.1, 198.51.100.2\n"
    "X-Forwarded-Proto: https\nX-Forwarded-Host: evil.example\nX-Forwarded-Port: 444\n"
    "X-Forwarded-Prefix: /evil\nX-Request-ID: evil\nX-Real-IP: 198.51.100.3\n"
    "Forwarded: for=198.51.100.4\n\n"
)


def told(lines: list[str]) -> dict[str, list[str]]:
    names = ("for", "proto", "host", "port", "prefix")
    return {name: values(lines, f"x-forwarded-{name}") for name in names}


def test_what_a_stranger_says_of_itself_does_not_arrive(upstream: Load) -> None:
    lines = ask(upstream, SPOOFED)
    assert told(lines) == {
        "for": [PEER],
        "proto": ["http"],
        "host": ["a.example"],
        "port": ["80"],
        "prefix": [],
    }
    assert "evil" not in "".join(lines)
    assert "198.51.100" not in "".join(lines)


def test_what_a_trusted_proxy_says_arrives(upstream: Load) -> None:
    lines = ask(upstream, SPOOFED, trusted_proxies=TRUSTED, prefix="")
    assert told(lines) == {
        "for": ["198.51.100.2"],
        "proto": ["https"],
        "host": ["evil.example"],
        "port": ["444"],
        "prefix": ["/evil"],
    }
    assert values(lines, "x-request-id") == ["evil"]
    assert values(lines, "forwarded") == []


@pytest.mark.parametrize(
    ("host", "proto", "port"),
    [
        ("a.example", "http", "80"),
        ("a.example", "https", "443"),
        ("a.example:8080", "http", "8080"),
        ("[2001:db8::1]", "http", "80"),
        ("[2001:db8::1]:81", "https", "81"),
        ("a.example:", "http", "80"),
    ],
)
def test_port_is_the_one_that_the_client_asked(
    upstream: Load, host: str, proto: str, port: str
) -> None:
    head = f"GET / HTTP/1.1\nHost: {host}\nX-Forwarded-Proto: {proto}\n\n"
    lines = ask(upstream, head, trusted_proxies=TRUSTED)
    assert told(lines)["port"] == [port]


def test_prefix_of_a_proxy_in_front_comes_first(upstream: Load) -> None:
    head = "GET /reports/a HTTP/1.1\nHost: a.example\nX-Forwarded-Prefix: /outer\n\n"
    options: dict[str, Any] = {"prefix": "/reports", "trusted_proxies": TRUSTED}
    assert told(ask(upstream, head, **options))["prefix"] == ["/outer/reports"]
    assert told(ask(upstream, head, **options, keeps_prefix=True))["prefix"] == ["/outer"]


def test_host_may_be_another_one(upstream: Load) -> None:
    head = "GET / HTTP/1.1\nHost: a.example\n\n"
    lines = ask(upstream, head, host="reports.internal:3000")
    assert values(lines, "host") == ["reports.internal:3000"]
    assert told(lines)["host"] == ["a.example"]


def test_absolute_target_leads_nowhere_else(upstream: Load) -> None:
    lines = ask(upstream, "GET http://evil.example:25/x HTTP/1.1\nHost: a.example\n\n")
    assert lines[0] == "GET /x HTTP/1.1"
    assert values(lines, "host") == ["evil.example:25"]


def test_hop_names_itself_behind_those_before_it(upstream: Load) -> None:
    head = "GET / HTTP/1.1\nHost: a.example\n"
    assert values(ask(upstream, f"{head}\n"), "via") == ["1.1 gateway"]
    lines = ask(upstream, f"{head}Via: 1.0 fred\nVia: 1.1 gateway\n\n")
    assert values(lines, "via") == ["1.0 fred, 1.1 gateway, 1.1 gateway"]


def test_request_that_goes_in_circles_is_508(upstream: Load, tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen()
    with listener, closing(Gateway(upstream(f"unix:{tmp_path}/s"))) as gateway:
        server = Server(listener, gateway.service)
        server.start()
        answer = gateway.ask()
        assert answer.status == 508
        [error] = [record["error"] for record in gateway.records if "error" in record]
        assert error == "upstream: the request goes in circles: an address leads back here"
        assert len(gateway.records) == 9
        server.drain(0)
