"""The gateway behind the gateway: a request means to an app there what it means to one here.

Every raw request of ``tests/requests`` is asked of an app directly and through a mount that leads
to a gateway in a process of its own, over its Unix socket.
"""

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext, suppress
from hashlib import sha256
from ipaddress import ip_network
from typing import Any

import pytest
from harness import PEER, Gateway
from raw_requests import Invalid, Valid, load_invalid, load_valid
from running import Running
from scripted import Peer, scripted

from gateway.limits import Limits, MountLimits

Serve = Callable[..., Gateway]
Load = Callable[..., Any]
VALID, INVALID = load_valid(), load_invalid()
NEXT = b"GET /next HTTP/1.1\r\nHost: example.com\r\n\r\n"
MIRROR = """
import base64, hashlib, json

def app(environ, start_response):
    seen = {k: v for k, v in environ.items() if isinstance(v, str)}
    content, digest = environ["wsgi.input"], hashlib.sha256()
    while piece := content.read(65536):
        digest.update(piece)
    seen["content"] = digest.hexdigest()
    mirrored = base64.b64encode(json.dumps(seen).encode()).decode()
    start_response("200 OK", [("X-Mirror", mirrored), ("Content-Type", "text/plain")])
    return [b"fine"]
"""
# what is between two hops, and what the hop tells of its client (RFC 9110 §7.6.1)
HOP = {
    *("HTTP_CONNECTION", "HTTP_KEEP_ALIVE", "HTTP_PROXY_CONNECTION", "HTTP_TE", "HTTP_TRAILER"),
    *("HTTP_UPGRADE", "HTTP_EXPECT", "HTTP_FORWARDED", "HTTP_PROXY_AUTHORIZATION"),
    *(f"HTTP_X_FORWARDED_{name}" for name in ("FOR", "HOST", "PORT", "PREFIX", "PROTO")),
    "HTTP_X_REQUEST_ID",
    "HTTP_VIA",
}
COMPARED = (
    *("REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "REMOTE_ADDR"),
    *("wsgi.url_scheme", "gateway.request_id", "content"),
)


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a gateway that mirrors what it is asked."""
    server = (
        "  trusted_proxies: ['unix:']\n  max_head: 128KiB\n  max_fields: 300\n"
        "  max_request_line: 64KiB\n"
    )
    running = Running(tmp_path_factory.mktemp("behind"), "  /: mirror:app\n", server, mirror=MIRROR)
    yield f"unix:{running.folder}/listen.sock"
    assert running.end() == 0


class Recorder:
    """The same app, in this process."""

    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen = {key: value for key, value in environ.items() if isinstance(value, str)}
        seen["content"] = sha256(environ["wsgi.input"].read()).hexdigest()
        self.seen.append(seen)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"fine"]


def open_gateway(case: Valid | Invalid, app: Any, buffering: str = "on") -> Any:
    return closing(
        Gateway(
            app,
            limits=Limits(**case.limits),
            mount_limits=MountLimits(**case.mount_limits, request_buffering=buffering),
            trusted_proxies=(ip_network(PEER),) if case.trusted else (),
        )
    )


def ask(gateway: Gateway, case: Valid) -> list[Any]:
    """The answers to all of a case's requests, and to one behind them."""
    client = gateway.connect()
    is_persistent = case.request[-1].persistent
    with nullcontext() if is_persistent else suppress(BrokenPipeError):
        client.send(case.raw + NEXT)
    answers = [client.read_answer(expected.method) for expected in case.request]
    if is_persistent:
        answers.append(client.read_answer())
        client.close()
    else:
        client.expect_end()
    return answers


def meaning(seen: dict[str, str]) -> dict[str, str]:
    fields = {
        key: value
        for key, value in seen.items()
        if key.startswith(("HTTP_", "CONTENT_")) and key not in HOP
    }
    named = seen.get("HTTP_CONNECTION", "").split(",")
    for option in named:
        fields.pop(f"HTTP_{option.strip().upper().replace('-', '_')}", None)
    if "CONTENT_LENGTH" in fields:
        fields["CONTENT_LENGTH"] = str(int(fields["CONTENT_LENGTH"]))
    if "HTTP_TRANSFER_ENCODING" in fields:
        fields["HTTP_TRANSFER_ENCODING"] = "chunked"
    return fields | {key: seen[key] for key in COMPARED}


@pytest.mark.parametrize("name", VALID)
def test_request_means_the_same_through_the_hop(name: str, upstream: Load, behind: str) -> None:
    case, recorder = VALID[name], Recorder()
    with open_gateway(case, recorder) as gateway:
        direct = ask(gateway, case)
    with open_gateway(case, upstream(behind)) as gateway:
        through = ask(gateway, case)
        ids = [record["request_id"] for record in gateway.records]
    assert [a.status for a in through] == [a.status for a in direct]
    assert [a.is_last for a in through] == [a.is_last for a in direct]
    mirrors = [a["x-mirror"] for a in through if a.status == 200]
    assert len(mirrors) == len(recorder.seen)
    asked = [i for i, answer in zip(ids, through, strict=True) if answer.status == 200]
    for seen, mirror, request_id in zip(recorder.seen, mirrors, asked, strict=True):
        seen["gateway.request_id"] = request_id
        if seen["SERVER_PROTOCOL"] == "HTTP/1.0" and "HTTP_HOST" not in seen:
            seen["HTTP_HOST"] = "localhost"
        assert meaning(json.loads(base64.b64decode(mirror))) == meaning(seen)


@pytest.mark.parametrize(
    ("name", "buffering"),
    [(name, "on") for name in INVALID]
    + [(name, "off") for name, case in INVALID.items() if case.at == "content"],
)
def test_refused_request_never_gets_through(name: str, buffering: str, upstream: Load) -> None:
    case = INVALID[name]
    got: list[bytes] = []

    def script(peer: Peer) -> None:
        got.append(peer.read_head().encode("latin-1"))
        got.append(peer.wait_for_end())

    with (
        scripted(script) as server,
        open_gateway(case, upstream(server.address), buffering) as gateway,
    ):
        client = gateway.connect()
        client.send(case.raw + NEXT)
        answer = client.read_answer()
        assert answer.status == case.status
        assert answer.is_last
        client.expect_end()
        streams = case.at == "content" and buffering == "off"
        assert streams or server.connections == 0
    if got:
        head, content = got
        assert b"Transfer-Encoding: chunked" in head
        assert not content.endswith(b"0\r\n\r\n")
