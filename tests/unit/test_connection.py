"""One connection: keep-alive, content left unread, deadlines, clients that leave, the record."""

import contextvars
import os
from collections.abc import Iterator
from typing import Any

import answers
import gevent
import pytest
import readers
from gevent.event import Event
from harness import GET, PEER, Client, Cut, Gateway, TcpListener, wait_until

from gateway.errors import ClientDisconnected, RequestEnded
from gateway.http.body import DRAIN_BYTES
from gateway.http.connection import READ_AHEAD_BYTES
from gateway.http.deadlines import LINGER_SECONDS
from gateway.http.states import State
from gateway.limits import Limits, MountLimits

HOST = b"Host: a.example\r\n"
HEAD_ONLY = b"POST / HTTP/1.1\r\n" + HOST
STREAMS = MountLimits(request_buffering="off")


def post(content: bytes, *, size: int | None = None, extra: bytes = b"") -> bytes:
    length = len(content) if size is None else size
    return HEAD_ONLY + extra + b"Content-Length: %d\r\n\r\n%s" % (length, content)


def chunked(*chunks: bytes, extra: bytes = b"") -> bytes:
    framed = b"".join(b"%X\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return HEAD_ONLY + extra + b"Transfer-Encoding: chunked\r\n\r\n" + framed


def get(target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\n".encode() + HOST + b"\r\n"


def path_info(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [environ["PATH_INFO"].encode("latin-1")]


class Waiting:
    """An app that waits until it is told to go on, and notes how it was ended."""

    def __init__(self, *, starts: bool = False) -> None:
        self.go_on = Event()
        self.is_waiting = False
        self.ended_by: BaseException | None = None
        self.has_cleaned_up = False
        self.starts = starts

    def __call__(self, environ: Any, start_response: Any) -> Iterator[bytes]:
        self.environ = environ
        start_response("200 OK", [])
        if self.starts:
            yield b"a piece"
        try:
            self.is_waiting = True
            self.go_on.wait()
        except BaseException as error:
            self.ended_by = error
            raise
        finally:
            self.has_cleaned_up = True
        yield b"done"


def ask_and_wait(gateway: Gateway, app: Waiting, *pieces: bytes) -> Client:
    client = gateway.connect()
    client.send(*pieces or (GET,))
    wait_until(lambda: app.is_waiting, "the app waits")
    return client


# --- keep-alive -------------------------------------------------------------------------------


def test_an_idle_connection_is_closed_in_its_time(serve: Any) -> None:
    gateway = serve(answers.one_piece, limits=Limits(keep_alive_seconds=60))
    client = gateway.connect()
    client.ask(GET)
    gateway.pass_time(59)
    client.expect_open()
    gateway.pass_time(61)
    client.expect_end()
    assert len(gateway.records) == 1


def test_a_connection_that_never_asked_is_closed_without_a_record(serve: Any) -> None:
    gateway = serve(answers.one_piece, limits=Limits(keep_alive_seconds=60))
    client = gateway.connect()
    gateway.pass_time(61)
    client.expect_end()
    assert gateway.records == []


@pytest.mark.parametrize("keeps", [True, False])
def test_a_service_may_keep_no_connection(serve: Any, keeps: bool) -> None:
    gateway = serve(answers.one_piece)
    gateway.service.keeps_connections = keeps
    client = gateway.connect()
    assert client.ask(GET).is_last is not keeps
    if keeps:
        client.expect_open()
    else:
        client.expect_end()


@pytest.mark.parametrize(
    ("field", "is_last"),
    [
        (b"Connection: close\r\n", True),
        (b"Connection: x, Close\r\n", True),
        (b"Connection: keep-alive\r\n", False),
        (b"Connection: x\r\n", False),
        (b"", False),
    ],
)
def test_the_client_says_whether_it_goes_on(serve: Any, field: bytes, is_last: bool) -> None:
    client = serve(answers.one_piece).connect()
    answer = client.ask(b"GET / HTTP/1.1\r\n" + HOST + field + b"\r\n")
    assert answer.is_last is is_last
    if is_last:
        client.expect_end()
    else:
        client.expect_open()


def test_a_draining_worker_says_close(serve: Any) -> None:
    gateway = serve(answers.one_piece)
    client = gateway.connect()
    assert not client.ask(GET).is_last
    gateway.service.is_draining = True
    assert client.ask(GET).is_last
    client.expect_end()


# --- pipelining and half-close ----------------------------------------------------------------

PIPELINE = get("/1") + post(b"content") + get("/3") + chunked(b"con", b"tent", b"") + get("/5")
PIPELINED = [b"/1", b"/", b"/3", b"/", b"/5"]


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1000])
def test_pipelined_requests_are_answered_in_order(serve: Any, size: int) -> None:
    client = serve(path_info).connect()
    client.send(*(PIPELINE[at : at + size] for at in range(0, len(PIPELINE), size)))
    assert [client.read_answer().content for _ in PIPELINED] == PIPELINED
    client.expect_open()


def test_a_request_waits_for_the_one_before_it(serve: Any) -> None:
    app = Waiting()
    gateway = serve({"/slow": app, "/": path_info})
    client = ask_and_wait(gateway, app, get("/slow") + get("/2"), get("/3"))
    client.expect_open()
    app.go_on.set()
    assert [client.read_answer().content for _ in range(3)] == [b"done", b"/2", b"/3"]


def test_what_is_read_ahead_is_bounded(serve: Any) -> None:
    app = Waiting()
    gateway = serve({"/slow": app, "/": path_info})
    client = ask_and_wait(gateway, app, get("/slow"))
    count = 1000
    padded = get("/2")[:-2] + b"X: " + b"x" * 1000 + b"\r\n\r\n"
    sender = gevent.spawn(client.send, padded * count)
    wait_until(lambda: len(gateway.connection.wire.unread) > READ_AHEAD_BYTES)
    gevent.sleep(0.01)
    assert len(gateway.connection.wire.unread) < READ_AHEAD_BYTES * 3
    assert not sender.dead
    app.go_on.set()
    assert client.read_answer().content == b"done"
    assert all(client.read_answer().content == b"/2" for _ in range(count))
    sender.get(timeout=5)


@pytest.mark.parametrize("request_bytes", [GET, post(b"content"), chunked(b"content", b"")])
def test_a_half_closed_client_gets_its_answer(serve: Any, request_bytes: bytes) -> None:
    gateway = serve(answers.pieces)
    client = gateway.connect()
    client.send(request_bytes)
    client.end()
    assert client.read_answer().content == answers.CONTENT
    client.expect_end()
    assert len(gateway.records) == 1


def test_a_client_that_half_closes_at_once_gets_its_answer(serve: Any) -> None:
    app = Waiting()
    client = ask_and_wait(serve(app), app)
    client.end()
    app.go_on.set()
    assert client.read_answer().content == b"done"
    client.expect_end()


def test_pipelined_requests_of_a_half_closed_client_are_answered(serve: Any) -> None:
    app = Waiting()
    gateway = serve({"/slow": app, "/": path_info})
    client = ask_and_wait(gateway, app, get("/slow") + get("/2") + get("/3"))
    client.end()
    app.go_on.set()
    assert [client.read_answer().content for _ in range(3)] == [b"done", b"/2", b"/3"]
    client.expect_end()


# --- content left unread ----------------------------------------------------------------------


@pytest.mark.parametrize("app", [answers.one_piece, readers.reader(lambda c: [c.read(3)])])
@pytest.mark.parametrize("size", [1, 1000, DRAIN_BYTES // 2])
def test_content_left_unread_is_drained(serve: Any, app: Any, size: int) -> None:
    gateway = serve(app)
    client = gateway.connect()
    for request_bytes in (post(b"x" * size), chunked(b"x" * size, b"")):
        assert not client.ask(request_bytes).is_last
        assert client.ask(GET).status == 200
        client.expect_open()
    assert [record["bytes_in"] for record in gateway.records] == [size, 0, size, 0]


def test_where_content_streams_little_of_it_is_drained_behind_the_answer(serve: Any) -> None:
    client = serve(answers.one_piece, mount_limits=STREAMS).connect()
    request_bytes = post(b"x" * 1000)
    client.send(request_bytes[:-500])
    assert not client.read_answer().is_last
    client.send(request_bytes[-500:])
    assert client.ask(GET).status == 200


def test_where_content_streams_unread_chunks_end_the_connection_as_announced(serve: Any) -> None:
    """How much is left of them is not known, so that keep-alive could not be promised."""
    client = serve(answers.one_piece, mount_limits=STREAMS).connect()
    assert client.ask(chunked(b"x" * 1000, b"")).is_last
    client.expect_end()


@pytest.mark.parametrize("framing", [post, chunked])
def test_content_too_long_to_drain_ends_the_connection_after_the_answer(
    serve: Any, framing: Any
) -> None:
    """RFC 9112 §9.6: the client can still read its answer, though it goes on sending."""
    gateway = serve(answers.one_piece, mount_limits=STREAMS)
    client = gateway.connect()
    sender = gevent.spawn(client.send, framing(b"x" * (DRAIN_BYTES * 3)))
    answer = client.read_answer()
    assert (answer.content, answer.is_last) == (answers.CONTENT, True)
    client.expect_end()
    sender.get(timeout=5)
    assert gateway.connection.state is State.LINGERING
    gateway.pass_time(LINGER_SECONDS + 1)
    assert not gateway.service.connections


@pytest.mark.parametrize("framing", [post, chunked])
def test_content_that_a_generator_reads_before_its_first_piece_keeps_the_connection(
    serve: Any, framing: Any
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        size = len(environ["wsgi.input"].read())
        start_response("200 OK", [])
        yield b"%d" % size

    client = serve(app).connect()
    size = DRAIN_BYTES * 3
    end = b"0\r\n\r\n" if framing is chunked else b""
    sender = gevent.spawn(client.send, framing(b"x" * size) + end)
    answer = client.read_answer()
    assert answer.content == b"%d" % size
    assert not answer.is_last
    sender.get(timeout=5)
    assert client.ask(get("/")).content == b"0"


def test_content_that_never_comes_does_not_hold_the_connection(serve: Any) -> None:
    limits = Limits(body_timeout_seconds=30)
    gateway = serve(answers.one_piece, limits=limits, mount_limits=STREAMS)
    client = gateway.connect()
    assert client.ask(post(b"x", size=100)).status == 200
    gateway.pass_time(31)
    client.expect_end()
    assert len(gateway.records) == 1


@pytest.mark.parametrize(
    "bad", [b"Z\r\n", b"-1\r\n", b"5\r\n123456\r\n", b"1\n", b"0\r\nbad trailer\r\n\r\n"]
)
@pytest.mark.parametrize("app", [answers.one_piece, readers.whole])
@pytest.mark.parametrize("buffering", ["on", "off"])
def test_nothing_is_read_behind_malformed_chunks(
    serve: Any, app: Any, bad: bytes, buffering: str
) -> None:
    limits = MountLimits(request_buffering=buffering)
    gateway = serve({"/": app, "/smuggled": answers.one_piece}, mount_limits=limits)
    client = gateway.connect()
    client.send(chunked(b"first") + bad + get("/smuggled"))
    is_read = app is readers.whole or buffering == "on"
    assert client.read_answer().status == (400 if is_read else 200)
    client.expect_end()
    assert [record["target"] for record in gateway.records] == ["/"]


@pytest.mark.parametrize("bad", [b"Z\r\n", b"5\r\n123456\r\n"])
def test_an_app_that_ignores_malformed_chunks_gets_nothing_behind_them(
    serve: Any, bad: bytes
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        refused = 0
        for _ in range(3):
            try:
                environ["wsgi.input"].read()
            except Exception:  # noqa: BLE001  as apps do
                refused += 1
        start_response("200 OK", [])
        return [b"%d" % refused]

    gateway = serve(app, mount_limits=STREAMS)
    client = gateway.connect()
    client.send(chunked(b"first") + bad + b"0\r\n\r\n" + get("/smuggled"))
    assert client.read_answer().content == b"3"
    client.expect_end()
    assert [record["target"] for record in gateway.records] == ["/"]


@pytest.mark.parametrize(("status", "answered"), [("500 Oh", 413), ("422 Too long", 422)])
def test_a_500_that_an_app_makes_of_refused_content_tells_the_refusal(
    serve: Any, status: str, answered: int
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        try:
            environ["wsgi.input"].read()
        except Exception:  # noqa: BLE001  as frameworks do
            start_response(status, [])
        return [b"what the app says"]

    limits = MountLimits(max_body_bytes=3, request_buffering="off")
    client = serve(app, mount_limits=limits).connect()
    client.send(chunked(b"first", b""))
    assert client.read_answer().status == answered


@pytest.mark.parametrize("request_line", [b"POST /nothing", b"OPTIONS *"])
@pytest.mark.parametrize("framing", [post, chunked])
def test_content_of_an_unmatched_request_is_no_request(
    serve: Any, framing: Any, request_line: bytes
) -> None:
    gateway = serve({"/here": answers.one_piece})
    client = gateway.connect()
    request_bytes = framing(get("/here")) + (b"0\r\n\r\n" if framing is chunked else b"")
    client.send(request_bytes.replace(b"POST /", request_line, 1))
    first = client.read_answer().status
    assert first in (204, 404)
    client.send(get("/here"))
    # dropped, and the connection kept or closed: both are right
    assert [record["status"] for record in gateway.records] in ([first], [first, 200])


# --- 100-continue -----------------------------------------------------------------------------

EXPECT = b"Expect: 100-continue\r\n"


@pytest.mark.parametrize(
    ("framing", "content"), [(post, b"12345"), (chunked, b"5\r\n12345\r\n0\r\n\r\n")]
)
def test_100_is_sent_when_the_app_first_reads(serve: Any, framing: Any, content: bytes) -> None:
    app = Waiting()

    def read_late(environ: Any, start_response: Any) -> Any:
        list(app(environ, lambda *_: None))
        return readers.whole(environ, start_response)

    head = post(b"", size=5, extra=EXPECT) if framing is post else chunked(extra=EXPECT)
    client = ask_and_wait(serve(read_late, mount_limits=STREAMS), app, head)
    client.expect_open()
    app.go_on.set()
    assert client._read_head().status == 100
    answer = client.ask(content)
    assert (answer.interim, answer.content) == ([], b"[b'12345']")
    client.expect_open()


def test_100_is_not_sent_when_the_content_is_there(serve: Any) -> None:
    answer = serve(readers.whole).ask(post(b"12345", extra=EXPECT))
    assert (answer.interim, answer.content) == ([], b"[b'12345']")


def test_100_is_not_sent_when_the_app_does_not_read(serve: Any) -> None:
    """RFC 9110 §10.1.1: whether the content comes is not known, so the connection ends."""
    gateway = serve(answers.one_piece, mount_limits=STREAMS)
    client = gateway.connect()
    answer = client.ask(post(b"", size=5, extra=EXPECT))
    assert answer.interim == []
    client.expect_end()


def test_100_is_not_sent_behind_the_head(serve: Any) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"a piece "
        yield environ["wsgi.input"].read()

    client = serve(app, mount_limits=STREAMS).connect()
    client.send(post(b"", size=5, extra=EXPECT), b"12345")
    answer = client.read_answer()
    assert (answer.interim, answer.content) == ([], b"a piece 12345")


def test_100_is_not_sent_to_http_10(serve: Any) -> None:
    client = serve(readers.whole).connect()
    client.send(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", b"12345")
    answer = client.read_answer()
    assert (answer.interim, answer.content) == ([], b"[b'12345']")


# --- refusals of content ----------------------------------------------------------------------

SMALL = MountLimits(max_body_bytes=10)


@pytest.mark.parametrize("size", [10, 11])
@pytest.mark.parametrize("framing", [post, chunked])
def test_content_is_bounded(serve: Any, framing: Any, size: int) -> None:
    client = serve(readers.whole, mount_limits=SMALL).connect()
    end = b"0\r\n\r\n" if framing is chunked else b""
    answer = client.ask(framing(b"x" * size) + end)
    assert answer.status == (200 if size == 10 else 413)
    assert answer.is_last is (size == 11)


def test_a_length_beyond_the_bound_never_reaches_the_app(serve: Any) -> None:
    called: list[Any] = []
    gateway = serve(called.append, mount_limits=SMALL)
    assert gateway.ask(post(b"x" * 11)).status == 413
    assert called == []


@pytest.mark.parametrize("framing", [post, chunked])
def test_a_refused_client_can_go_on_sending_until_it_has_read_why(serve: Any, framing: Any) -> None:
    client = serve(readers.whole, mount_limits=SMALL).connect()
    head, _, content = framing(b"x" * 11).partition(b"\r\n\r\n")
    client.send(head + b"\r\n\r\n", content)
    client.send(b"0\r\n\r\n" * (framing is chunked) + b"x" * 1000, b"x" * 1000)
    assert client.read_answer().status == 413
    client.expect_end()


@pytest.mark.parametrize(
    ("begun", "rest"),
    [
        (post(b"12", size=5, extra=b"Connection: close\r\n"), b"345"),
        (chunked(b"12", extra=b"Connection: close\r\n"), b"0\r\n\r\n"),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n", HOST + b"\r\n"),
    ],
    ids=["length", "chunked", "none"],
)
def test_what_comes_behind_the_last_request_does_not_destroy_its_answer(
    serve: Any, begun: bytes, rest: bytes
) -> None:
    """RFC 9112 §9.6: a close with input unread resets the connection, and may lose the answer."""
    client = serve(readers.whole).connect()
    client.send(begun)
    client.send(rest + b"more than was asked for")
    assert client.read_answer().status == 200
    client.expect_end()


# --- deadlines --------------------------------------------------------------------------------

TIMEOUT = MountLimits(timeout_seconds=30)


def test_a_head_that_does_not_end_is_408(serve: Any) -> None:
    gateway = serve(answers.one_piece, limits=Limits(head_timeout_seconds=10))
    client = gateway.connect()
    client.send(GET[:20])
    gateway.pass_time(9)
    client.expect_open()
    gateway.pass_time(11)
    assert client.read_answer().status == 408
    client.expect_end()
    [record] = gateway.records
    assert record["status"] == 408


def test_bytes_that_trickle_do_not_prolong_the_head(serve: Any) -> None:
    gateway = serve(answers.one_piece, limits=Limits(head_timeout_seconds=0.2))
    client = gateway.connect()

    def trickle() -> None:
        for byte in GET * 20:
            client._socket.send(bytes([byte]))
            gevent.sleep(0.02)

    trickling = gevent.spawn(trickle)
    assert client.read_answer().status == 408
    trickling.kill()


def test_content_that_does_not_come_is_408(serve: Any) -> None:
    gateway = serve(readers.whole, limits=Limits(body_timeout_seconds=20))
    client = gateway.connect()
    client.send(post(b"12", size=5))
    wait_until(lambda: gateway.connection.state is State.READING)
    gateway.pass_time(19)
    client.expect_open()
    gateway.pass_time(21)
    assert client.read_answer().status == 408
    client.expect_end()


def test_an_app_that_moves_no_byte_in_time_is_504(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app = Waiting()
    gateway = serve(app, mount_limits=TIMEOUT)
    client = ask_and_wait(gateway, app)
    gateway.pass_time(29)
    assert app.ended_by is None
    gateway.pass_time(31)
    assert isinstance(app.ended_by, RequestEnded)
    assert not isinstance(app.ended_by, Exception)
    assert app.has_cleaned_up
    answer = client.read_answer()
    assert (answer.status, answer.is_last) == (504, True)
    client.expect_end()
    [record] = gateway.records
    assert (record["status"], record["mount"]) == (504, "/")
    assert answer["x-request-id"] == record["request_id"]
    assert record["request_id"].encode() in answer.content


def test_an_app_that_waits_after_its_head_is_cut(serve: Any) -> None:
    app = Waiting(starts=True)
    gateway = serve(app, mount_limits=TIMEOUT)
    client = ask_and_wait(gateway, app)
    gateway.pass_time(1)  # a byte has moved since the last look
    gateway.pass_time(1 + 31)
    assert app.has_cleaned_up
    with pytest.raises(Cut) as cut:
        client.read_answer()
    assert cut.value.content == b"a piece"
    [record] = gateway.records
    assert record["status"] == 200
    assert record["error"]


def test_close_is_called_once_when_the_deadline_passes(serve: Any) -> None:
    class Stuck(answers.Counted):
        def __iter__(self) -> Iterator[bytes]:
            self.go_on = Event()
            self.go_on.wait()
            yield b"never"

    app = Stuck([])
    gateway = serve(app, mount_limits=TIMEOUT)
    client = gateway.connect()
    client.send(GET)
    gateway.pass_time(31)
    assert app.closed == 1
    assert client.read_answer().status == 504


def test_a_stream_that_moves_bytes_lives_on(serve: Any) -> None:
    pulse = Event()

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        for _ in range(4):
            yield b"tick"
            pulse.wait()
            pulse.clear()

    gateway = serve(app, mount_limits=TIMEOUT)
    client = gateway.connect()
    client.send(GET)
    for _ in range(4):
        gateway.pass_time(20)
        gateway.connection.since -= 20
        pulse.set()
        gevent.idle()
    assert client.read_answer().content == b"tick" * 4


def test_an_app_that_catches_its_deadline_may_still_answer(serve: Any) -> None:
    app = Waiting()

    def patient(environ: Any, start_response: Any) -> Any:
        try:
            return list(app(environ, start_response))
        except RequestEnded:
            return [b"too late"]

    gateway = serve(patient, mount_limits=TIMEOUT)
    client = ask_and_wait(gateway, app)
    gateway.pass_time(31)
    assert client.read_answer().content == b"too late"
    client.expect_open()


def test_an_app_that_waits_on_after_its_deadline_is_ended_again(serve: Any) -> None:
    app = Waiting()
    ended: list[BaseException] = []

    def stubborn(environ: Any, start_response: Any) -> Any:
        for _ in range(2):
            try:
                app.is_waiting = True
                app.go_on.wait()
            except RequestEnded as error:
                ended.append(error)
        app.go_on.wait()

    gateway = serve(stubborn, mount_limits=TIMEOUT)
    client = ask_and_wait(gateway, app)
    for count in (1, 2):
        gateway.pass_time(31 * count)
        assert len(ended) == count
        gateway.pass_time(31 * count + 29)  # what it does then has as long again
        assert len(ended) == count
    gateway.pass_time(31 * 3)
    assert client.read_answer().status == 504


def test_a_client_that_does_not_read_is_given_up(serve: Any) -> None:
    app = answers.Counted([b"x" * 65536] * 100)
    gateway = serve(app, limits=Limits(send_timeout_seconds=30))
    client = gateway.connect(buffer_bytes=4096)
    client.send(GET)
    assert gateway.connection.state is State.WRITING
    gateway.pass_time(29)
    assert app.closed == 0
    gateway.pass_time(31)
    assert app.closed == 1
    with pytest.raises(Cut):
        client.read_answer()
    [record] = gateway.records
    assert "unread" in record["error"]


def test_the_mount_s_deadline_does_not_count_while_the_client_is_slow(serve: Any) -> None:
    gateway = serve(readers.whole, mount_limits=TIMEOUT, limits=Limits(body_timeout_seconds=60))
    client = gateway.connect()
    client.send(post(b"12", size=5))
    gateway.pass_time(40)
    assert client.ask(b"345").status == 200


# --- clients that leave -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "pieces",
    [
        [GET],
        [post(b"")],
        [post(b"12345")],
        [post(b"", size=5), b"12345"],
        [chunked(b"12345", b"")],
        [chunked(b"12345"), b"0\r\n\r\n"],
    ],
)
def test_the_app_can_know_that_its_client_has_left(serve: Any, pieces: list[bytes]) -> None:
    app = Waiting()

    def read_first(environ: Any, start_response: Any) -> Any:
        environ["wsgi.input"].read()
        return app(environ, start_response)

    gateway = serve(read_first)
    client = ask_and_wait(gateway, app, *pieces)
    has_left = app.environ["gateway.client_disconnected"]
    assert not has_left()
    client.close()
    wait_until(has_left, "the app is told")
    app.go_on.set()
    [record] = gateway.records
    assert record["error"].startswith("the client left")


def test_a_write_to_a_client_that_has_left_raises_an_os_error(serve: Any) -> None:
    app = Waiting()
    raised: list[BaseException] = []

    def writing(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", [])
        write(b"a piece")
        app.is_waiting = True
        app.go_on.wait()
        for _ in range(3):
            try:
                write(b"another")
            except OSError as error:
                raised.append(error)
        return []

    gateway = serve(writing)
    client = ask_and_wait(gateway, app)
    client.close()
    app.go_on.set()
    [record] = gateway.records
    assert [type(error) for error in raised] == [ClientDisconnected] * 3
    assert record["error"].startswith("the client left")


def test_a_client_that_leaves_ends_a_stream(serve: Any) -> None:
    closed: list[str] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            while True:
                yield b"tick"
                gevent.sleep(0.001)
        finally:
            closed.append("yes")

    gateway = serve(app)
    client = gateway.connect()
    client.send(GET)
    client.close()
    wait_until(lambda: closed == ["yes"])
    assert len(gateway.records) == 1


@pytest.mark.parametrize("request_bytes", [post(b"12", size=5), chunked(b"12")])
def test_a_client_that_leaves_in_its_content(serve: Any, request_bytes: bytes) -> None:
    gateway = serve(readers.whole)
    client = gateway.connect()
    client.send(request_bytes)
    client.close()
    [record] = gateway.records
    assert (record["status"], record["bytes_in"]) == (499, 2)
    assert "the client left" in record["error"]


def test_a_client_that_leaves_in_its_head_has_a_record(serve: Any) -> None:
    gateway = serve(readers.whole)
    client = gateway.connect()
    client.send(GET[:20])
    client.close()
    [record] = gateway.records
    assert "the client left" in record["error"]


# --- one request and the next -----------------------------------------------------------------


def test_each_request_has_a_fresh_empty_context(serve: Any) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    variable.set("the test's")
    seen: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        seen.append((variable.get(), len(contextvars.copy_context())))
        variable.set(environ["PATH_INFO"])
        return path_info(environ, start_response)

    client = serve(app).connect()
    for number in range(3):
        client.ask(get(f"/{number}"))
    assert seen == [("none", 0)] * 3


def test_a_context_lasts_as_long_as_its_request(serve: Any) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        variable.set(environ["PATH_INFO"])
        start_response("200 OK", [])
        for _ in range(3):
            gevent.sleep(0)
            yield variable.get().encode()

    gateway = serve(app)
    clients = [gateway.connect() for _ in range(3)]
    for number, client in enumerate(clients):
        client.send(get(f"/{number}"))
    assert [c.read_answer().content for c in clients] == [b"/0" * 3, b"/1" * 3, b"/2" * 3]


def test_a_timer_that_an_app_left_behind_harms_no_later_request(serve: Any) -> None:
    def forgetful(environ: Any, start_response: Any) -> Any:
        gevent.Timeout(0.01).start()
        return path_info(environ, start_response)

    gateway = serve({"/forgetful": forgetful, "/": path_info})
    client = gateway.connect()
    client.ask(get("/forgetful"))
    gevent.sleep(0.03)
    for number in range(3):
        assert client.ask(get(f"/{number}")).content == f"/{number}".encode()


def test_a_wake_up_that_comes_late_harms_no_later_request(serve: Any) -> None:
    def restless(environ: Any, start_response: Any) -> Any:
        from greenlet import getcurrent

        gevent.get_hub().loop.run_callback(getcurrent().switch, "late")
        return path_info(environ, start_response)

    gateway = serve({"/restless": restless, "/": path_info})
    client = gateway.connect()
    for number in range(3):
        client.ask(get("/restless"))
        assert client.ask(get(f"/{number}")).content == f"/{number}".encode()


def test_requests_run_side_by_side(serve: Any) -> None:
    app = Waiting()
    gateway = serve({"/slow": app, "/": path_info})
    slow = [ask_and_wait(gateway, app, get("/slow")) for _ in range(10)]
    assert gateway.ask(get("/quick")).content == b"/quick"
    app.go_on.set()
    assert [client.read_answer().content for client in slow] == [b"done"] * 10


# --- large answers ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16 * 1024, 16 * 1024 + 1, 1024 * 1024])
@pytest.mark.parametrize("is_whole", [True, False])
def test_a_large_answer_arrives_whole(serve: Any, size: int, is_whole: bool) -> None:
    content = os.urandom(size)

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return [content] if is_whole else iter([content[:100], content[100:]])

    gateway = serve(app)
    client = gateway.connect(buffer_bytes=4096)
    assert client.ask(GET).content == content
    assert client.ask(GET).content == content


# --- the record -------------------------------------------------------------------------------


def test_a_record_tells_of_its_request(serve: Any) -> None:
    gateway = serve({"/shop": readers.whole})
    client = gateway.connect()
    request_bytes = (
        b"POST /shop/a?b=c HTTP/1.1\r\nHost: A.example:80\r\nUser-Agent: a browser\r\n"
        b"Referer: http://a.example/\r\nContent-Length: 5\r\n\r\n12345"
    )
    client.send(request_bytes)
    client.read_answer()
    [record] = gateway.records
    assert record.pop("time").endswith("Z")
    assert record.pop("duration_ms") >= 0
    assert record.pop("bytes_out") > 50
    assert record.pop("request_id")
    assert record == {
        "mount": "/shop",
        "client": PEER,
        "method": "POST",
        "target": "/shop/a?b=c",
        "protocol": "HTTP/1.1",
        "status": 200,
        "bytes_in": 5,
        "host": "a.example",
        "referer": "http://a.example/",
        "user_agent": "a browser",
    }


def test_bytes_out_are_what_went_out(serve: Any) -> None:
    gateway = serve(answers.pieces)
    client = gateway.connect()
    client.send(GET)
    received = b""
    while not received.endswith(b"0\r\n\r\n"):
        received += client._socket.recv(65536)
    assert gateway.records[0]["bytes_out"] == len(received)


def test_request_ids_are_never_the_same(serve: Any) -> None:
    gateway = serve(answers.one_piece)
    for _ in range(2):
        client = gateway.connect()
        for _ in range(5):
            client.ask(GET)
    assert len({record["request_id"] for record in gateway.records}) == 10
    # they are made in blocks
    assert len({gateway.service.next_request_id() for _ in range(10_000)}) == 10_000


def test_nothing_mounted_is_404_and_has_a_record(serve: Any) -> None:
    gateway = serve({"/shop": answers.one_piece})
    client = gateway.connect()
    answer = client.ask(get("/shopping"))
    assert answer.status == 404
    [record] = gateway.records
    assert (record["status"], record["mount"]) == (404, "")
    assert answer["x-request-id"] == record["request_id"]
    assert client.ask(get("/shop")).status == 200


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 33000 + b"\r\n\r\n", 431),
        (b"\x16\x03\x01\x02\x00", 400),
    ],
    ids=["malformed", "no host", "version", "long line", "long head", "TLS"],
)
def test_a_refused_request_has_a_record_that_its_answer_names(
    serve: Any, request_bytes: bytes, status: int
) -> None:
    gateway = serve(answers.one_piece)
    client = gateway.connect()
    answer = client.ask(request_bytes)
    assert (answer.status, answer.is_last) == (status, True)
    client.expect_end()
    [record] = gateway.records
    assert (record["status"], record["client"]) == (status, PEER)
    assert record["error"]
    assert record["request_id"]
    assert answer["x-request-id"] == record["request_id"]


def test_a_log_that_is_off_costs_nothing_but_the_record(serve: Any) -> None:
    gateway = serve(answers.one_piece, access_log="off")
    assert gateway.ask(GET).status == 200
    assert gateway.records == []


def test_options_asterisk_is_answered_by_the_gateway(serve: Any) -> None:
    gateway = serve({"/shop": answers.one_piece})
    client = gateway.connect()
    assert client.ask(b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n").status == 204
    assert gateway.records[0]["target"] == "*"
    client.expect_open()


def test_a_client_that_leaves_before_a_byte_of_its_answer_is_recorded_as_499(serve: Any) -> None:
    app = Waiting()
    gateway = serve(app)
    client = ask_and_wait(gateway, app)
    client.close()
    app.go_on.set()
    [record] = gateway.records
    assert (record["status"], record["bytes_out"]) == (499, 0)


# --- answers that are cut ---------------------------------------------------------------------


@pytest.mark.parametrize("is_cut", [True, False])
def test_a_cut_body_without_a_length_does_not_end_as_a_whole_one_does(is_cut: bool) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"some"
        yield b"more"
        if is_cut:
            raise RuntimeError("in the middle")

    gateway = Gateway(app, listener=TcpListener())
    try:
        if is_cut:
            with pytest.raises(ConnectionResetError):
                gateway.ask(b"GET / HTTP/1.0\r\n\r\n")
        else:
            assert gateway.ask(b"GET / HTTP/1.0\r\n\r\n").content == b"somemore"
    finally:
        gateway.close()
