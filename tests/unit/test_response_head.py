"""The head of a server's answer: what could be read in two ways is refused.

Among the heads that are refused are all that llhttp, which others read answers with, lets pass.
"""

import pytest

from gateway.protocol.fields import LONGEST_LINE, MAX_LINES
from gateway.protocol.framing import CHUNKED, UNTIL_CLOSE
from gateway.protocol.response import InvalidResponseError, ResponseLines, parse_response_head

OK = b"HTTP/1.1 200 OK"


def head(*lines: bytes) -> bytes:
    return b"".join(line + b"\r\n" for line in lines) + b"\r\n"


@pytest.mark.parametrize(
    "line",
    [
        *(b"HTTP/1.1 000 OK", b"HTTP/1.1 099 OK", b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK"),
        *(b"HTTP/1.1  200 OK", b"HTTP/1.1\t200 OK", b"HTTP/1.1 200\tOK", b" HTTP/1.1 200 OK"),
        *(b"HTTP/1.1 200 O\0K", b"HTTP/1.1 200 O\x01K", b"HTTP/1.1 200 O\x7fK"),
        *(b"HTTP/1.1 200 O\rK", b"HTTP/1.1 200 O\nK", b"HTTP/1.1 \xb2\xb9\xb2 OK", b"HTTP/1.1"),
        *(b"HTTP/0.9 200 OK", b"HTTP/1.2 200 OK", b"HTTP/2.0 200 OK", b"HTTP/1.10 200 OK"),
        *(b"http/1.1 200 OK", b"RTSP/1.0 200 OK", b"ICE/1.0 200 OK", b"ICY 200 OK"),
        *(b"\r\nHTTP/1.1 200 OK", b"\nHTTP/1.1 200 OK"),
    ],
)
def test_what_is_not_a_status_line_is_refused(line: bytes) -> None:
    with pytest.raises(InvalidResponseError, match="status line"):
        parse_response_head(head(line, b"Content-Length: 0"), "GET")


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"HTTP/1.1 200 OK", "200 OK"),
        (b"HTTP/1.1 404", "404"),
        (b"HTTP/1.1 404 ", "404 "),
        (b"HTTP/1.0 999 \tO\xe9", "999 \tO\xe9"),
    ],
)
def test_a_status_line_is_read(line: bytes, status: str) -> None:
    answer = parse_response_head(head(line, b"Content-Length: 0"), "GET")
    assert answer.status == status
    assert answer.code == int(status[:3])


@pytest.mark.parametrize(
    "line",
    [
        *(b"A", b"A b", b": b", b" A: b", b"\tA: b", b"A\0: b", b"\xe9: b", b'"A": b', b"A/B: c"),
        *(b"A B: c", b"A\x7f: b", b"A\nB: c", b"A\rB: c", b"A\x0b: b", b"A\xa0: b"),
        *(b"A: " + bytes([byte]) + b"b" for byte in [*range(0x20), 0x7F] if byte != 0x09),
        *(b"A: \rContent-Length: 5", b"A: b\nContent-Length: 5", b"A: b\r", b"A: b\n"),
        *(b"A: b\r\n folded", b"A:\r\n\tfolded"),
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_what_is_not_a_field_is_refused(line: bytes, is_first: bool) -> None:
    lines = [line, b"Content-Length: 0"]
    with pytest.raises(InvalidResponseError, match="invalid field line"):
        parse_response_head(head(OK, *(lines if is_first else lines[::-1])), "GET")


@pytest.mark.parametrize("line", [
    b"A:a\tb", b"A: a\tb", b"A:  \ta\tb\t ", b"A : a\tb", b"A \t: a\tb"
])  # fmt: skip
def test_a_field_is_passed_on_without_the_blanks_around_it(line: bytes) -> None:
    answer = parse_response_head(head(OK, line, b"B:", b"C: \xe9"), "GET")
    assert answer.fields == [("A", "a\tb"), ("B", ""), ("C", "\xe9")]


@pytest.mark.parametrize(
    "lines",
    [
        *(
            [b"Content-Length: " + value]
            for value in (
                *(b"", b" ", b"+4", b"-4", b"0x4", b"four", b"4 4", b"4,4", b"4, 4", b"4;"),
                *(b"4_0", b"4.0", b"4\xa0", b"\xb2", b"1" + b"0" * 18, b"0" * 18 + b"4"),
                *(b"18446744073709551615", b"18446744073709551616"),
            )
        ),
        [b"Content-Length: 4", b"Content-Length: 5"],
        [b"Content-Length: 4", b"Content-length: 4"],
        *(
            [b"Transfer-Encoding: " + value]
            for value in (
                *(b"", b"gzip", b"identity", b"xchunked", b"chunkedx", b"chunked;q=1"),
                *(b'"chunked"', b"chunked\xa0", b"gzip, chunked", b"chunked, gzip"),
                *(b"chunked, chunked", b", chunked", b"chunked,", b"chunked chunked"),
            )
        ),
        [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"],
        [b"Content-Length: 4", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: chunked", b"Content-Length: 0"],
        [b"Content-Length: 4", b"Transfer-Encoding: identity"],
    ],
)
@pytest.mark.parametrize("status", [b"200 OK", b"204 No Content"])
def test_a_length_that_could_be_read_in_two_ways_is_refused(
    lines: list[bytes], status: bytes
) -> None:
    with pytest.raises(InvalidResponseError, match=r"Content-Length|Transfer-Encoding"):
        parse_response_head(head(b"HTTP/1.1 " + status, *lines), "GET")


def test_chunks_in_http10_are_refused() -> None:
    with pytest.raises(InvalidResponseError, match="Transfer-Encoding"):
        parse_response_head(head(b"HTTP/1.0 200 OK", b"Transfer-Encoding: chunked"), "GET")


@pytest.mark.parametrize(
    ("lines", "length"),
    [
        ([], UNTIL_CLOSE),
        ([b"Content-Length: 4"], 4),
        ([b"content-length:0004\t "], 4),
        ([b"Content-Length: " + b"9" * 18], 10**18 - 1),
        ([b"Transfer-Encoding: chunked"], CHUNKED),
        ([b"transfer-encoding:\tCHUNKED \t"], CHUNKED),
    ],
)
def test_a_length_is_read(lines: list[bytes], length: int) -> None:
    answer = parse_response_head(head(OK, *lines), "GET")
    assert answer.length == length
    assert answer.persistent == (length != UNTIL_CLOSE)
    assert parse_response_head(head(OK, *lines), "HEAD").length == 0
    for status in (b"204 No Content", b"304 Not Modified"):
        assert parse_response_head(head(b"HTTP/1.1 " + status, *lines), "GET").length == 0


@pytest.mark.parametrize(
    ("version", "lines", "persistent"),
    [
        (b"1.1", [], True),
        (b"1.0", [], False),
        (b"1.0", [b"Connection: Keep-Alive"], True),
        (b"1.1", [b"Connection: Close"], False),
        (b"1.1", [b"Connection: x,\tclose ,y"], False),
        (b"1.1", [b"Connection: x", b"Connection: close"], False),
        (b"1.1", [b"Connection: keep-alive, close"], False),
        (b"1.0", [b"Connection: keep-alive, close"], False),
        (b"1.1", [b"Connection: notclose"], True),
    ],
)
def test_a_connection_is_kept_where_both_sides_agree(
    version: bytes, lines: list[bytes], persistent: bool
) -> None:
    first = b"HTTP/" + version + b" 200 OK"
    assert (
        parse_response_head(head(first, b"Content-Length: 4", *lines), "GET").persistent
        == persistent
    )


def test_fields_of_the_connection_are_not_passed_on() -> None:
    lines = (b"Connection: x-a, Keep-Alive", b"X-A: 1", b"Keep-Alive: 5", b"X-B: 2", b"TE: a")
    answer = parse_response_head(head(OK, *lines, b"Content-Length: 4"), "GET")
    assert answer.fields == [("X-B", "2"), ("Content-Length", "4")]


@pytest.mark.parametrize("connection", [b"close", b"keep-alive"])
def test_a_field_named_close_is_not_passed_on(connection: bytes) -> None:
    lines = (b"Close: 1", b"X-Close: 2", b"Content-Length: 4", b"Connection: " + connection)
    answer = parse_response_head(head(OK, *lines), "GET")
    assert answer.fields == [("X-Close", "2"), ("Content-Length", "4")]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"HTTP/2 200", r"not a status line: 'HTTP/2 200'"),
        (b"A b", r"invalid field line: .*'A b'"),
        (b"A: \0", r"invalid field line: .*control characters.*: 'A: \\x00'"),
        (b"Content-Length: four", "Content-Length.*'four'"),
        (b"Transfer-Encoding: gzip", "Transfer-Encoding.*'gzip'"),
    ],
)
def test_the_log_shows_the_text_that_is_refused(line: bytes, shown: str) -> None:
    with pytest.raises(InvalidResponseError, match=shown):
        parse_response_head(head(line) if line.startswith(b"HTTP") else head(OK, line), "GET")


# --- what is remembered -----------------------------------------------------------------------


def test_lines_that_are_known_are_read_as_when_they_were_new() -> None:
    lines = (b"Content-Length: 4", b"Vary: Cookie", b"Connection: x-a", b"X-A: 1", b"X-B : 2")
    for _ in range(2):
        for version, persistent in ((b"1.1", True), (b"1.0", False)):
            raw = head(b"HTTP/" + version + b" 200 OK", *lines)
            answer = parse_response_head(raw, "GET")
            assert answer.fields == [("Content-Length", "4"), ("Vary", "Cookie"), ("X-B", "2")]
            assert (answer.length, answer.persistent) == (4, persistent)
            answer.fields.clear()  # is nobody else's
            assert parse_response_head(raw, "HEAD").length == 0
        with pytest.raises(InvalidResponseError, match="Content-Length"):
            parse_response_head(head(OK, *lines, lines[0]), "GET")


def test_cookies_of_answers_are_not_kept() -> None:
    lines = ResponseLines(MAX_LINES, LONGEST_LINE)
    for line in ("Set-Cookie: a=b", "SET-COOKIE: a=b", "set-cookie : a=b", "Vary: Cookie"):
        assert lines[line] == (tuple(map(str.strip, line.split(":"))), "")
    assert set(lines) == {"Vary: Cookie"}


def test_lines_of_answers_do_not_pile_up() -> None:
    lines = ResponseLines(MAX_LINES, LONGEST_LINE)
    for number in range(2 * MAX_LINES):
        for value in (f"{number}", "a" * (number % 400)):
            assert lines[f"X: {value}"] == (("X", value), "")
    assert len(lines) <= MAX_LINES
    assert max(map(len, lines)) <= LONGEST_LINE
