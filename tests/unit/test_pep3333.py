"""PEP 3333 as an app sees it, through the whole engine."""

import gc
import logging
import sys
from typing import Any
from wsgiref.validate import validator

import answers
import breakers
import failures
import gevent
import pytest
import readers
from greenlet import GreenletExit
from harness import GET, Answer, Client, Cut, Gateway

from gateway.errors import AppError
from gateway.limits import MountLimits

GET_10 = b"GET / HTTP/1.0\r\n\r\n"
GET_10_KEPT = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
HEAD = GET.replace(b"GET", b"HEAD")

GOOD = [
    answers.one_piece,
    answers.one_piece_tuple,
    answers.one_piece_of_own_class,
    answers.pieces,
    answers.empty_pieces,
    answers.generator,
    answers.late_start,
    answers.write,
    answers.write_then_pieces,
    answers.with_length,
    answers.write_with_length,
    answers.restarted,
]
OF_ONE_PIECE = [
    answers.one_piece,
    answers.one_piece_tuple,
    answers.one_piece_of_own_class,
    answers.restarted,
]
OF_OWN_LENGTH = [answers.with_length, answers.write_with_length]
EMPTY = [answers.nothing, answers.nothing_from_a_generator]
BODILESS = [answers.no_content, answers.not_modified]
ALL = GOOD + EMPTY + BODILESS


def post(content: bytes, *, size: int | None = None) -> bytes:
    length = len(content) if size is None else size
    return b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (length, content)


def post_chunked(*chunks: bytes) -> bytes:
    framed = b"".join(b"%X\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    return b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + framed


def faults(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "gateway.error"]


def expect_clean_500(gateway: Gateway, answer: Answer, caplog: pytest.LogCaptureFixture) -> None:
    """Page, header, access record and fault log all name the request; the log has the cause."""
    assert answer.status == 500
    [record] = gateway.records
    [fault] = faults(caplog)
    request_id = record["request_id"]
    assert request_id
    assert answer["x-request-id"] == request_id
    assert request_id.encode() in answer.content
    assert fault.request_id == request_id  # type: ignore[attr-defined]
    assert fault.mount == "/"  # type: ignore[attr-defined]
    assert fault.exc_info is not None
    assert record["status"] == 500
    assert record["error"]


def expect_usable(client: Client) -> None:
    """The connection is still in step: another request on it gets its own answer."""
    client.expect_open()
    assert client.ask(GET).status in (200, 204, 304, 500)


# --- well-behaved apps ------------------------------------------------------------------------


@pytest.mark.parametrize("app", GOOD)
def test_what_the_app_gives_arrives_whole(serve: Any, app: Any) -> None:
    client = serve(app).connect()
    for _ in range(2):
        answer = client.ask(GET)
        assert (answer.status, answer.reason) == (200, "OK")
        assert answer.content == answers.CONTENT
        assert answer["content-type"] == "text/plain"
        assert "x-dropped" not in answer


@pytest.mark.parametrize("app", ALL)
@pytest.mark.parametrize("request_head", [GET, HEAD, GET_10, GET_10_KEPT])
def test_the_validator_has_nothing_to_say(
    serve: Any, app: Any, request_head: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = serve(validator(app))
    method = "HEAD" if request_head is HEAD else "GET"
    answer = gateway.ask(request_head, method=method)
    expected = b"" if app in EMPTY + BODILESS or method == "HEAD" else answers.CONTENT
    assert answer.content == expected
    assert answer.status in (200, 204, 304)
    assert "error" not in gateway.records[0]
    gc.collect()
    assert "without being closed" not in capsys.readouterr().err


@pytest.mark.parametrize("app", OF_ONE_PIECE + OF_OWN_LENGTH)
@pytest.mark.parametrize("request_head", [GET, GET_10_KEPT])
def test_content_of_known_length_is_framed_by_it(serve: Any, app: Any, request_head: bytes) -> None:
    client = serve(app).connect()
    answer = client.ask(request_head)
    assert answer.framing == "length"
    assert not answer.is_last
    expect_usable(client)


@pytest.mark.parametrize("app", [app for app in GOOD if app not in OF_ONE_PIECE + OF_OWN_LENGTH])
class TestContentOfUnknownLength:
    def test_is_chunked_for_http_11(self, serve: Any, app: Any) -> None:
        client = serve(app).connect()
        assert client.ask(GET).framing == "chunked"
        expect_usable(client)

    @pytest.mark.parametrize("request_head", [GET_10, GET_10_KEPT])
    def test_ends_with_the_connection_for_http_10(
        self, serve: Any, app: Any, request_head: bytes
    ) -> None:
        client = serve(app).connect()
        answer = client.ask(request_head)
        assert answer.framing == "close"
        assert answer.content == answers.CONTENT


@pytest.mark.parametrize("app", EMPTY)
def test_no_piece_at_all_is_length_0(serve: Any, app: Any) -> None:
    client = serve(app).connect()
    assert client.ask(GET)["content-length"] == "0"
    expect_usable(client)


def test_http_10_closes_unless_it_asked_to_keep_alive(serve: Any) -> None:
    gateway = serve(answers.one_piece)
    client = gateway.connect()
    assert client.ask(GET_10).is_last
    client.expect_end()
    client = gateway.connect()
    assert client.ask(GET_10_KEPT)["connection"] == "keep-alive"
    expect_usable(client)


@pytest.mark.parametrize("app", BODILESS)
def test_204_and_304_have_no_framing_of_content(serve: Any, app: Any) -> None:
    client = serve(app).connect()
    answer = client.ask(GET)
    assert "content-length" not in answer
    assert "transfer-encoding" not in answer
    expect_usable(client)


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("length", [[], [("Content-Length", "7")]])
@pytest.mark.parametrize("result", [[b"content"], [b"con", b"tent"], iter([b"content"])])
def test_204_and_304_never_carry_bytes(
    serve: Any, status: str, length: list[Any], result: Any
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response(status, list(length))
        return result

    client = serve(app).connect()
    answer = client.ask(GET)
    assert f"{answer.status} {answer.reason}" == status
    # RFC 9110 §8.6: forbidden in a 204, what GET would have had in a 304
    assert ("content-length" in answer) is (answer.status == 304 and bool(length))
    client.expect_open()


@pytest.mark.parametrize("app", GOOD + EMPTY)
def test_head_never_carries_bytes(serve: Any, app: Any) -> None:
    client = serve(app).connect()
    answer = client.ask(HEAD, method="HEAD")
    assert answer.status == 200
    if app in OF_ONE_PIECE + OF_OWN_LENGTH:
        assert answer["content-length"] == str(len(answers.CONTENT))
    expect_usable(client)


@pytest.mark.parametrize("result", [[b""], [], (b"",), iter([])])
def test_an_empty_answer_to_head_does_not_claim_length_0(serve: Any, result: Any) -> None:
    """RFC 9110 §8.6: only the length that GET would have; apps leave the content out for HEAD."""
    answer = serve(breakers.Returns(result)).ask(HEAD, method="HEAD")
    assert "content-length" not in answer


def test_early_hints_go_before_the_answer(serve: Any) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        environ["wsgi.early_hints"]([("Link", "</style.css>; rel=preload; as=style")])
        return answers.one_piece(environ, start_response)

    gateway = serve(app)
    [hints] = gateway.ask(GET).interim
    assert (hints.status, hints.fields) == (103, [("link", "</style.css>; rel=preload; as=style")])
    assert gateway.ask(GET_10).interim == []  # RFC 9110 §15.2: never to HTTP/1.0


@pytest.mark.parametrize("hint", [("Link", "a\r\nb: c"), ("Transfer-Encoding", "x"), ("a b", "c")])
def test_early_hints_are_checked(
    serve: Any, hint: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        environ["wsgi.early_hints"]([hint])
        return answers.one_piece(environ, start_response)

    gateway = serve(app)
    answer = gateway.ask(GET)
    assert answer.interim == []
    expect_clean_500(gateway, answer, caplog)


def test_early_hints_after_the_head_are_dropped(serve: Any) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])(b"content")
        environ["wsgi.early_hints"]([("Link", "late")])
        return []

    assert serve(app).ask(GET).content == b"content"


# --- environ ----------------------------------------------------------------------------------


def test_environ_has_what_pep_3333_demands(serve: Any) -> None:
    seen: dict[str, Any] = {}

    def app(environ: Any, start_response: Any) -> Any:
        assert type(environ) is dict
        seen.update(environ)
        return answers.one_piece(environ, start_response)

    gateway = serve({"/shop": app})
    gateway.ask(b"GET /shop/a%20b?c=%20d HTTP/1.1\r\nHost: a.example:81\r\nX-Y: z\r\n\r\n")
    expected = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "/shop",
        "PATH_INFO": "/a b",
        "QUERY_STRING": "c=%20d",
        "REQUEST_URI": "/shop/a%20b?c=%20d",
        "SERVER_NAME": "gateway.example",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "a.example:81",
        "HTTP_X_Y": "z",
        "REMOTE_ADDR": "192.0.2.7",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "gateway.request_id": gateway.records[0]["request_id"],
    }
    assert {key: seen[key] for key in expected} == expected
    assert seen["wsgi.errors"].write("") == 0


def test_what_one_app_puts_into_environ_no_other_sees(serve: Any) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        assert "my.key" not in environ
        environ["my.key"] = environ["wsgi.input"] = environ["PATH_INFO"] = "mine"
        return answers.one_piece(environ, start_response)

    client = serve(app).connect()
    assert [client.ask(GET).status for _ in range(3)] == [200, 200, 200]


# --- wsgi.input -------------------------------------------------------------------------------

TEXT = b"one\ntwo\n\nthree"


FRAMED = [post(TEXT), post_chunked(TEXT[:5], TEXT[5:6], TEXT[6:])]
# PEP 3333 makes the size of a read optional; the validator does not
READS_WITHOUT_SIZE = [
    (readers.whole, [TEXT]),
    (readers.beyond_its_end, [TEXT, b"", b"", b""]),
]
READS = [
    (readers.whole_by_minus_one, [TEXT]),
    (readers.reader(readers.in_pieces_of(1)), [bytes([byte]) for byte in TEXT]),
    (readers.reader(readers.in_pieces_of(9)), [b"one\ntwo\n\n", b"three"]),
    (readers.lines, [b"one\n", b"two\n", b"\n", b"three"]),
    (
        readers.reader(readers.lines_of_at_most(3)),
        [b"one", b"\n", b"two", b"\n", b"\n", b"thr", b"ee"],
    ),
    (readers.all_lines, [b"one\n", b"two\n", b"\n", b"three"]),
    (readers.lines_with_hint, [b"one\n", b"two\n", b"|", b"\n", b"three"]),
    (readers.iterated, [b"one\n", b"two\n", b"\n", b"three"]),
    (readers.some_then_lines, [b"on", b"e\n", b"two\n", b"\n", b"three"]),
]


@pytest.mark.parametrize("request_bytes", FRAMED)
@pytest.mark.parametrize(
    ("app", "expected"),
    [*READS_WITHOUT_SIZE, *READS, *((validator(app), expected) for app, expected in READS)],
)
def test_content_is_read_in_every_way(
    serve: Any, request_bytes: bytes, app: Any, expected: list[bytes]
) -> None:
    client = serve(app).connect()
    assert client.ask(request_bytes).content == repr(expected).encode()
    pieces = [request_bytes[at : at + 1] for at in range(len(request_bytes))]
    assert client.ask(*pieces).content == repr(expected).encode()
    client.expect_open()


@pytest.mark.parametrize("request_bytes", [GET, post(b""), post_chunked()])
@pytest.mark.parametrize("app", [readers.whole, readers.lines, readers.iterated])
def test_no_content_reads_as_the_end(serve: Any, request_bytes: bytes, app: Any) -> None:
    assert serve(app).ask(request_bytes).content in (b"[]", b"[b'']")


@pytest.mark.parametrize(("buffering", "of_chunks"), [("on", "5"), ("off", None)])
def test_content_length_is_that_of_the_content(
    serve: Any, buffering: str, of_chunks: str | None
) -> None:
    """RFC 3875 §4.1.2: of content whose transfer coding is taken off, where it was taken in."""
    seen: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        assert "HTTP_TRANSFER_ENCODING" not in environ
        assert "HTTP_TRAILER" not in environ
        seen.append((environ.get("CONTENT_LENGTH"), environ["wsgi.input_terminated"]))
        return readers.whole(environ, start_response)

    client = serve(app, mount_limits=MountLimits(request_buffering=buffering)).connect()
    client.ask(post(b"12345"))
    client.ask(post_chunked(b"12345"))
    client.ask(GET)
    assert seen == [("5", True), (of_chunks, True), (None, True)]


def test_content_kept_beyond_the_request_reads_nothing_of_the_next(serve: Any) -> None:
    kept: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        kept.append(environ["wsgi.input"])
        return answers.one_piece(environ, start_response)

    client = serve(app).connect()
    for request_bytes in (post(b"12345"), post_chunked(b"12345")):
        client.ask(request_bytes)
    client.send(GET[:-2])
    late = gevent.spawn(lambda: [content.read() for content in kept])
    assert late.get(timeout=5) == [b"12345", b"12345"]
    assert client.ask(GET[-2:]).status == 200


# --- close() ----------------------------------------------------------------------------------


@pytest.mark.parametrize("request_head", [GET, HEAD, GET_10])
@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("pieces", [[], [b"one"], [b"one", b"two"]])
def test_close_is_called_once(
    serve: Any, request_head: bytes, status: str, pieces: list[bytes]
) -> None:
    app = answers.Counted(pieces, status)
    serve(app).ask(request_head, method=request_head.partition(b" ")[0].decode())
    assert app.closed == 1


@pytest.mark.parametrize("kind", [failures.BeforeContent, failures.AfterContent, failures.AtClose])
def test_close_is_called_once_where_the_app_fails(
    serve: Any, kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = kind(ValueError("broken"))
    client = serve(app).connect()
    client.send(GET)
    if kind is failures.AfterContent:
        with pytest.raises(Cut):
            client.read_answer()
    else:
        client.read_answer()
    assert app.closed == 1
    assert len(faults(caplog)) == 1


@pytest.mark.parametrize("status", ["bad status", "200 OK"])
def test_close_is_called_once_where_the_answer_may_not_be_sent(serve: Any, status: str) -> None:
    app = answers.Counted(["text"], status)  # type: ignore[list-item]
    gateway = serve(app)
    assert gateway.ask(GET).status == 500
    # a call that fails has returned nothing to close
    assert app.closed == (status == "200 OK")


def test_close_is_called_once_when_the_client_leaves(serve: Any) -> None:
    app = answers.Counted([b"x" * 65536] * 100)
    gateway = serve(app)
    client = gateway.connect(buffer_bytes=4096)
    client.send(GET)
    assert app.closed == 0
    client.close()
    [record] = gateway.records
    assert app.closed == 1
    assert record["error"].startswith("the client left")


# --- start_response ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "app",
    [
        breakers.never_starts,
        breakers.never_starts_nor_yields,
        breakers.starts_too_late,
        breakers.starts_twice,
        breakers.writes_text,
        breakers.nothing_despite_length,
        breakers.short_of_length_at_once,
    ],
)
def test_a_broken_rule_before_the_head_is_a_clean_500(
    serve: Any, app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = serve(app)
    client = gateway.connect()
    answer = client.ask(GET)
    expect_clean_500(gateway, answer, caplog)
    assert isinstance(faults(caplog)[0].exc_info[1], AppError)  # type: ignore[index]
    expect_usable(client)


@pytest.mark.parametrize(
    "result", [["text"], ["te", "xt"], [bytearray(b"x")], [5], "text", None, 5, [None], b"bytes"]
)
def test_anything_but_bytes_is_a_clean_500(
    serve: Any, result: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = serve(breakers.Returns(result))
    expect_clean_500(gateway, gateway.ask(GET), caplog)


BAD_STATUS = ["", "20", "2000 OK", "OK", "abc OK", "099 x", "2\u06f00 OK", " 200 OK", "200\tOK",
              "200 OK\r\nX: y", "200 OK\n", "200 \0", "200 \x7f", "200 \u20ac", b"200 OK", 200,
              None, "100 Continue", "101 Switching Protocols"]  # fmt: skip
BAD_HEADERS = [
    [("X", "a\r\nY: b")], [("X", "a\nb")], [("X", "a\rb")], [("X", "\0")], [("X", "a\r\n b")],
    [("X\r\nY", "a")], [("X Y", "a")], [("", "a")], [("X:", "a")], [("X\xe9", "a")],
    [("X", "\u20ac")], [("X", 5)], [(5, "X")], [("X", b"a")], [(b"X", "a")], [("X", None)],
    [("X",)], [("X", "a", "b")], [None], None, 5,
    [("Connection", "close")], [("connection", "keep-alive")], [("Keep-Alive", "5")], [("TE", "x")],
    [("Transfer-Encoding", "chunked")], [("Trailer", "X")], [("Upgrade", "x")],
    [("Proxy-Authenticate", "x")], [("Proxy-Authorization", "x")], [("Proxy-Connection", "x")],
    [("Content-Length", "-1")], [("Content-Length", "+5")], [("Content-Length", "1_0")],
    [("Content-Length", "")], [("Content-Length", "5, 5")], [("Content-Length", "0x5")],
    [("Content-Length", "\u0665")], [("Content-Length", " 5")], [("Content-Length", 5)],
    [("Content-Length", "9" * 30)],
    [("Content-Length", "5"), ("content-length", "5")],
]  # fmt: skip


@pytest.mark.parametrize("status", BAD_STATUS, ids=repr)
def test_a_status_that_may_not_be_sent_is_a_clean_500(
    serve: Any, status: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = serve(breakers.Starts(status, []))
    client = gateway.connect()
    expect_clean_500(gateway, client.ask(GET), caplog)
    expect_usable(client)


@pytest.mark.parametrize("headers", BAD_HEADERS, ids=repr)
def test_headers_that_may_not_be_sent_are_a_clean_500(
    serve: Any, headers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = serve(breakers.Starts("200 OK", headers))
    client = gateway.connect()
    expect_clean_500(gateway, client.ask(GET), caplog)
    expect_usable(client)


@pytest.mark.parametrize("status", ["200 OK", "200 ", "200", "299 Caf\xe9 a\tb", "999 Odd"])
def test_an_odd_status_is_sent_as_it_is(serve: Any, status: str) -> None:
    answer = serve(breakers.Starts(status, [])).ask(GET)
    assert f"{answer.status} {answer.reason}" == status.ljust(4)


@pytest.mark.parametrize(
    "header",
    [("x-lower", "a"), ("X", ""), ("X", "caf\xe9"), ("X", "a\tb"), ("!#$%&'*+-.^_`|~0", "a")],
)
def test_an_odd_header_is_sent_as_it_is(serve: Any, header: tuple[str, str]) -> None:
    answer = serve(breakers.Starts("200 OK", [header, header])).ask(GET)
    assert answer.fields[:2] == [(header[0].lower(), header[1])] * 2


def test_the_app_s_own_date_is_kept(serve: Any) -> None:
    date = "Tue, 15 Nov 1994 08:12:31 GMT"
    answer = serve(breakers.Starts("200 OK", [("date", date)])).ask(GET)
    assert answer["date"] == date


def test_exc_info_after_the_head_raises_the_app_s_own_error(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])(b"a piece")
        try:
            raise KeyError("the app's own")
        except KeyError:
            start_response("500 Oops", [], sys.exc_info())
        raise AssertionError("start_response has returned")

    client = serve(app).connect()
    client.send(GET)
    with pytest.raises(Cut) as cut:
        client.read_answer()
    assert cut.value.content == b"a piece"
    [fault] = faults(caplog)
    assert fault.exc_info[0] is KeyError  # type: ignore[index]


# --- lengths ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "app", [breakers.beyond_length, breakers.beyond_length_at_once, breakers.writes_beyond_length]
)
def test_content_beyond_its_length_is_cut_and_logged(
    serve: Any, app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = serve(app)
    client = gateway.connect()
    assert client.ask(GET).content == b"1234567890"
    expect_usable(client)
    assert "longer than its Content-Length" in faults(caplog)[0].getMessage()
    assert "longer than its Content-Length" in gateway.records[0]["error"]


def test_content_beyond_its_own_len_is_cut_and_logged(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client = serve(breakers.more_than_its_own_len).connect()
    assert client.ask(GET).content == b"1234567890"
    expect_usable(client)
    assert len(faults(caplog)) == 2


def test_content_short_of_its_length_is_closed_and_logged(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = serve(breakers.short_of_length)
    client = gateway.connect()
    client.send(GET)
    with pytest.raises(Cut) as cut:
        client.read_answer()
    assert cut.value.content == b"12345"
    assert "5 bytes shorter" in faults(caplog)[0].getMessage()
    assert gateway.records[0]["status"] == 200
    assert "5 bytes shorter" in gateway.records[0]["error"]


def test_a_write_behind_the_end_is_not_sent(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    client = serve(breakers.WritesAtClose()).connect()
    assert client.ask(GET).content == b"content"
    expect_usable(client)
    assert len(faults(caplog)) == 2


def test_a_write_kept_for_the_next_request_is_not_sent(serve: Any) -> None:
    kept: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        for write in kept:
            with pytest.raises(AppError):
                write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        kept.append(start_response("200 OK", []))
        return iter([b"cont", b"ent"])

    client = serve(app).connect()
    assert [client.ask(GET).content for _ in range(3)] == [b"content"] * 3


def test_text_after_the_head_cuts_the_answer(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    client = serve(breakers.yields_text_late).connect()
    client.send(GET)
    with pytest.raises(Cut) as cut:
        client.read_answer()
    assert cut.value.content == b"bytes "
    assert "str instead of bytes" in faults(caplog)[0].getMessage()


# --- apps that fail ---------------------------------------------------------------------------


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


ERRORS = [
    ValueError("broken"),
    SystemExit(3),
    KeyboardInterrupt(),
    GreenletExit(),
    gevent.Timeout(),
    RecursionError(),
    MemoryError(),
    StopIteration(),
    GeneratorExit(),
    UnicodeEncodeError("ascii", "\ud800", 0, 1, "a surrogate"),
    ValueError("line\r\nX-Injected: yes\r\n\r\n\0\ud800\u2028"),
    ValueError("long" * 10_000),
    Unprintable(),
]


def name(error: BaseException) -> str:
    return type(error).__name__


@pytest.mark.parametrize("error", ERRORS, ids=name)
@pytest.mark.parametrize("kind", [failures.AtCall, failures.BeforeContent])
def test_an_app_that_fails_before_its_head_is_a_clean_500(
    serve: Any, error: BaseException, kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = serve(kind(error))
    client = gateway.connect()
    expect_clean_500(gateway, client.ask(GET), caplog)
    expect_usable(client)


@pytest.mark.parametrize("error", ERRORS, ids=name)
def test_an_app_that_fails_after_its_head_is_cut(
    serve: Any, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = serve(failures.AfterContent(error))
    client = gateway.connect()
    client.send(GET)
    with pytest.raises(Cut) as cut:
        client.read_answer()
    assert cut.value.content == b"a piece"
    assert cut.value.head is not None
    assert cut.value.head.status == 200
    [record] = gateway.records
    assert record["status"] == 200
    # PEP 479: a generator's own StopIteration becomes a RuntimeError
    assert record["error"].startswith(name(error).replace("StopIteration", "RuntimeError"))
    assert len(faults(caplog)) == 1


@pytest.mark.parametrize("error", ERRORS, ids=name)
def test_an_app_that_fails_at_close_has_answered(
    serve: Any, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = serve(failures.AtClose(error))
    client = gateway.connect()
    assert client.ask(GET).content == b"a piece"
    assert len(faults(caplog)) == 1
    expect_usable(client)


def test_endless_recursion_is_a_clean_500(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        return app(environ, start_response)

    gateway = serve(app)
    expect_clean_500(gateway, gateway.ask(GET), caplog)
