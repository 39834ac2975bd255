"""``wsgi.input``: each byte of the content once, and nothing of what is behind it."""

import io
import random

import pytest

from gateway.errors import (
    ClientDisconnected,
    ContentTooLarge,
    HeaderFieldsTooLarge,
    MalformedRequest,
    RequestError,
    RequestTimeout,
)
from gateway.http.body import ChunkedRequestContent, RequestContent, RequestContentOfLength
from gateway.protocol.chunks import MAX_CHUNK_LINE, MAX_TRAILER_BYTES

BEHIND = b"GET /next HTTP/1.1\r\n"
MIB = 1024 * 1024


class Source:
    """Gives ``raw`` in pieces of at most ``piece_size`` bytes, then the end, or raises ``then``."""

    def __init__(
        self, raw: bytes, piece_size: int = 1 << 20, then: Exception | None = None
    ) -> None:
        self.raw = raw
        self.piece_size = piece_size
        self.then = then
        self.reads = 0

    def receive(self, size: int) -> bytes:
        assert size > 0
        self.reads += 1
        if not self.raw and self.then is not None:
            raise self.then
        size = min(size, self.piece_size)
        piece, self.raw = self.raw[:size], self.raw[size:]
        return piece

    def receive_into(self, buffer: memoryview) -> int:
        piece = self.receive(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


def open_chunked(
    raw: bytes, piece_size: int = 1 << 20, max_bytes: int = MIB
) -> ChunkedRequestContent:
    return ChunkedRequestContent(Source(raw, piece_size), max_bytes, None)


def read(content: RequestContent) -> bytes:
    return io.BufferedReader(content).read()


@pytest.mark.parametrize("piece_size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("read_size", [1, 2, 3, 7, 1000])
def test_chunks_are_read_in_any_pieces(piece_size: int, read_size: int) -> None:
    generator = random.Random(f"{piece_size} {read_size}")
    chunks = [generator.randbytes(generator.choice([1, 2, 10, 300])) for _ in range(10)]
    content = open_chunked(chunked(*chunks) + BEHIND, piece_size)
    reader = io.BufferedReader(content, 16)
    data = b""
    while piece := reader.read(read_size):
        data += piece
    assert data == b"".join(chunks)
    assert content.is_complete
    assert content.received_bytes == len(data)
    assert content.take_rest() + content._source.raw == BEHIND


@pytest.mark.parametrize("make", [
    lambda raw: RequestContentOfLength(Source(raw + BEHIND, 3), len(raw), None),
    lambda raw: open_chunked(chunked(raw[:5], raw[5:]) + BEHIND, 3),
])  # fmt: skip
def test_lines_are_read_as_pep_3333_says(make: object) -> None:
    raw = b"one\n\ntwo\nthree"
    assert io.BufferedReader(make(raw)).readlines() == [b"one\n", b"\n", b"two\n", b"three"]
    assert list(io.BufferedReader(make(raw))) == [b"one\n", b"\n", b"two\n", b"three"]
    assert io.BufferedReader(make(raw)).readlines(4) == [b"one\n", b"\n"]
    reader = io.BufferedReader(make(raw))
    assert [reader.readline(2), reader.readline(), reader.readline(-1)] == [b"on", b"e\n", b"\n"]
    assert reader.read() == b"two\nthree"
    assert reader.read() == reader.read(5) == reader.readline() == b""


def test_content_of_a_length_ends_there() -> None:
    source = Source(b"hello" + BEHIND)
    content = RequestContentOfLength(source, 5, None)
    assert read(content) == b"hello"
    assert content.is_complete
    assert source.raw == BEHIND


def test_an_end_before_the_length_is_an_error() -> None:
    content = RequestContentOfLength(Source(b"hell"), 5, None)
    with pytest.raises(ClientDisconnected):
        read(content)
    assert not content.is_complete


@pytest.mark.parametrize("cut", range(1, len(chunked(b"hello", b"world"))))
def test_an_end_before_the_last_chunk_is_an_error(cut: int) -> None:
    content = open_chunked(chunked(b"hello", b"world")[:cut])
    with pytest.raises(ClientDisconnected):
        read(content)
    assert not content.is_complete


def test_what_has_come_of_a_chunk_is_given_before_the_rest_is_waited_for() -> None:
    source = Source(b"5\r\nhello")
    content = ChunkedRequestContent(source, MIB, None)
    buffer = bytearray(100)
    assert content.readinto(memoryview(buffer)) == 5
    assert source.reads == 1
    assert buffer[:5] == b"hello"


@pytest.mark.parametrize("left", [1, 100, 300, 301])
def test_a_chunk_that_fills_the_buffer_is_received_into_it(left: int) -> None:
    data = bytes(range(256)) * 2
    source = Source(b"%x\r\n" % (100 + left) + data[:100], then=RequestTimeout("no more"))
    content = ChunkedRequestContent(source, MIB, None)
    got, view = b"", memoryview(bytearray(300))
    got += view[: content.readinto(view)]
    source.raw = data[100 : 100 + left] + b"\r\n0\r\n\r\n" + BEHIND
    asked: list[int] = []
    receive_into = source.receive_into
    source.receive_into = lambda buffer: asked.append(len(buffer)) or receive_into(buffer)
    while size := content.readinto(view):
        got += view[:size]
        assert content.received_bytes == len(got)
    assert got == data[: 100 + left]
    assert asked == ([300] if left >= 300 else [])
    assert content.take_rest() + source.raw == BEHIND


@pytest.mark.parametrize("make", [
    lambda: RequestContentOfLength(Source(b"hello" + BEHIND), 5, None),
    lambda: open_chunked(chunked(b"hello") + BEHIND),
])  # fmt: skip
def test_an_empty_buffer_takes_nothing(make: object) -> None:
    content = make()
    for _ in range(2):
        assert content.readinto(memoryview(bytearray())) == 0
    assert read(content) == b"hello"


def test_the_client_is_told_to_send_at_the_first_read_alone() -> None:
    told: list[int] = []
    content = RequestContentOfLength(Source(b"hello"), 5, lambda: told.append(1))
    reader = io.BufferedReader(content)
    assert not content.is_worth_draining
    assert not told
    assert reader.read(2) == b"he"
    assert reader.read() == b"llo"
    assert told == [1]
    assert content.is_worth_draining


# --- bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece_size", [1, 1000])
@pytest.mark.parametrize("chunks", [[b"hello", b"worl"], [b"hellowor", b"l"], [b"a"] * 9])
def test_content_within_its_bound_is_read_and_one_byte_more_is_not(
    piece_size: int, chunks: list[bytes]
) -> None:
    assert len(read(open_chunked(chunked(*chunks), piece_size, max_bytes=9))) == 9
    with pytest.raises(ContentTooLarge):
        read(open_chunked(chunked(*chunks), piece_size, max_bytes=8))


def test_a_chunk_too_large_is_refused_before_it_is_read() -> None:
    content = open_chunked(b"ffffffffffffffff\r\n")
    with pytest.raises(ContentTooLarge):
        read(content)


@pytest.mark.parametrize("piece_size", [1, 2, 1000])
def test_a_chunk_line_has_a_longest(piece_size: int) -> None:
    longest = b"5;".ljust(MAX_CHUNK_LINE, b"a")
    rest = b"\r\nhello\r\n0\r\n\r\n"
    assert read(open_chunked(longest + rest, piece_size)) == b"hello"
    with pytest.raises(MalformedRequest):
        read(open_chunked(longest + b"a" + rest, piece_size))


@pytest.mark.parametrize("piece_size", [1, 2, 1000])
def test_a_chunk_line_without_end_is_not_waited_for(piece_size: int) -> None:
    source = Source(b"5;" + b"a" * 5000, piece_size)
    with pytest.raises(MalformedRequest):
        read(ChunkedRequestContent(source, MIB, None))
    assert len(source.raw) >= 5000 - 1000 - MAX_CHUNK_LINE


@pytest.mark.parametrize("piece_size", [1, 7, 1000, 100_000])
@pytest.mark.parametrize("lines", [1, 2, 100])
def test_trailers_have_a_bound(piece_size: int, lines: int) -> None:
    size = MAX_TRAILER_BYTES // lines
    trailers = (b"A:".ljust(size, b"x") + b"\r\n") * lines
    fine = open_chunked(b"0\r\n" + trailers + b"\r\n" + BEHIND, piece_size)
    assert read(fine) == b""
    assert fine.take_rest() + fine._source.raw == BEHIND
    with pytest.raises(HeaderFieldsTooLarge):
        read(
            open_chunked(
                b"0\r\n" + trailers + b"A:".ljust(lines, b"x") * 2 + b"\r\n\r\n", piece_size
            )
        )


def test_many_small_chunks_in_one_piece_take_linear_time() -> None:
    source = Source(b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n", 1 << 20)
    content = ChunkedRequestContent(source, MIB, None)
    sizes: set[int] = set()
    buffer = memoryview(bytearray(100))
    while content.readinto(buffer):
        sizes.add(len(content._chunks._received))  # what is behind a chunk is not copied for each
    assert len(sizes) == 1


# --- what was refused stays refused ---------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"zz\r\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"ffffffff\r\n0\r\n\r\n",
        b"0\r\nno field\r\n\r\n",
        b"0\r\nA: " + b"a" * MAX_TRAILER_BYTES + b"\r\n0\r\n\r\n",
        b"5;" + b"a" * MAX_CHUNK_LINE + b"\r\n0\r\n\r\n",
    ],
)
@pytest.mark.parametrize("piece_size", [1, 1000])
def test_an_app_that_reads_on_gets_the_same_error_again(raw: bytes, piece_size: int) -> None:
    content = open_chunked(raw + chunked(b"forged"), piece_size)
    reader = io.BufferedReader(content)
    with pytest.raises(RequestError) as first:
        reader.read()
    for _ in range(3):
        with pytest.raises(type(first.value), match=str(first.value)):
            reader.read()
    assert not content.is_complete


def test_a_timeout_stays_one() -> None:
    source = Source(b"5\r\nhel", then=RequestTimeout("no content came in time"))
    reader = io.BufferedReader(ChunkedRequestContent(source, MIB, None))
    with pytest.raises(RequestTimeout):
        reader.read()
    source.raw = b"lo\r\n0\r\n\r\n"
    with pytest.raises(RequestTimeout):
        reader.read()
