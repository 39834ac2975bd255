"""The raw requests of ``tests/requests``: to the parser alone, and to the engine over a socket.

Every one whole, byte by byte, in random pieces, and with the bytes of a next request behind it.
"""

import io
import os
import random
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from ipaddress import ip_network
from itertools import pairwise
from typing import Any

import pytest
from harness import PEER, Gateway
from raw_requests import Invalid, Request, Valid, load_invalid, load_valid

from gateway.errors import RequestError
from gateway.http.body import ChunkedRequestContent, RequestContentOfLength
from gateway.http.dispatch import LoadedMount, MountTable
from gateway.limits import Limits, MountLimits
from gateway.protocol.framing import CHUNKED
from gateway.protocol.request import HeadParser, RequestHead

VALID, INVALID = load_valid(), load_invalid()
SEED = os.environ.get("REQUESTS_SEED", "1")
MANY = 1 << 20
_EMPTY_LINES = re.compile(rb"\A(?:\r\n)+")
NEXT = b"GET /next HTTP/1.1\r\nHost: example.com\r\n\r\n"


def feeds(raw: bytes) -> Iterator[list[bytes]]:
    """``raw`` in several pieces, in several ways; a failed test shows the last way printed."""
    print("whole")
    yield [raw]
    step = 1 + len(raw) // 1000  # the few long ones would take most of the time
    print(f"in pieces of {step}")
    yield [raw[i : i + step] for i in range(0, len(raw), step)]
    print(f"in random pieces, REQUESTS_SEED={SEED}")
    generator = random.Random(f"{SEED} {len(raw)}")
    cuts = generator.sample(range(1, len(raw)), min(len(raw) - 1, generator.randint(1, 9)))
    ends = [0, *sorted(cuts), len(raw)]
    yield [raw[a:b] for a, b in pairwise(ends)]


# --- parser and dispatch alone --------------------------------------------------------------------

TABLE = MountTable(
    [LoadedMount(name="/", host=None, prefix="", app=lambda *_: [], limits=MountLimits())]
)


class Pieces:
    """A source of content that gives one piece at a time, then the end."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def receive(self, size: int) -> bytes:
        piece = self.pieces.pop(0) if self.pieces else b""
        self.put_back(piece[size:])
        return piece[:size]

    def receive_into(self, buffer: memoryview) -> int:
        piece = self.receive(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def put_back(self, piece: bytes) -> None:
        if piece:
            self.pieces.insert(0, piece)

    def receive_head(self) -> bytes:
        """Up to the first empty line behind other lines; "" at the end."""
        raw = b""
        while piece := self.receive(MANY):
            raw = _EMPTY_LINES.sub(b"", raw + piece)
            if (end := raw.find(b"\r\n\r\n") + 4) >= 4:
                self.put_back(raw[end:])
                return raw[:end]
        return raw


def parse_all(case: Valid | Invalid, pieces: list[bytes]) -> Iterator[tuple[RequestHead, str, Any]]:
    """Each head of ``pieces`` with its PATH_INFO and content. Raises what is raised on the way."""
    parser = HeadParser(Limits(**case.limits))
    max_body = MountLimits(**case.mount_limits).max_body_bytes
    source = Pieces(pieces)
    while raw := source.receive_head():
        head = parser.parse(raw, case.trusted)
        found = TABLE.match(head.host, head.path)
        path_info = found.path_info if found else head.path
        yield head, path_info, read_content(head, source, max_body)


def read_content(head: RequestHead, source: Pieces, max_body: int) -> bytes:
    """The content at the beginning of ``source``, which then begins behind it."""
    if not head.content_length:
        return b""
    if head.content_length != CHUNKED:
        return io.BufferedReader(RequestContentOfLength(source, head.content_length, None)).read()
    chunked = ChunkedRequestContent(source, max_body, None)
    content = io.BufferedReader(chunked).read()
    source.put_back(chunked.take_rest())
    return content


@pytest.mark.parametrize("name", VALID)
def test_valid_request_is_parsed(name: str) -> None:
    case = VALID[name]
    for pieces in feeds(case.raw):
        parsed = parse_all(case, pieces)
        for (head, path_info, content), expected in zip(parsed, case.request, strict=True):
            assert head.method == expected.method
            assert head.target == expected.target
            assert (head.path, head.query) == (expected.path, expected.query)
            assert path_info == expected.path_info
            assert head.fields == expected.fields
            assert head.persistent == expected.persistent
            assert content == expected.content.encode()


@pytest.mark.parametrize("name", [n for n, c in INVALID.items() if c.at in ("head", "content")])
def test_invalid_request_is_refused_by_parser_or_dispatch(name: str) -> None:
    case = INVALID[name]
    for pieces in feeds(case.raw):
        with pytest.raises(RequestError) as refusal:
            list(parse_all(case, pieces))
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


def serve_case(
    serve: Callable[..., Gateway], case: Valid | Invalid, app: Recorder, buffering: str = "on"
) -> Gateway:
    return serve(
        app,
        limits=Limits(**case.limits),
        mount_limits=MountLimits(**case.mount_limits, request_buffering=buffering),
        trusted_proxies=(ip_network(PEER),) if case.trusted else (),
    )


def expect_request(request: dict[str, Any], expected: Request) -> None:
    assert request["REQUEST_METHOD"] == expected.method
    assert request["REQUEST_URI"] == expected.target
    assert (request["SCRIPT_NAME"], request["PATH_INFO"]) == ("", expected.path_info)
    assert request["QUERY_STRING"] == expected.query
    assert request["content"] == expected.content.encode()
    fields = {k: v for k, v in request.items() if k.startswith(("HTTP_", "CONTENT_"))}
    sent = dict(expected.fields)
    if sent.pop("HTTP_TRANSFER_ENCODING", ""):
        sent["CONTENT_LENGTH"] = str(len(request["content"]))
    sent.pop("HTTP_TRAILER", "")
    assert fields == sent


@pytest.mark.parametrize("name", VALID)
def test_valid_request_is_answered(serve: Callable[..., Gateway], name: str) -> None:
    case, app = VALID[name], Recorder()
    gateway = serve_case(serve, case, app)
    is_persistent = case.request[-1].persistent
    for pieces in feeds(case.raw + NEXT):
        client = gateway.connect()
        with nullcontext() if is_persistent else suppress(BrokenPipeError):
            client.send(*pieces)
        for expected in case.request:
            answer = client.read_answer(expected.method)
            assert answer.status == expected.status
            assert answer.is_last is not expected.persistent
            if answer.status == 200:
                expect_request(app.requests.pop(0), expected)
        if is_persistent:
            assert client.read_answer().status == 200
            assert app.requests.pop(0)["PATH_INFO"] == "/next"
            client.close()
        else:
            client.expect_end()
        assert not app.requests


@pytest.mark.parametrize(
    ("name", "buffering"),
    [(name, "on") for name in INVALID]
    + [(name, "off") for name, case in INVALID.items() if case.at == "content"],
)
def test_invalid_request_is_refused_and_nothing_behind_it_is_read(
    serve: Callable[..., Gateway], name: str, buffering: str
) -> None:
    case, app = INVALID[name], Recorder()
    gateway = serve_case(serve, case, app, buffering)
    for pieces in feeds(case.raw + NEXT):
        client = gateway.connect()
        client.send(*pieces)
        answer = client.read_answer()
        assert answer.status == case.status
        assert answer.is_last
        assert case.reason.lower() in answer.content.decode().lower()
        client.expect_end()
        if case.at == "content" and buffering == "off":
            request = app.requests.pop()
            assert request["PATH_INFO"] == "/"
            assert "content" not in request
        assert not app.requests
