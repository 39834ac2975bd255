"""Chunks mean the same in requests and in answers, save for the blanks that some servers write."""

import pytest
from raw_requests import Invalid, Valid, load_invalid, load_valid

from gateway.errors import MalformedMessage
from gateway.protocol.chunks import MAX_CHUNK_LINE, ChunkDecoder
from gateway.protocol.response import InvalidResponseError
from gateway.upstream.content import ChunkedResponseContent

VALID = {
    name: case
    for name, case in load_valid().items()
    if len(case.request) == 1 and "HTTP_TRANSFER_ENCODING" in case.request[0].fields
}
INVALID = {
    name: case
    for name, case in load_invalid().items()
    if case.at == "content" and case.status in (400, 431) and name != "chunk-size-trailing-blank"
}
PIECES = pytest.mark.parametrize("size", [1, 3, 1 << 20])


def chunks_of(case: Valid | Invalid) -> bytes:
    """What follows the first head."""
    return case.raw.partition(b"\r\n\r\n")[2]


def read(raw: bytes, size: int) -> bytes:
    """The content of an answer that comes in pieces of ``size`` bytes."""
    content, answer = b"", ChunkedResponseContent()
    for start in range(0, len(raw), size):
        assert not answer.is_complete
        content += answer.take(raw[start : start + size])
    assert answer.is_complete
    assert not answer.has_surplus
    return content


@PIECES
@pytest.mark.parametrize("name", INVALID)
def test_what_is_refused_in_requests_is_refused_in_answers(name: str, size: int) -> None:
    case = INVALID[name]
    with pytest.raises(InvalidResponseError) as refusal:
        read(chunks_of(case), size)
    assert case.reason.lower() in str(refusal.value).lower()


@PIECES
@pytest.mark.parametrize("name", VALID)
def test_what_is_read_in_requests_is_read_in_answers(name: str, size: int) -> None:
    case = VALID[name]
    assert read(chunks_of(case), size) == case.request[0].content.encode()


@PIECES
@pytest.mark.parametrize("padding", [b" ", b"   ", b"\t", b" \t "])
def test_blanks_behind_a_size_are_read_in_answers_alone(padding: bytes, size: int) -> None:
    raw = b"5%b\r\nhello\r\n0%b\r\n\r\n" % (padding, padding)
    assert read(raw, size) == b"hello"
    decoder = ChunkDecoder()
    decoder.feed(raw)
    with pytest.raises(MalformedMessage, match="hexadecimal"):
        decoder.take(5)


@pytest.mark.parametrize("padding", [b"\x0b", b"\x0c", b"\xa0", b"\0", b" x", b"\r", b" \n"])
def test_nothing_but_blanks_is_padding(padding: bytes) -> None:
    with pytest.raises(InvalidResponseError):
        read(b"5%b\r\nhello\r\n0\r\n\r\n" % padding, 1)


@PIECES
def test_padding_counts_as_a_part_of_the_line(size: int) -> None:
    longest = b"5".ljust(MAX_CHUNK_LINE)
    rest = b"\r\nhello\r\n0\r\n\r\n"
    assert read(longest + rest, size) == b"hello"
    with pytest.raises(InvalidResponseError, match="more than 256 bytes"):
        read(longest + b" " + rest, size)


def test_the_log_shows_the_line_that_is_refused() -> None:
    with pytest.raises(InvalidResponseError, match="hexadecimal number: b'five"):
        read(b"five\r\nhello\r\n0\r\n\r\n", 1 << 20)


@pytest.mark.parametrize("behind", [b"", b"H", b"\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
@pytest.mark.parametrize("trailers", [b"", b"A: b\r\n"])
def test_what_comes_together_with_the_end_is_surplus(behind: bytes, trailers: bytes) -> None:
    answer = ChunkedResponseContent()
    assert answer.take(b"5\r\nhello\r\n0\r\n" + trailers) == b"hello"
    assert not answer.is_complete
    assert answer.take(b"\r\n" + behind) == b""
    assert answer.is_complete
    assert answer.has_surplus == bool(behind)


def test_the_rest_of_a_large_chunk_is_not_copied() -> None:
    answer = ChunkedResponseContent()
    assert answer.take(b"fffff\r\n") == b""
    piece = bytes(1000)
    assert answer.take(piece) is piece
