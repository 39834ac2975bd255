"""An app sees the same request wherever its mount has it run.

One app shows its environ, mounted in the front workers, in a pool of greenlets, in one of threads
and in one with an environment of its own. What clients and proxies may say is
drawn from lists, and every key and value is compared.
"""

import json
import random
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from running import WAIT_SECONDS, Running, wait_until

from gateway.http.environ import name_server

SHOW = """
import json

def app(environ, start_response):
    seen = {"content": environ["wsgi.input"].read().decode("latin-1")}
    for key, value in environ.items():
        is_plain = isinstance(value, (str, int, tuple))
        seen[key] = value if is_plain else f"callable: {callable(value)}"
    answer = json.dumps(seen).encode()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
"""
KINDS = ("shared", "greens", "thread", "apart_")  # of one length
MOUNTS = "  /: good:app\n  /shared: show:app\n" + "".join(
    f"  /{kind}: {{app: 'show:app', pool: {kind}}}\n" for kind in KINDS[1:]
)
POOLS = (
    f"pools:\n  greens: {{}}\n  thread: {{concurrency: threads, threads: 2}}\n"
    f"  apart_: {{venv: {sys.prefix}}}\n"
)
# docs/operations.md has this list: whose worker it is, and what is between two hops (RFC 9110
# §7.6.1), with what Connection names. A request's own id is looked at for itself
MAY_DIFFER = {
    *("gateway.generation", "gateway.mounts", "gateway.request_id", "wsgi.input"),
    *("HTTP_CONNECTION", "HTTP_EXPECT", "HTTP_HTTP2_SETTINGS", "HTTP_KEEP_ALIVE"),
    *("HTTP_PROXY_AUTHENTICATE", "HTTP_PROXY_AUTHORIZATION", "HTTP_PROXY_CONNECTION"),
    *("HTTP_TE", "HTTP_TRAILER", "HTTP_UPGRADE", "HTTP_X_NAMED"),
}
PLAIN = "GET /{0} HTTP/1.1\r\nHost: a\r\n\r\n"
TARGETS = ["", "/", "/a/b?c=d", "/%2e%2e%2f../{0}/x?", "/caf%C3%A9/%2Fa;b=1", "/x/..//y", "?q=%zz"]
FIELDS = [
    "X-Forwarded-For: 198.51.100.7",
    "X-Forwarded-For: 198.51.100.7, 203.0.113.9\r\nX-Request-ID: abc-1",
    "X-Forwarded-For: unknown",
    "X-Request-ID: a b",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: shop.example:8443",
    "X-Forwarded-Port: 8443",
    "X-Forwarded-Prefix: /outer",
    "X-Real-IP: 198.51.100.8",
    'Forwarded: for="[2001:db8::1]:4711";proto=https;host=other.example',
    "Via: 1.0 fred, 1.1 gateway",
    "Gateway-Statement: /&https&evil&1&&evil",
    "Gateway-Request: 192.0.2.66 1 forged",
    "Cookie: a=b\r\nCookie: c=d",
    "Accept: text/html\r\nAccept: */*",
    "Accept-Language: \tde ",
    "Authorization: Basic YTpi",
    "Connection: Via, Host, X-Forwarded-Host, X-Forwarded-Port, x-request-id",
    "Connection: X-Named\r\nX-Named: 1\r\nTE: trailers\r\nKeep-Alive: timeout=5",
    "Upgrade: h2c",
    "X-Umlaut: \u00e4\u00f6",
    "X-Empty:",
    "X-Last-Empty: a\r\nX-Last-Empty:",
    "Proxy: evil\r\nX_Under: score",
]
CONTENTS = [
    "\r\n",
    "Content-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello",
    "Content-Length: 0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nX-Trailer: 1\r\n\r\n",
    "Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
]


class Front:
    """A gateway, and how a client comes to it."""

    def __init__(self, running: Running, connect: Callable[[], socket.socket]) -> None:
        self.running = running
        self.connect = connect

    def ask(self, kind: str, request: str) -> tuple[int, dict[str, Any]]:
        """The status, and what the app of this kind sees of ``request``, as if all had one
        mount."""
        with closing(self.connect()) as connection:
            own = connection.getsockname()
            connection.sendall(request.replace("{0}", kind).encode("latin-1"))
            answer = HTTPResponse(connection)
            answer.begin()
            content = answer.read()
            answer.close()
        seen: dict[str, Any] = json.loads(content) if answer.status == 200 else {}
        if isinstance(own, tuple) and seen.get("REMOTE_PORT") == str(own[1]):
            seen["REMOTE_PORT"] = "the client's own"
        return answer.status, {
            key: value.replace(kind, "mount") if type(value) is str else value
            for key, value in seen.items()
        }


def start(folder: Path, server: str, option: str = "") -> Running:
    return Running(folder, MOUNTS + POOLS, server, option, show=SHOW)


def find_loopback() -> str:
    """That of IPv6, where this machine has one."""
    with socket.socket(socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return "127.0.0.1"
    return "[::1]"


@pytest.fixture(scope="module", params=["unix", "proxied", "direct"])
def front(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "direct":
        host = find_loopback()
        running = start(folder, "", f"--listen={host}:0")
        found = re.search(re.escape(f"http://{host}") + r":(\d+)", running.log_text)
        assert found is not None, running.log_text
        address = host.strip("[]"), int(found[1])
        front = Front(running, lambda: socket.create_connection(address, WAIT_SECONDS))
    elif request.param == "unix":
        running = start(folder, "  trusted_proxies: ['unix:']\n")
        front = Front(running, running.connect)
    else:
        server = "  proxy_protocol: true\n  trusted_proxies: ['unix:', 203.0.113.0/24]\n"
        running = start(folder, server)

        def connect() -> socket.socket:
            connection = running.connect()
            connection.sendall(b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n")
            return connection

        front = Front(running, connect)
    request.addfinalizer(running.end)
    for kind in KINDS:
        wait_until(lambda k=kind: front.ask(k, PLAIN)[0] == 200, f"{kind} serves")
    yield front
    assert running.end() == 0


def draw(generator: random.Random) -> str:
    version = generator.choice(["1.1", "1.1", "1.1", "1.0"])
    contents = CONTENTS if version == "1.1" else CONTENTS[:3]
    content = generator.choice(contents)
    target = "/{0}" + generator.choice(TARGETS)
    host = generator.choice(["Host: a.example:8000\r\n", "Host: A.example\r\n"])
    if generator.random() < 0.15:
        target = "http://Absolute.example" + target
    elif version == "1.0" and generator.random() < 0.5:
        host = ""
    fields = "".join(f"{f}\r\n" for f in generator.sample(FIELDS, generator.randint(0, 5)))
    method = "GET" if content == CONTENTS[0] else "POST"
    return f"{method} {target} HTTP/{version}\r\n{host}{fields}{content}"


def test_every_key_and_value_is_the_same_in_every_kind_of_worker(front: Front) -> None:
    generator = random.Random(140)
    seen_keys: set[str] = set()
    for _ in range(120):
        request = draw(generator)
        for _ in range(2 if generator.random() < 0.3 else 1):  # again: it is known by then
            answers = [front.ask(kind, request) for kind in KINDS]
            assert [status for status, _ in answers] == [200] * len(KINDS), request
            expected, *others = (seen for _, seen in answers)
            seen_keys |= expected.keys()
            for kind, other in zip(KINDS[1:], others, strict=True):
                keys = (expected.keys() | other.keys()) - MAY_DIFFER
                differs = {
                    key: (expected.get(key), other.get(key))
                    for key in keys
                    if expected.get(key) != other.get(key)
                }
                assert not differs, (kind, request)
                if expected.get("HTTP_X_REQUEST_ID") == "abc-1":
                    assert other["gateway.request_id"] == "abc-1"
            assert not re.search("forged|evil", str(expected))
    assert {"HTTP_COOKIE", "HTTP_VIA", "CONTENT_LENGTH", "REMOTE_PORT"} <= seen_keys


def test_the_port_of_a_client_is_seen_in_pools(front: Front) -> None:
    for kind in KINDS:
        _, seen = front.ask(kind, PLAIN)
        assert seen["REMOTE_PORT"] in ("the client's own", "4711", "")
        assert (seen["REMOTE_PORT"] == "") == ("unix" in str(front.running.folder))


@pytest.mark.parametrize(
    ("address", "named"),
    [
        (("127.0.0.1", 8000), ("127.0.0.1", "8000")),
        (("::1", 8000, 0, 0), ("::1", "8000")),
        (("0.0.0.0", 80), ("web-1", "80")),
        (("::", 80, 0, 0), ("web-1", "80")),
        ("/run/gateway.sock", ("localhost", "80")),
        (b"\0abstract", ("localhost", "80")),
    ],
)
def test_a_server_is_named_where_no_host_is_sent(address: Any, named: tuple[str, str]) -> None:
    assert name_server(address, "web-1") == named
