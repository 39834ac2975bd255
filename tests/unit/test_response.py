"""What goes to the socket, in which calls, and files that go there by themselves."""

import gzip
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import answers
import pytest
from harness import GET, Cut

from gateway.errors import AppError
from gateway.http import response_head as app_head
from gateway.http.response import COPY_BYTES, Response
from gateway.http.states import State
from gateway.protocol.error_page import build_error_page
from gateway.protocol.request import RequestHead
from gateway.wsgi import FileWrapper

DATE_LINE = "Date: Tue, 15 Nov 1994 08:12:31 GMT\r\n\r\n"


class Wire:
    """Where a response goes: keeps each call's bytes, and what was sent as a file."""

    def __init__(self) -> None:
        self.calls: list[bytes] = []
        self.files: list[tuple[int, int]] = []

    def send(self, data: bytes, /) -> None:
        self.calls.append(data)

    send_part = send

    def send_pieces(self, pieces: list[bytes], /) -> None:
        self.calls.append(b"".join(pieces))

    def send_file(self, head: bytes, descriptor: int, offset: int, size: int, /) -> None:
        self.files.append((offset, size))
        self.calls.append(head + os.pread(descriptor, size, offset))


def begin(wire: Wire, *, method: str = "GET", http11: bool = True) -> Response:
    head = RequestHead()
    head.method = method
    head.is_http11 = http11
    return Response(wire, head, True, DATE_LINE)


@pytest.fixture
def wire() -> Wire:
    return Wire()


def head_and_content(data: bytes) -> tuple[list[bytes], bytes]:
    head, _, content = data.partition(b"\r\n\r\n")
    return head.split(b"\r\n"), content


# --- one call where one is enough -------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, COPY_BYTES, COPY_BYTES + 1])
def test_head_and_only_piece_are_one_call(wire: Wire, size: int) -> None:
    response = begin(wire)
    response.start_response("200 OK", [("X", "y")])
    response.send_result([b"x" * size])
    [sent] = wire.calls
    lines, content = head_and_content(sent)
    assert lines == [
        b"HTTP/1.1 200 OK",
        b"X: y",
        b"Content-Length: %d" % size,
        DATE_LINE.strip().encode(),
    ]
    assert content == b"x" * size
    assert response.is_complete
    assert response.persistent


def test_head_and_first_chunk_are_one_call(wire: Wire) -> None:
    response = begin(wire)
    response.start_response("200 OK", [])
    response.send_result(iter([b"first", b"second"]))
    assert len(wire.calls) == 3
    assert wire.calls[0].endswith(b"\r\n\r\n5\r\nfirst\r\n")
    assert wire.calls[1:] == [b"6\r\nsecond\r\n", b"0\r\n\r\n"]
    assert response.is_complete


def test_nothing_goes_out_before_the_first_byte_of_content(wire: Wire) -> None:
    response = begin(wire)
    write = response.start_response("200 OK", [])
    write(b"")
    assert wire.calls == []
    response.start_response("404 Not Found", [], (ValueError, ValueError("better known"), None))
    write(b"content")
    assert wire.calls[0].startswith(b"HTTP/1.1 404 Not Found\r\n")


def test_an_answer_can_be_begun_anew_until_its_head_goes_out(wire: Wire) -> None:
    response = begin(wire)
    response.start_response("200 OK", [("Content-Length", "5"), ("Date", "x")])
    response.restart()
    response.start_response("500 Internal Server Error", [])
    response.send_result([b"longer than that"])
    [sent] = wire.calls
    lines, content = head_and_content(sent)
    assert b"Content-Length: 16" in lines
    assert DATE_LINE.strip().encode() in lines
    assert content == b"longer than that"


def test_what_cannot_be_sent_leaves_no_trace(wire: Wire) -> None:
    response = begin(wire)
    with pytest.raises(AppError, match="latin-1"):
        response.start_response("200 OK", [("X", "\u20ac")])
    assert wire.calls == []
    assert not response.head_sent


REFUSED = [("X", "a\nb")], [("Content-Length", "5"), ("X", 5)], [("Date", "x"), None]


@pytest.mark.parametrize("headers", REFUSED)
def test_an_app_that_ignores_a_refusal_has_not_begun(wire: Wire, headers: Any) -> None:
    response = begin(wire)
    with pytest.raises(AppError):
        response.start_response("200 OK", headers)
    with pytest.raises(AppError, match="without calling start_response"):
        response.send_result([b"content"])
    assert wire.calls == []


@pytest.mark.parametrize("headers", REFUSED)
def test_an_app_may_mend_what_was_refused(wire: Wire, headers: Any) -> None:
    response = begin(wire)
    with pytest.raises(AppError):
        response.start_response("204 No Content", headers)
    response.start_response("200 OK", [("Content-Length", "7")])
    response.send_result([b"content"])
    lines, content = head_and_content(wire.calls[0])
    assert lines == [b"HTTP/1.1 200 OK", b"Content-Length: 7", DATE_LINE.strip().encode()]
    assert content == b"content"


class Text(str):
    """As frameworks have them: marked as safe, or lazily translated."""


def test_text_of_another_class_is_text(wire: Wire) -> None:
    response = begin(wire)
    headers = [(Text("Content-Length"), Text("7")), (Text("X"), Text("y")), (Text("Date"), "z")]
    response.start_response(Text("200 OK"), headers)  # type: ignore[arg-type]
    response.send_result(iter([b"con", b"tent"]))
    lines, content = head_and_content(b"".join(wire.calls))
    assert sorted(lines) == [b"Content-Length: 7", b"Date: z", b"HTTP/1.1 200 OK", b"X: y"]
    assert content == b"content"


class Named(str):
    """Formats itself as something else, as enums with texts do."""

    def __format__(self, spec: str) -> str:
        return "named\r\nX-Evil: 1"


def test_text_that_formats_itself_otherwise_is_sent_as_checked(wire: Wire) -> None:
    for kind in (Named, str):  # equals share a cache
        field = kind("X-Named"), kind("application/named")
        begin(wire).start_response(kind("200 OK"), [field])
        begin(wire).start_response("404 Not Found", [field])  # another head, same field
        response = begin(wire)
        response.start_response(kind("200 OK"), [field, ("Date", "z")])
        response.send_result([b""])
        lines, _ = head_and_content(wire.calls.pop())
        expected = [b"Content-Length: 0", b"Date: z", b"HTTP/1.1 200 OK"]
        assert sorted(lines) == [*expected, b"X-Named: application/named"]


@pytest.mark.parametrize("length", ["0", "1", "100"])
def test_head_keeps_the_app_s_length(wire: Wire, length: str) -> None:
    response = begin(wire, method="HEAD")
    response.start_response("200 OK", [("Content-Length", length)])
    response.send_result([])
    [sent] = wire.calls
    assert f"Content-Length: {length}\r\n".encode() in sent
    assert response.is_complete
    assert response.persistent


def test_a_204_loses_the_app_s_length(wire: Wire) -> None:
    response = begin(wire)
    response.start_response("204 No Content", [("A", "b"), ("CONTENT-length", "0"), ("C", "d")])
    response.send_result([])
    lines, _ = head_and_content(wire.calls[0])
    assert lines[:3] == [b"HTTP/1.1 204 No Content", b"A: b", b"C: d"]


@pytest.mark.parametrize("result", [[b"12345"], (b"12345",), [], iter([]), [b""]])
def test_a_whole_answer_short_of_its_length_is_refused_before_it_goes_out(
    wire: Wire, result: Any
) -> None:
    response = begin(wire)
    response.start_response("200 OK", [("Content-Length", "10")])
    with pytest.raises(AppError, match="Content-Length says 10"):
        response.send_result(result)
    assert wire.calls == []


@pytest.mark.parametrize("result", [[b"12345"], iter([b"12345"])])
def test_a_write_behind_the_end_raises(wire: Wire, result: Any) -> None:
    response = begin(wire)
    write = response.start_response("200 OK", [])
    response.send_result(result)
    sent = list(wire.calls)
    with pytest.raises(AppError):
        write(b"more")
    assert wire.calls == sent


def test_the_error_page_shows_what_it_is_given_as_text() -> None:
    page = build_error_page("400 Bad <b>", 'a & "b"', "<id>").decode()
    assert "Bad &lt;b&gt;" in page
    assert "a &amp; &quot;b&quot;" in page
    assert "Request &lt;id&gt;" in page
    assert "Request" not in build_error_page("404 Not Found", "Nothing.", "").decode()


def test_the_error_page_shows_a_traceback_as_text_where_there_is_one() -> None:
    page = build_error_page("500 No", "", "", "<b> of \udc80").decode()
    assert ">&lt;b&gt; of \\udc80</pre>" in page
    assert "<pre" not in build_error_page("500 No", "", "").decode()


# --- wsgi.file_wrapper ------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 400


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


def send_file(wire: Wire, file: Any, *headers: tuple[str, str], **options: Any) -> Response:
    response = begin(wire, **options)
    response.start_response("200 OK", list(headers))
    response.send_result(FileWrapper(file))
    file.close()
    return response


@pytest.mark.parametrize("buffering", [0, -1])
@pytest.mark.parametrize("offset", [0, 1, 8192, len(CONTENT) - 1])
def test_a_file_is_sent_by_the_kernel_from_its_position(
    wire: Wire, path: Path, buffering: int, offset: int
) -> None:
    file = path.open("rb", buffering=buffering)
    file.read(offset)
    response = send_file(wire, file)
    assert wire.files == [(offset, len(CONTENT) - offset)]
    lines, content = head_and_content(wire.calls[0])
    assert b"Content-Length: %d" % (len(CONTENT) - offset) in lines
    assert content == CONTENT[offset:]
    assert response.is_complete


def test_a_part_of_a_file_ends_where_its_length_says(wire: Wire, path: Path) -> None:
    file = path.open("rb")
    file.seek(1000)
    response = send_file(wire, file, ("Content-Length", "50"))
    assert wire.files == [(1000, 50)]
    assert head_and_content(wire.calls[0])[1] == CONTENT[1000:1050]
    assert response.is_complete


def test_a_named_temporary_file_is_sent_by_the_kernel(wire: Wire) -> None:
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115
    file.write(CONTENT)
    file.seek(10)
    send_file(wire, file)
    assert wire.files == [(10, len(CONTENT) - 10)]


def test_a_file_shorter_than_its_length_is_refused_before_it_goes_out(
    wire: Wire, path: Path
) -> None:
    with path.open("rb") as file, pytest.raises(AppError, match="Content-Length says"):
        send_file(wire, file, ("Content-Length", str(len(CONTENT) + 1)))
    assert wire.calls == []


@pytest.mark.parametrize(("method", "status"), [("HEAD", "200 OK"), ("GET", "304 Not Modified")])
def test_a_file_is_not_sent_where_no_content_goes(
    wire: Wire, path: Path, method: str, status: str
) -> None:
    response = begin(wire, method=method)
    response.start_response(status, [])
    with path.open("rb") as file:
        response.send_result(FileWrapper(file))
    assert wire.files == []
    assert (b"Content-Length: %d\r\n" % len(CONTENT) in wire.calls[0]) is (method == "HEAD")
    assert head_and_content(wire.calls[0])[1] == b""


def test_a_file_behind_a_write_is_read(wire: Wire, path: Path) -> None:
    response = begin(wire, http11=False)
    response.start_response("200 OK", [])(b"before ")
    with path.open("rb") as file:
        response.send_result(FileWrapper(file))
    assert wire.files == []
    assert head_and_content(b"".join(wire.calls))[1] == b"before " + CONTENT


class Shouting(io.BytesIO):
    """A file whose descriptor, if it had one, would hold other bytes than read() gives."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size).upper()


def open_pipe(content: bytes) -> Any:
    ours, theirs = os.pipe()
    os.write(theirs, content)
    os.close(theirs)
    return open(ours, "rb")


def open_gzip(content: bytes) -> Any:
    file = tempfile.TemporaryFile()  # noqa: SIM115
    with gzip.GzipFile(fileobj=file, mode="wb") as packed:
        packed.write(content)
    file.seek(0)
    unpacked = gzip.GzipFile(fileobj=file, mode="rb")
    unpacked.myfileobj = file  # closed with it
    return unpacked


def open_buffered_gzip(content: bytes) -> Any:
    return io.BufferedReader(open_gzip(content))


@pytest.mark.parametrize(
    "open_file", [io.BytesIO, Shouting, open_pipe, open_gzip, open_buffered_gzip]
)
def test_what_is_no_plain_file_is_read(wire: Wire, open_file: Any) -> None:
    file = open_file(b"Content " * 1000)
    response = begin(wire, http11=False)
    response.start_response("200 OK", [])
    response.send_result(FileWrapper(file))
    file.close()
    assert wire.files == []
    expected = b"Content " * 1000
    content = head_and_content(b"".join(wire.calls))[1]
    assert content == (expected.upper() if open_file is Shouting else expected)


def test_an_empty_file_is_length_0(wire: Wire, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    send_file(wire, (tmp_path / "empty").open("rb"))
    assert b"Content-Length: 0\r\n" in wire.calls[0]


def test_the_wrapper_gives_blocks_to_who_looks_inside() -> None:
    class Closing(io.BytesIO):
        has_closed = False

        def close(self) -> None:
            self.has_closed = True
            super().close()

    file = Closing(b"1234567")
    wrapper = FileWrapper(file, 3)
    assert list(wrapper) == [b"123", b"456", b"7"]
    wrapper.close()
    assert file.has_closed
    FileWrapper(iter(()), 3).close()  # type: ignore[arg-type]  # PEP 3333: close() if it has one


# --- files through the whole engine -----------------------------------------------------------


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Any]:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(1_500_000))
    with path.open("rb") as file:
        yield file


@pytest.mark.parametrize("request_head", [GET, b"GET / HTTP/1.0\r\n\r\n"])
def test_a_large_file_arrives_whole_and_is_closed(
    serve: Any, large: Any, request_head: bytes
) -> None:
    content = large.read()
    large.seek(7)
    client = serve(answers.Files(large)).connect(buffer_bytes=4096)
    answer = client.ask(request_head)
    assert answer.framing == "length"
    assert answer.content == content[7:]
    assert large.closed


def test_a_file_that_is_cut_while_it_is_sent_cuts_the_answer(
    serve: Any, large: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = serve(answers.Files(large))
    client = gateway.connect(buffer_bytes=4096)
    client.send(GET)
    assert gateway.connection.state is State.WRITING
    os.truncate(large.name, 500_000)
    with pytest.raises(Cut) as cut:
        client.read_answer()
    assert 0 < len(cut.value.content) <= 500_000
    assert large.closed
    assert "became shorter" in caplog.text


def test_a_client_that_leaves_a_file_closes_it(serve: Any, large: Any) -> None:
    gateway = serve(answers.Files(large))
    client = gateway.connect(buffer_bytes=4096)
    client.send(GET)
    client.close()
    [record] = gateway.records
    assert large.closed
    assert record["error"].startswith("the client left")


def test_heads_with_cookies_are_not_remembered(wire: Wire) -> None:
    for name in ("Set-Cookie", "set-cookie"):
        begin(wire).start_response("200 OK", [(name, "session=somebody")])
        begin(wire).start_response("200 OK", [("X-Kept", "somebody else")])
    remembered = repr(app_head.known_heads) + repr(app_head.known_lines)
    assert "session=somebody" not in remembered
    assert "somebody else" in remembered
