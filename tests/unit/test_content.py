"""Content that is taken in before the app is called, and content that nobody reads."""

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import answers
import gevent
import pytest
import readers
from harness import GET, Client, Gateway, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ClientDisconnected, RequestEnded
from gateway.http.body import DROP_BYTES, MIN_BYTES_PER_SECOND
from gateway.http.spool import MEMORY_BYTES, Spool, SpoolFullError, Store
from gateway.http.states import State
from gateway.limits import Limits, MountLimits
from gateway.mounts.redirect import Redirect
from gateway.mounts.static import StaticDirectory

KIB, MIB = 1024, 1024 * 1024
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"
EXPECT = b"Expect: 100-continue\r\n"
STREAMS = MountLimits(request_buffering="off")


def post(content: bytes, extra: bytes = b"") -> bytes:
    return HEAD + extra + b"Content-Length: %d\r\n\r\n" % len(content) + content


def chunked(content: bytes, extra: bytes = b"") -> bytes:
    pieces = [content[at : at + 30_000] for at in range(0, len(content), 30_000)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])
    return HEAD + extra + b"Transfer-Encoding: chunked\r\n\r\n" + framed


FRAMINGS = pytest.mark.parametrize("framing", [post, chunked])


class Seen:
    """An app that notes its environs, reads all, and answers with how much that was."""

    def __init__(self) -> None:
        self.environs: list[dict[str, Any]] = []

    def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        self.environs.append(environ)
        environ["content"] = environ["wsgi.input"].read()
        start_response("200 OK", [])
        return [b"%d" % len(environ["content"])]


def send_beside(client: Client, *pieces: bytes) -> Any:
    """Sent by a greenlet of its own: the kernel may not take it all at once."""
    return gevent.spawn(client.send, *pieces)


# --- taken in -------------------------------------------------------------------------------------


@FRAMINGS
@pytest.mark.parametrize("size", [1, 1000, MEMORY_BYTES])
def test_an_app_is_called_once_its_content_is_there(serve: Any, framing: Any, size: int) -> None:
    app = Seen()
    gateway = serve(app)
    client = gateway.connect()
    content = os.urandom(size)
    request = framing(content)
    client.send(request[:-1])
    wait_until(lambda: gateway.connection.state is State.READING, "the rest is waited for")
    assert not app.environs
    assert client.ask(request[-1:]).content == b"%d" % size
    [environ] = app.environs
    assert environ["content"] == content
    assert environ["CONTENT_LENGTH"] == str(size)
    assert "HTTP_TRANSFER_ENCODING" not in environ
    assert client.ask(GET).content == b"0"


@pytest.mark.parametrize("size", [0, MEMORY_BYTES + 1, 3 * MIB])
def test_chunks_of_any_length_are_taken_in(serve: Any, size: int) -> None:
    app = Seen()
    gateway = serve(app)
    client = gateway.connect()
    content = os.urandom(size)
    sender = send_beside(client, chunked(content, b"Trailer: x\r\n"))
    assert client.read_answer().content == b"%d" % size
    sender.get()
    [environ] = app.environs
    assert environ["content"] == content
    assert environ["CONTENT_LENGTH"] == str(size)
    assert not {"HTTP_TRANSFER_ENCODING", "HTTP_TRAILER"} & environ.keys()
    assert client.ask(GET).content == b"0"
    assert gateway.service.spool.used_bytes == 0
    assert [record["bytes_in"] for record in gateway.records] == [size, 0]


def test_long_content_with_a_length_streams(serve: Any) -> None:
    got: list[bytes] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        got.append(environ["wsgi.input"].read(5))
        got.append(environ["wsgi.input"].read())
        start_response("200 OK", [])
        return [environ["CONTENT_LENGTH"].encode()]

    client = serve(app).connect()
    request = post(b"x" * 100_000)
    client.send(request[:-50_000])
    wait_until(lambda: got, "the app reads what has come")
    assert client.ask(request[-50_000:]).content == b"100000"
    assert len(got[1]) == 99_995


def test_content_of_any_length_is_taken_in_for_a_mount_that_says_so(serve: Any) -> None:
    app = Seen()
    gateway: Gateway = serve(app)
    [mount] = gateway.service.table.mounts
    mount.takes_in_all = True
    client = gateway.connect()
    sender = send_beside(client, post(b"x" * MIB)[:-1])
    wait_until(lambda: gateway.service.spool.used_bytes > 900_000, "it is taken in")
    assert not app.environs
    sender.get()
    assert client.ask(b"x").content == b"%d" % MIB


@pytest.mark.parametrize("size", [10, 200_000])
@pytest.mark.parametrize("how", ["read", "pieces", "lines", "iteration", "readlines", "read1"])
def test_taken_in_content_is_read_as_any_other(serve: Any, size: int, how: str) -> None:
    """PEP 3333 "Input and Error Streams"."""
    content = (b"a line\n" * (size // 7 + 1))[:size]

    def app(environ: Any, start_response: Any) -> list[bytes]:
        file = environ["wsgi.input"]
        read = {
            "read": lambda: [file.read()],
            "pieces": lambda: iter(lambda: file.read(1000), b""),
            "lines": lambda: iter(file.readline, b""),
            "iteration": lambda: file,
            "readlines": file.readlines,
            "read1": lambda: iter(lambda: file.read1(1000), b""),
        }[how]
        got = b"".join(read())
        assert file.read() == file.read(5) == file.readline() == b""
        start_response("200 OK", [])
        file.close()
        return [b"%d" % (got == content)]

    client = serve(app).connect()
    sender = send_beside(client, chunked(content))
    assert client.read_answer().content == b"1"
    sender.get()


@FRAMINGS
def test_100_is_sent_when_the_intake_starts(serve: Any, framing: Any) -> None:
    app = Seen()
    client = serve(app).connect()
    head, _, content = framing(b"hello", EXPECT).partition(b"\r\n\r\n")
    client.send(head + b"\r\n\r\n")
    assert client._read_head().status == 100
    assert not app.environs
    answer = client.ask(content)
    assert (answer.interim, answer.content) == ([], b"5")
    assert client.ask(GET).status == 200


@FRAMINGS
def test_a_client_that_leaves_while_its_content_is_taken_in_never_reaches_the_app(
    serve: Any, framing: Any
) -> None:
    app = Seen()
    gateway = serve(app)
    client = gateway.connect()
    client.send(framing(b"hello, world")[:-7])
    client.close()
    wait_until(lambda: gateway.records, "it is recorded")
    assert gateway.records[0]["status"] == 499
    assert not app.environs


@FRAMINGS
def test_content_that_pauses_while_it_is_taken_in_is_408(serve: Any, framing: Any) -> None:
    app = Seen()
    gateway = serve(app, limits=Limits(body_timeout_seconds=20))
    client = gateway.connect()
    client.send(framing(b"hello, world")[:-7])
    wait_until(lambda: gateway.connection.state is State.READING)
    gateway.pass_time(19)
    client.expect_open()
    gateway.pass_time(21)
    assert client.read_answer().status == 408
    client.expect_end()
    assert not app.environs


@pytest.mark.parametrize(("seconds", "is_too_slow"), [(20.0, False), (30.0, True)])
def test_content_that_trickles_while_it_is_taken_in_is_408(
    serve: Any, seconds: float, is_too_slow: bool
) -> None:
    """It never pauses for long: the average counts, behind a grace."""
    gateway = serve(Seen(), limits=Limits(body_timeout_seconds=20))
    client = gateway.connect()
    size = 5 * MIN_BYTES_PER_SECOND
    client.send(post(b"x" * 10_000)[: len(post(b"x" * 10_000)) - 10_000 + size])
    wait_until(lambda: gateway.connection.state is State.READING)
    content = gateway.connection.exchange.content
    wait_until(lambda: content.received_bytes == size, "that much has come")
    gateway.connection.since += seconds  # as if the last byte had come then
    gateway.pass_time(seconds)
    if is_too_slow:
        assert client.read_answer().status == 408
        assert gateway.records[0]["error"] == "the content came too slowly"
    else:
        client.expect_open()


def test_content_that_an_app_reads_itself_may_trickle(serve: Any) -> None:
    gateway = serve(Seen(), limits=Limits(body_timeout_seconds=20))
    client = gateway.connect()
    client.send(post(b"x" * 100_000)[:200])
    wait_until(lambda: gateway.connection.state is State.READING)
    gateway.connection.since += 1000
    gateway.pass_time(1000)
    client.expect_open()


@FRAMINGS
def test_content_that_is_taken_in_can_be_cut(serve: Any, framing: Any) -> None:
    gateway = serve(Seen())
    client = gateway.connect()
    client.send(framing(b"hello, world")[:-7])
    wait_until(lambda: gateway.connection.state is State.READING)
    assert gateway.server.drain(0.05) == 1
    assert client.read_answer().status == 503
    assert gateway.records[0]["error"].startswith("cut")


# --- bounds ---------------------------------------------------------------------------------------


def test_content_beyond_the_files_bound_is_503_and_is_accepted_once_there_is_room(
    serve: Any,
) -> None:
    app = Seen()
    gateway = serve(app, limits=Limits(max_spooled_bytes=300_000))
    slow = gateway.connect()
    slow.send(chunked(b"x" * 200_000)[:-1])
    wait_until(lambda: gateway.service.spool.used_bytes > 190_000, "it waits in a file")
    client = gateway.connect()
    sender = send_beside(client, chunked(b"y" * 200_000))
    answer = client.read_answer()
    assert (answer.status, answer["retry-after"]) == (503, "5")
    sender.get()
    assert "300000 bytes" in gateway.records[0]["error"]
    assert gateway.ask(chunked(b"z" * MEMORY_BYTES)).status == 200  # that needs no file
    assert slow.ask(b"\n").content == b"200000"
    assert gateway.ask(chunked(b"y" * 200_000)).content == b"200000"
    assert gateway.service.spool.used_bytes == 0


def test_content_that_is_more_than_all_files_may_have_is_413(serve: Any) -> None:
    gateway = serve(Seen(), limits=Limits(max_spooled_bytes=100_000))
    client = gateway.connect()
    sender = send_beside(client, chunked(b"y" * 150_000))
    assert client.read_answer().status == 413
    sender.get()
    assert gateway.ask(post(b"y" * 150_000)).status == 200  # it streams
    assert gateway.service.spool.used_bytes == 0


def test_a_directory_that_takes_no_files_is_503(
    serve: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gateway = serve(Seen())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    client = gateway.connect()
    sender = send_beside(client, chunked(b"y" * 150_000))
    assert client.read_answer().status == 503
    sender.get()
    assert "no temporary file" in gateway.records[0]["error"]
    assert gateway.service.spool.used_bytes == 0


def test_temporary_files_have_no_name(
    serve: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    listed: list[str] = []

    def app(environ: Any, start_response: Any) -> Any:
        listed.extend(path.name for path in tmp_path.iterdir())
        listed.append(str(len(environ["wsgi.input"].read())))
        return answers.one_piece(environ, start_response)

    assert serve(app).ask(chunked(b"y" * 150_000)).status == 200
    assert listed == ["150000"]


@given(
    pieces=st.lists(st.integers(1, MEMORY_BYTES), max_size=8),
    reads=st.lists(st.integers(1, 100_000), max_size=12),
    bound=st.integers(0, 400_000),
)
@settings(max_examples=200, deadline=None)
def test_a_store_gives_each_byte_once_and_loses_none_when_it_is_full(
    pieces: list[int], reads: list[int], bound: int
) -> None:
    spool = Spool(bound)
    store = Store(spool)
    written, read = b"", b""
    sizes = iter(reads)
    for number, size in enumerate(pieces):
        data = bytes([number]) * size
        written += data
        try:
            store.write(memoryview(data))
        except SpoolFullError:
            break
        finally:
            assert spool.used_bytes <= bound
        if (room := next(sizes, 0)) and number % 2:
            buffer = bytearray(room)
            read += buffer[: store.readinto(memoryview(buffer))]
    buffer = bytearray(70_000)
    while size := store.readinto(memoryview(buffer)):
        read += buffer[:size]
    assert read == written
    store.release()
    store.release()
    assert spool.used_bytes == 0


def test_content_that_is_kept_beyond_its_request_is_gone(serve: Any) -> None:
    kept: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        kept.append(environ["wsgi.input"])
        return answers.one_piece(environ, start_response)

    assert serve(app).ask(chunked(b"y" * 150_000)).status == 200
    with pytest.raises(ClientDisconnected):
        kept[0].read()


# --- unread ---------------------------------------------------------------------------------------


class Unread:
    """What does not read its content, and how it then answers."""

    def __init__(self, tmp_path: Path) -> None:
        (tmp_path / "file.txt").write_text("a file")
        self.mounts: dict[str, Any] = {
            "/app": answers.one_piece,
            "/generator": lambda e, s: (piece for piece in answers.one_piece(e, s)),
            "/fails": self.fail,
            "/ended": self.end,
            "/redirect": Redirect("/elsewhere", 308),
            "/static": StaticDirectory(tmp_path, index="index.html", cache_seconds=0),
        }

    def fail(self, environ: Any, start_response: Any) -> Any:
        raise ValueError("as it was told")

    def end(self, environ: Any, start_response: Any) -> Any:
        raise RequestEnded("as it was told", "503 Service Unavailable", "Full.")


TARGETS = {
    "/app": 200,
    "/generator": 200,
    "/fails": 500,
    "/ended": 503,
    "/redirect": 308,
    "/static/file.txt": 405,
    "/nothing": 404,
}


def unread(serve: Any, tmp_path: Path, **options: Any) -> Gateway:
    gateway: Gateway = serve(Unread(tmp_path).mounts, **options)
    for mount in gateway.service.table.mounts:
        mount.reads_content = mount.name in ("/app", "/generator", "/fails", "/ended")
    return gateway


@FRAMINGS
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("size", [1, 100_000, 5_000_000])
def test_an_answer_waits_for_content_that_nobody_reads(
    serve: Any, tmp_path: Path, framing: Any, target: str, size: int
) -> None:
    """Else nginx would close the client's connection behind it, having promised to keep it."""
    gateway = unread(serve, tmp_path)
    client = gateway.connect()
    request = framing(b"x" * size).replace(b" / ", f" {target} ".encode())
    sender = send_beside(client, request[:-1])
    wait_until(lambda: gateway.connection.state is State.READING, "it is read")
    sender.get()
    client.expect_open()  # no answer yet
    answer = client.ask(request[-1:])
    assert answer.status == TARGETS[target]
    if not answer.is_last:
        assert client.ask(GET.replace(b" / ", b" /app ")).status == 200
    assert answer.is_last is (target == "/ended")
    assert gateway.service.spool.used_bytes == 0


@FRAMINGS
@pytest.mark.parametrize("size", [11, 5_000_000])
def test_content_above_max_body_is_read_before_it_is_refused(
    serve: Any, framing: Any, size: int
) -> None:
    app = Seen()
    gateway = serve(app, mount_limits=MountLimits(max_body_bytes=10))
    client = gateway.connect()
    sender = send_beside(client, framing(b"x" * size))
    answer = client.read_answer()
    sender.get()
    assert (answer.status, answer.is_last) == (413, True)
    client.expect_end()
    assert gateway.connection.state is State.LINGERING
    assert not app.environs
    assert gateway.records[0]["bytes_in"] == size


@FRAMINGS
@pytest.mark.parametrize("target", ["/redirect", "/static/file.txt", "/nothing"])
def test_a_client_that_waits_for_a_100_is_spared_what_nobody_reads(
    serve: Any, tmp_path: Path, framing: Any, target: str
) -> None:
    client = unread(serve, tmp_path).connect()
    head, _, _ = framing(b"x" * 1000, EXPECT).partition(b"\r\n\r\n")
    answer = client.ask(head.replace(b" / ", f" {target} ".encode()) + b"\r\n\r\n")
    assert (answer.status, answer.interim) == (TARGETS[target], [])
    assert answer.is_last
    client.expect_end()


def test_a_client_that_waits_for_a_100_hears_of_its_length_at_once(serve: Any) -> None:
    client = serve(Seen(), mount_limits=MountLimits(max_body_bytes=10)).connect()
    answer = client.ask(HEAD + EXPECT + b"Content-Length: 11\r\n\r\n")
    assert (answer.status, answer.interim, answer.is_last) == (413, [], True)


@pytest.mark.parametrize("target", ["/app", "/redirect", "/nothing"])
def test_content_beyond_what_is_dropped_ends_the_connection_as_announced(
    serve: Any, tmp_path: Path, target: str
) -> None:
    gateway = unread(serve, tmp_path, mount_limits=MountLimits(max_body_bytes=1 << 30))
    client = gateway.connect()
    head = HEAD.replace(b" / ", f" {target} ".encode())
    answer = client.ask(head + b"Content-Length: %d\r\n\r\n" % (DROP_BYTES + 1))
    assert (answer.status, answer.is_last) == (TARGETS[target], True)
    client.expect_end()


@pytest.mark.parametrize("target", ["/app", "/redirect", "/nothing", "/generator", "/fails"])
def test_an_answer_goes_out_where_the_content_never_comes(
    serve: Any, tmp_path: Path, target: str
) -> None:
    gateway = unread(serve, tmp_path, limits=Limits(body_timeout_seconds=20))
    client = gateway.connect()
    head = HEAD.replace(b" / ", f" {target} ".encode())
    client.send(head + b"Content-Length: 100000\r\n\r\nbegin")
    wait_until(lambda: gateway.connection.state is State.READING)
    gateway.pass_time(21)
    answer = client.read_answer()
    assert (answer.status, answer.is_last) == (TARGETS[target], True)
    client.expect_end()


def echo(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [])
    while piece := environ["wsgi.input"].read(1000):
        yield piece


def answer_in_one_piece(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Length", "2")])
    yield b"ok"
    environ["content"] = environ["wsgi.input"].read()


@pytest.mark.parametrize("how", [MountLimits(), STREAMS])
def test_one_piece_before_the_content_is_read_says_whether_the_connection_is_kept(
    serve: Any, how: MountLimits
) -> None:
    """The whole body at once, but its app still reads."""
    seen = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        seen.append(environ)
        return answer_in_one_piece(environ, start_response)

    gateway = serve(app, mount_limits=how)
    client = gateway.connect()
    content = os.urandom(400_000)
    request = post(content)
    send_beside(client, request[:-1]).get()
    if how is STREAMS:
        answer = client.read_answer()
        client.send(request[-1:])
    else:
        client.expect_open()  # it does not begin before it has all
        client.send(request[-1:])
        answer = client.read_answer()
    assert (answer.content, answer.is_last) == (b"ok", how is STREAMS)
    wait_until(lambda: seen[0].get("content") == content)
    if how is STREAMS:
        client.expect_end()
    else:
        assert client.ask(post(b"x")).status == 200


@FRAMINGS
@pytest.mark.parametrize("size", [0, 1, 300_000, 3_000_000])
def test_an_app_that_answers_while_it_reads_gets_it_all(
    serve: Any, framing: Any, size: int
) -> None:
    """nginx passes on nothing of a request whose answer has begun."""
    gateway = serve(echo)
    client = gateway.connect()
    content = os.urandom(size)
    request = framing(content)
    sender = send_beside(client, request[:-1])
    sender.get()
    client.expect_open()  # it does not begin before it has all
    client.send(request[-1:])
    answer = client.read_answer()
    assert (answer.content, answer.is_last) == (content, False)
    assert client.ask(GET).status == 200
    assert gateway.service.spool.used_bytes == 0


def test_an_app_that_answers_while_it_reads_gets_it_all_where_no_file_has_room(serve: Any) -> None:
    gateway = serve(echo, limits=Limits(max_spooled_bytes=100_000))
    client = gateway.connect()
    content = os.urandom(300_000)
    sender = send_beside(client, post(content))
    answer = client.read_answer()
    sender.get()
    assert (answer.content, answer.is_last) == (content, True)
    client.expect_end()


def test_where_content_streams_an_app_answers_while_its_client_still_sends(serve: Any) -> None:
    client = serve(echo, mount_limits=STREAMS).connect()
    client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    for number in range(3):
        piece = bytes([number]) * 1000
        client.send(b"3e8\r\n" + piece + b"\r\n")
        if not number:
            head = client._read_head()
            assert ("connection", "close") in head.fields
        assert client._read_length(5 + 1000 + 2) == b"3e8\r\n" + piece + b"\r\n"
    client.send(b"0\r\n\r\n")
    assert client._read_chunks() == b""
    client.expect_end()


# --- who waits meanwhile --------------------------------------------------------------------------


def test_slow_uploads_hold_nobody_up(serve: Any) -> None:
    gateway = serve(readers.whole)
    slow = [gateway.connect() for _ in range(50)]
    for number, client in enumerate(slow):
        client.send((chunked if number % 2 else post)(b"x" * 2000)[:-1000])
    assert gateway.ask(post(b"quick")).content == b"[b'quick']"
    assert len(gateway.service.connections) == 50


def test_nothing_of_a_request_in_its_intake_is_left_behind(serve: Any) -> None:
    gateway = serve(Seen())
    for _ in range(5):
        client = gateway.connect()
        client.send(chunked(b"x" * 200_000)[:-1])
        client.close()
    wait_until(lambda: len(gateway.records) == 5, "all have ended")
    gc.collect()  # ResourceWarning is an error
    assert gateway.service.spool.used_bytes == 0


def test_a_released_file_is_read_no_more() -> None:
    store = Store(Spool(MIB))
    store.write(memoryview(bytes(MEMORY_BYTES + 1)))
    store.release()
    assert store.readinto(memoryview(bytearray(10))) == 0
