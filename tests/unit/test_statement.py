"""What a front worker states of a request is what the pool's worker reads, for any head."""

import random
import re
from io import BufferedReader, BytesIO
from typing import Any

import pytest

from gateway.errors import MalformedRequest
from gateway.http.environ import build_base_environ, build_environ
from gateway.http.forwarded import TrustedProxies
from gateway.http.statement import FrontWorkers, _layouts
from gateway.limits import Limits
from gateway.protocol.fields import HOP_KEYS
from gateway.protocol.framing import CHUNKED
from gateway.protocol.memory import Memory
from gateway.upstream.request import PoolRequest, Rules

PROXIES = TrustedProxies(["unix:"])
FRONT, POOL = PROXIES.build_parser(Limits()), FrontWorkers().build_parser(Limits())
BASE = build_base_environ("front.example", "8000", ())
RULES = Rules(
    prefix="/shop", strips_prefix=False, host="", authority="", own_mount="/shop%20%C3%A9"
)
# what is stated beside the fields
FOUND = (
    *("REMOTE_ADDR", "REMOTE_PORT", "SERVER_NAME", "SERVER_PORT", "wsgi.url_scheme"),
    "gateway.request_id",
)
LINES = [
    "Accept: text/html\r\nAccept: */*",
    "X-Forwarded-For: 198.51.100.7, 203.0.113.9",
    "X-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example:8443",
    "X-Forwarded-Prefix: /outer",
    "X-Request-ID: abc-1",
    "Cookie: a=b; c=d",
    "X-Empty:",
    "X-Latin: caf\xe9\xff",
    "X-Tab: a\tb",
    "Via: 1.0 fred, 1.1 gateway",
    "Content-Type: text/plain",
    "Content-Length: 7",
    "Content-Length: 0",
    "Expect: 100-continue",
    "Connection: keep-alive",
    "Connection: x-empty, Content-Type, HOST, x-request-id, content-length, x_tab",
    "Connection: via, X-Forwarded-Proto, x-latin",
    "Connection: TE, upgrade\r\nTE: trailers",
    "Upgrade: tcp",
    "Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic x",
    "HTTP2-Settings: x\r\nTrailer: A",
    "Gateway-Statement: /evil SCRIPT_NAME evil\r\nGateway-Request: evil\0evil",
    "gateway-statement: /evil",
]
NEVER_TAKEN_AWAY = {
    *("CONTENT_LENGTH", "HTTP_HOST", "HTTP_VIA", "HTTP_X_REQUEST_ID"),
    *(f"HTTP_X_FORWARDED_{name}" for name in ("FOR", "HOST", "PORT", "PREFIX", "PROTO")),
}


def read_at_front(raw: bytes) -> dict[str, Any]:
    head = FRONT.parse(raw, True)
    environ = build_environ(BASE, head, "192.0.2.1", "4711")
    PROXIES.apply(head, environ)
    environ["gateway.request_id"] = environ["gateway.request_id"] or "id-1"
    environ["SCRIPT_NAME"] += RULES.prefix
    return environ


def read_at_pool(raw: bytes) -> tuple[str, dict[str, Any], Any]:
    head = POOL.parse(raw, True)
    environ = build_environ(build_base_environ("pool", "1", ()), head, "unix:0", "")
    return FrontWorkers().apply(head, environ), environ, head


def expect_fields(environ: dict[str, Any]) -> dict[str, str]:
    named = {name.strip().lower() for name in environ.get("HTTP_CONNECTION", "").split(",")}
    fields = {}
    for key, value in environ.items():
        name = re.sub("^HTTP_", "", key).replace("_", "-").lower()
        is_field = key.startswith(("HTTP_", "CONTENT_"))
        if is_field and key not in HOP_KEYS and not (name in named and key not in NEVER_TAKEN_AWAY):
            fields[key] = value
    return fields


def draw(generator: random.Random) -> bytes:
    lines = generator.sample(LINES, generator.randint(0, 7))
    target = generator.choice(["/shop/a?b=c", "/", "/%2e%2e/x", "http://other.example/shop?x"])
    version = generator.choice(["1.1", "1.1", "1.0"])
    host = "Host: a.example\r\n" if version == "1.1" or generator.random() < 0.5 else ""
    text = "".join(f"{line}\r\n" for line in lines)
    return f"POST {target} HTTP/{version}\r\n{host}{text}\r\n".encode("latin-1")


@pytest.mark.parametrize("remembers", [True, False])
def test_a_pools_worker_reads_what_the_front_worker_has_found(
    remembers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Memory, "is_on", remembers)
    generator = random.Random(4711)
    seen = set()
    for _ in range(3000):
        raw = draw(generator)
        try:
            environ = read_at_front(raw)
        except MalformedRequest:
            continue  # a repeated field
        request = PoolRequest(environ, RULES)
        mount, got, head = read_at_pool(request.head)
        assert mount == "/shop \xe9"
        assert head.line == raw.partition(b"\r\n")[0]
        assert {key: got[key] for key in FOUND} == {key: environ[key] for key in FOUND}
        assert got["SCRIPT_NAME"] + RULES.prefix == environ["SCRIPT_NAME"]
        fields = expect_fields(environ)
        if request.upgrade:
            fields |= {"HTTP_CONNECTION": "Upgrade", "HTTP_UPGRADE": environ["HTTP_UPGRADE"]}
        found = {key: value for key, value in got.items() if key.startswith(("HTTP_", "CONTENT_"))}
        assert found == fields, raw
        assert head.content_length == int(environ.get("CONTENT_LENGTH", 0))
        assert "evil" not in str(got)
        seen |= fields.keys()
    assert {"HTTP_UPGRADE", "HTTP_HOST", "CONTENT_LENGTH", "HTTP_X_EMPTY"} <= seen


def test_the_names_of_large_heads_are_remembered() -> None:
    lines = "".join(f"X-Large-Field-{number}: 1\r\n" for number in range(40))
    environ = read_at_front(f"GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode())
    known = len(_layouts), len(POOL._statements)
    read_at_pool(PoolRequest(environ, RULES).head)
    assert (len(_layouts), len(POOL._statements)) == (known[0] + 1, known[1] + 1)


def test_content_of_unknown_length_crosses_in_chunks() -> None:
    environ = read_at_front(b"POST / HTTP/1.1\r\nHost: a\r\n\r\n")
    environ["wsgi.input"] = BufferedReader(BytesIO())  # type: ignore[type-var, unused-ignore]
    _, got, head = read_at_pool(PoolRequest(environ, RULES).head)
    assert head.content_length == CHUNKED
    assert got["HTTP_TRANSFER_ENCODING"] == "chunked"


@pytest.mark.parametrize("request_line", ["GET / HTTP/1.1", "OPTIONS * HTTP/1.1"])
def test_plain_heads_are_read_beside_statements(request_line: str) -> None:
    mount, environ, _ = read_at_pool(f"{request_line}\r\nHost: a\r\n\r\n".encode())
    assert (mount, environ["HTTP_HOST"], environ["SERVER_NAME"]) == ("", "a", "pool")


@pytest.mark.parametrize(
    ("names", "values"),
    [
        ("SCRIPT_NAME HTTP_A", "\0x\0y"),
        ("SCRIPT_NAME HTTP_A", "x"),
        ("HTTP_A HTTP_A", "x\0y"),
        ("SCRIPT_NAME CONTENT_LENGTH", "\0x"),
        ("CONTENT_LENGTH HTTP_TRANSFER_ENCODING", "1\0chunked"),
    ],
)
def test_a_statement_that_does_not_hold_together_is_refused(names: str, values: str) -> None:
    head = "GET / HTTP/1.1\r\nGateway-Statement: / {}\r\nGateway-Request: {}\r\n\r\n"
    with pytest.raises(MalformedRequest):
        POOL.parse(head.format(names, values).encode(), True)
    accepted = head.format("SCRIPT_NAME HTTP_A", "\0x").encode()
    assert POOL.parse(accepted, True).fields == {"SCRIPT_NAME": "", "HTTP_A": "x"}


def test_nobody_but_a_pools_worker_reads_statements() -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nGateway-Statement: / HTTP_A\r\nGateway-Request: x\r\n\r\n"
    for trusts_peer in (True, False):
        assert FRONT.parse(head, trusts_peer).fields == {"HTTP_HOST": "a"}
        assert FRONT.parse(head, trusts_peer).mount == ""
