"""What is fuzzed: each function takes any bytes, and fails where the gateway reads them otherwise
than the reference, or raises what is no RequestError."""

import io
from ipaddress import ip_network
from typing import Any
from urllib.parse import quote

import reference

from gateway.errors import ClientDisconnected, MalformedRequest, RequestError
from gateway.http.body import ChunkedRequestContent
from gateway.http.dispatch import LoadedMount, MountTable
from gateway.http.environ import build_base_environ, build_environ
from gateway.http.forwarded import TrustedProxies
from gateway.http.statement import FrontWorkers
from gateway.limits import Limits, MountLimits
from gateway.protocol.chunks import MAX_CHUNK_LINE, MAX_TRAILER_BYTES
from gateway.protocol.fields import HOP_KEYS
from gateway.protocol.memory import Memory
from gateway.protocol.request import HeadParser, RequestHead
from gateway.protocol.response import InvalidResponseError, ResponseHead, parse_response_head
from gateway.upstream.content import ChunkedResponseContent as ChunkedAnswer
from gateway.upstream.request import PoolRequest, Rules

MAX_LINE, MAX_FIELDS, MAX_CONTENT = 200, 12, 1000
LIMITS = Limits(max_request_line_bytes=MAX_LINE, max_fields=MAX_FIELDS)
# one for all inputs, as for all connections of a worker: none may change what the next one means
PARSER = HeadParser(LIMITS)
POOL_PARSER = FrontWorkers().build_parser(LIMITS)
RULES = Rules(prefix="", strips_prefix=False, host="", authority="", own_mount="/")
PROXIES = TrustedProxies([ip_network("10.0.0.0/8")])
BASE = build_base_environ("localhost", "80", ())
KEYS = ("/", "/a", "/a/b", "/c/d/e", "b.example/a", "b.example/f", "[::1]/")
TABLE = MountTable(
    LoadedMount(
        name=key,
        host=key.partition("/")[0] or None,
        prefix=("/" + key.partition("/")[2]).rstrip("/"),
        app=lambda *_: [],
        limits=MountLimits(),
    )
    for key in KEYS
)


def head(data: bytes) -> None:
    """A request head, from a peer that is trusted where the first byte is odd."""
    trusts_peer = bool(data[:1]) and data[0] % 2 == 1
    raw = data[1:]
    while raw.startswith(b"\r\n"):
        raw = raw[2:]
    raw += b"\r\n\r\n"
    raw = raw[: raw.index(b"\r\n\r\n") + 4]
    try:
        expected = reference.read_head(
            raw, trusts_peer=trusts_peer, max_line=MAX_LINE, max_fields=MAX_FIELDS
        )
    except reference.RefusedError:
        expected = None
    # with a memory of all inputs before, with one of this input alone, and with none
    fresh = HeadParser(LIMITS)
    for parser, is_on in (
        (PARSER, True),
        (fresh, True),
        (fresh, True),
        (HeadParser(LIMITS), False),
    ):
        Memory.is_on = is_on
        try:
            found = parser.parse(raw, trusts_peer)
        except RequestError:
            assert expected is None, f"refused, and the reference reads {expected}"
            continue
        finally:
            Memory.is_on = True
        assert expected is not None, "accepted, and the reference refuses it"
        for name in RequestHead.__annotations__:
            ours, theirs = getattr(found, name), getattr(expected, name)
            assert ours == theirs, f"{name} is {ours!r}, for the reference {theirs!r}"
    if expected is not None:
        _dispatch(found)
        _build_environ(found, trusts_peer)


def _dispatch(found: RequestHead) -> None:
    try:
        expected = _find_mount(found.host, found.path)
    except reference.RefusedError:
        try:
            TABLE.match(found.host, found.path)
        except MalformedRequest:
            return
        raise AssertionError("matched, and the reference refuses the path") from None
    matched = TABLE.match(found.host, found.path)
    ours = matched and (matched[0].name, matched[1])
    assert ours == expected, f"matched {ours}, the reference {expected}"
    if matched:
        # what is passed on means the same to whoever dispatches it next
        below = quote(matched.mount.script_name.encode("latin-1")) + matched.raw_path_info
        again = TABLE.match(found.host, below or "/")
        assert again is not None
        assert (again.mount, again.raw_path_info or "/") == (
            matched.mount,
            matched.raw_path_info or "/",
        )


def _find_mount(host: str, path: str) -> tuple[str, str] | None:
    if path == "*":
        return None
    segments = reference.resolve_path(path)
    for own_host in (host, ""):
        for key in sorted(KEYS, key=len, reverse=True):
            key_host, _, key_path = key.partition("/")
            prefix = key_path.split("/") if key_path else []
            rest = segments[len(prefix) :]
            if key_host == own_host and segments[: len(prefix)] == prefix:
                return key, "/" + "/".join(rest) if rest else ""
    return None


def _build_environ(found: RequestHead, trusts_peer: bool) -> None:
    environ: dict[str, Any] = build_environ(BASE, found, "10.0.0.1", "50000")
    added = {key for key in environ if key not in BASE}
    assert all(key.startswith(("HTTP_", "CONTENT_")) for key in added)
    assert not added & {"HTTP_FORWARDED", "HTTP_PROXY"}
    if trusts_peer:
        try:
            PROXIES.apply(found, environ)
        except MalformedRequest:
            return
    else:
        assert not added & {"HTTP_X_REAL_IP", "HTTP_X_REQUEST_ID"}
        assert not any(key.startswith("HTTP_X_FORWARDED_") for key in added)
        assert environ["REMOTE_ADDR"] == "10.0.0.1"
    for key, value in environ.items():
        if key.isupper():
            assert type(value) is str
            value.encode("latin-1")
            assert not set(value) & set("\r\n\0"), f"{key} has {value!r}"
    assert environ["wsgi.url_scheme"] in ("http", "https")
    _cross_hop(environ)


def _cross_hop(environ: dict[str, Any]) -> None:
    """A pool's worker finds what the front worker has found, but for the fields of one hop."""
    stated = POOL_PARSER.parse(PoolRequest(environ, RULES).head, True)
    assert stated.mount == "/"
    assert stated.content_length == int(environ.get("CONTENT_LENGTH", 0))
    for key, value in stated.fields.items():
        assert value == environ[key] or key == "HTTP_CONNECTION", key
    options = {name.strip(" \t").lower() for name in environ.get("HTTP_CONNECTION", "").split(",")}
    for key in environ.keys() - BASE.keys() - stated.fields.keys():
        name = key.removeprefix("HTTP_").replace("_", "-").lower()
        assert key in HOP_KEYS or name in options, f"{key} is lost"


def answer(data: bytes) -> None:
    """The head of an answer, to a HEAD where the first byte is odd."""
    method = "HEAD" if bool(data[:1]) and data[0] % 2 == 1 else "GET"
    raw = data[1:] + b"\r\n\r\n"
    raw = raw[: raw.index(b"\r\n\r\n") + 4]
    try:
        expected = reference.read_answer(raw, method)
    except reference.RefusedError:
        expected = None
    for _ in range(2):  # where there is something new, it may be remembered
        try:
            found = parse_response_head(raw, method)
        except InvalidResponseError:
            assert expected is None, f"refused, and the reference reads {expected}"
            continue
        assert expected is not None, "accepted, and the reference refuses it"
        for name in ResponseHead.__annotations__:
            ours, theirs = getattr(found, name), getattr(expected, name)
            assert ours == theirs, f"{name} is {ours!r}, for the reference {theirs!r}"


class _Pieces:
    """Gives ``raw`` in pieces whose sizes are those of ``sizes``, over and over."""

    def __init__(self, raw: bytes, sizes: bytes) -> None:
        self.raw = raw
        self._sizes = sizes
        self._turn = 0

    def receive(self, size: int) -> bytes:
        self._turn += 1
        size = min(size, self._sizes[self._turn % len(self._sizes)] + 1)
        piece, self.raw = self.raw[:size], self.raw[size:]
        return piece

    def receive_into(self, buffer: memoryview) -> int:
        piece = self.receive(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


def content(data: bytes) -> None:
    """Chunks of a request and of an answer, which come in pieces; the first four bytes say in
    which, and in which others the request's are read."""
    sizes, raw = data[:4].ljust(4, b"\xff"), data[4:]
    _read_request_content(sizes, raw)
    _read_answer_content(sizes, raw)


def _read_request_content(sizes: bytes, raw: bytes) -> None:
    expected = _expect_chunks(raw, MAX_CONTENT)
    source = _Pieces(raw, sizes[:3])
    chunked = ChunkedRequestContent(source, MAX_CONTENT, None)
    reader = io.BufferedReader(chunked, 1 + sizes[3])
    found = _read(reader, chunked, source)
    assert found == expected, f"read {found!r}, the reference {expected!r}"
    if found is reference.RefusedError:
        assert _read(reader, chunked, source) is reference.RefusedError
    assert chunked.is_complete == isinstance(found, tuple)


def _read_answer_content(sizes: bytes, raw: bytes) -> None:
    expected = _expect_chunks(raw, 1 << 64, allows_padding=True)
    source = _Pieces(raw, sizes)
    chunked = ChunkedAnswer()
    found: Any = b""
    try:
        while not chunked.is_complete and (piece := source.receive(len(raw))):
            found += chunked.take(piece)
    except InvalidResponseError:
        found = reference.RefusedError
    else:
        has_surplus = chunked.has_surplus or bool(source.raw)
        found = (found, has_surplus) if chunked.is_complete else reference.UnfinishedError
    if isinstance(expected, tuple):
        expected = expected[0], bool(expected[1])
    assert found == expected, f"answer is {found!r}, for the reference {expected!r}"


def _expect_chunks(raw: bytes, max_bytes: int, *, allows_padding: bool = False) -> Any:
    try:
        return reference.read_chunks(
            raw, max_bytes, MAX_CHUNK_LINE, MAX_TRAILER_BYTES, allows_padding=allows_padding
        )
    except (reference.RefusedError, reference.UnfinishedError) as error:
        return type(error)


def _read(reader: io.BufferedReader, chunked: ChunkedRequestContent, source: _Pieces) -> Any:
    data = b""
    try:
        while piece := reader.read1(1 + source._sizes[0]):
            data += piece
    except RequestError:
        return reference.RefusedError
    except ClientDisconnected:
        return reference.UnfinishedError
    assert chunked.received_bytes == len(data)
    return data, chunked.take_rest() + source.raw


TARGETS = {"head": head, "answer": answer, "content": content}
