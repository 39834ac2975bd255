"""The raw requests of ``tests/requests``: to the parser alone, and to the engine over a socket.

Every one whole, byte by byte, in random pieces, and with the bytes of a next request behind it.
"""

import io
import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from harness import PEER, Client, Cut, Gateway

from gateway.dispatch import Mount, MountTable
from gateway.errors import RequestError
from gateway.http.body import ChunkedContent, LengthContent
from gateway.http.parser import CHUNKED, HeadParser, RequestHead
from gateway.limits import Limits, MountLimits

sys.path.insert(0, str(Path(__file__).parent.parent / "requests"))

from cases import Invalid, Request, Valid, load_invalid, load_valid, parse_notation

VALID, INVALID = load_valid(), load_invalid()
SEED = os.environ.get("REQUESTS_SEED", "1")
NEXT = b"GET /next HTTP/1.1\r\nHost: example.com\r\n\r\n"


def whole(raw: bytes) -> list[bytes]:
    return [raw]


def byte_by_byte(raw: bytes) -> list[bytes]:
    return [raw[i : i + 1] for i in range(len(raw))]


def random_pieces(raw: bytes) -> list[bytes]:
    print(f"REQUESTS_SEED={SEED}")
    generator = random.Random(f"{SEED} {len(raw)}")
    cuts = sorted(generator.sample(range(1, len(raw)), min(len(raw) - 1, generator.randint(1, 9))))
    return [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


FEEDS = pytest.mark.parametrize("feed", [whole, byte_by_byte, random_pieces])


# --- parser and dispatch alone --------------------------------------------------------------------

TABLE = MountTable([Mount(name="/", host=None, prefix="", app=lambda *_: [], limits=MountLimits())])


class Pieces:
    """A source of content that gives one piece at a time, then the end."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces = [piece for piece in pieces if piece]

    def receive(self, size: int) -> bytes:
        if not self.pieces:
            return b""
        piece = self.pieces.pop(0)
        if len(piece) > size:
            self.pieces.insert(0, piece[size:])
        return piece[:size]

    def receive_into(self, buffer: memoryview) -> int:
        piece = self.receive(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


def parse_all(case: Valid | Invalid, feed: Callable[..., list[bytes]]) -> Iterator[Any]:
    """Each head of ``case`` with its PATH_INFO and content. Raises what is raised on the way."""
    parser = HeadParser(Limits(**case.limits))
    max_body = MountLimits(**case.mount_limits).max_body_bytes
    raw = case.raw
    while raw:
        while raw.startswith(b"\r\n"):
            raw = raw[2:]
        end = raw.index(b"\r\n\r\n") + 4
        head = parser.parse(raw[:end], case.trusted)
        _, path_info = TABLE.match(head.host, head.path) or (None, head.path)
        content, raw = read_content(head, raw[end:], max_body, feed)
        yield head, path_info, content


def read_content(
    head: RequestHead, raw: bytes, max_body: int, feed: Callable[..., list[bytes]]
) -> tuple[bytes, bytes]:
    """The content at the beginning of ``raw``, and what is behind it."""
    source = Pieces(feed(raw) if len(raw) > 1 else [raw])
    if not head.content_length:
        return b"", raw
    if head.content_length == CHUNKED:
        chunked = ChunkedContent(source, max_body, None)
        content = io.BufferedReader(chunked).read()
        return content, chunked.rest + b"".join(source.pieces)
    length = LengthContent(source, head.content_length, None)
    return io.BufferedReader(length).read(), b"".join(source.pieces)


@FEEDS
@pytest.mark.parametrize("name", VALID)
def test_valid_request_is_parsed(name: str, feed: Callable[..., list[bytes]]) -> None:
    case = VALID[name]
    parsed = parse_all(case, feed)
    for (head, path_info, content), expected in zip(parsed, case.request, strict=True):
        assert head.method == expected.method
        assert head.target == expected.target
        assert (head.path, head.query) == (expected.path, expected.query)
        assert path_info == expected.path_info
        assert head.fields == expected.fields
        assert head.persistent == expected.persistent
        assert content == expected.content.encode()


@FEEDS
@pytest.mark.parametrize("name", [n for n, c in INVALID.items() if c.at in ("head", "content")])
def test_invalid_request_is_refused_by_the_parser(
    name: str, feed: Callable[..., list[bytes]]
) -> None:
    case = INVALID[name]
    with pytest.raises(RequestError) as refusal:
        list(parse_all(case, feed))
    assert refusal.value.status.startswith(str(case.status))
    assert case.reason.lower() in str(refusal.value).lower()


# --- the engine -----------------------------------------------------------------------------------


class Recorder:
    """An app that remembers what it was asked, and answers 200."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        request = dict(environ)
        self.requests.append(request)
        request["content"] = environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"fine"]


def serve_case(serve: Callable[..., Gateway], case: Valid | Invalid, app: Recorder) -> Client:
    gateway = serve(
        app,
        limits=Limits(**case.limits),
        mount_limits=MountLimits(**case.mount_limits),
        trusted_proxies=(ip_network(PEER),) if case.trusted else (),
    )
    return gateway.connect()


def expect_request(request: dict[str, Any], expected: Request) -> None:
    assert request["REQUEST_METHOD"] == expected.method
    assert request["REQUEST_URI"] == expected.target
    assert (request["SCRIPT_NAME"], request["PATH_INFO"]) == ("", expected.path_info)
    assert request["QUERY_STRING"] == expected.query
    assert request["content"] == expected.content.encode()
    fields = {k: v for k, v in request.items() if k.startswith(("HTTP_", "CONTENT_"))}
    assert fields == expected.fields


@FEEDS
@pytest.mark.parametrize("name", VALID)
def test_valid_request_is_answered(
    serve: Callable[..., Gateway], name: str, feed: Callable[..., list[bytes]]
) -> None:
    case, app = VALID[name], Recorder()
    client = serve_case(serve, case, app)
    with nullcontext() if case.request[-1].persistent else suppress(BrokenPipeError):
        client.send(*feed(case.raw + NEXT))
    for expected in case.request:
        answer = client.read_answer(expected.method)
        assert answer.status == expected.status
        assert answer.is_last is not expected.persistent
    if case.request[-1].persistent:
        assert client.read_answer().status == 200
        assert app.requests.pop()["PATH_INFO"] == "/next"
    else:
        client.expect_end()
    answered = [expected for expected in case.request if expected.status == 200]
    for request, expected in zip(app.requests, answered, strict=True):
        expect_request(request, expected)


@FEEDS
@pytest.mark.parametrize("name", INVALID)
def test_invalid_request_is_refused_and_nothing_behind_it_is_read(
    serve: Callable[..., Gateway], name: str, feed: Callable[..., list[bytes]]
) -> None:
    case, app = INVALID[name], Recorder()
    client = serve_case(serve, case, app)
    client.send(*feed(case.raw + NEXT))
    answer = client.read_answer()
    assert answer.status == case.status
    assert answer.is_last
    assert case.reason.lower() in answer.content.decode().lower()
    client.expect_end()
    assert [request["PATH_INFO"] for request in app.requests] == ["/"] * (case.at == "content")
    assert "content" not in (app.requests or [{}])[0]
