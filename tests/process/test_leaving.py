"""A client that leaves ends its stream: what the app sees of it, what is freed, what goes on."""

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.event
import pytest
from harness import GET, Client, Gateway, wait_until
from running import Running
from running import wait_until as wait_outside

from gateway.limits import MountLimits
from gateway.mounts.admission import Limited, Semaphore

POST = b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nab"


class Stream:
    """Yields once, then is quiet until it ``may_go_on``; ``seen`` is what came of it."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.may_go_on = gevent.event.Event()

    def __call__(self, environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            yield b"first"
            self.may_go_on.wait()
            yield b"last"
            self.seen.append("whole")
        except BaseException as error:
            self.seen.append("ended" if isinstance(error, GeneratorExit) else repr(error))
            raise
        finally:
            self.seen.append("closed")


def begun(gateway: Gateway, request: bytes = GET) -> Client:
    """A client whose stream has sent its first piece."""
    client = gateway.connect()
    client.send(request)
    client._read_head()
    assert client._read_line() == b"5"
    assert client._read_length(5) == b"first"
    gateway.pass_time(0)  # the sweep has seen that
    return client


@pytest.fixture
def stream() -> Stream:
    return Stream()


def leave_by_reset(client: Client) -> None:
    client._socket.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER: a close is a reset
    client.close()


@pytest.mark.parametrize("leave", [Client.close, Client.end, leave_by_reset])
@pytest.mark.parametrize("request_", [GET, POST])
def test_a_quiet_stream_ends_when_its_client_has_left(
    serve: Any, stream: Stream, leave: Callable[[Client], None], request_: bytes
) -> None:
    gateway = serve(stream, mount_limits=MountLimits(request_buffering="off"))
    client = begun(gateway, request_)
    leave(client)
    gateway.pass_time(1)
    wait_until(lambda: stream.seen == ["ended", "closed"], "the stream was closed")
    wait_until(lambda: gateway.records, "the record is written")
    [record] = gateway.records
    assert (record["status"], record["error"]) == (200, "the client left")


def test_a_client_that_waits_keeps_its_stream(serve: Any, stream: Stream) -> None:
    gateway = serve(stream)
    client = begun(gateway)
    for _ in range(3):
        gateway.pass_time(5)
    assert stream.seen == []
    stream.may_go_on.set()
    assert client._read_length(8) == b"\r\n4\r\nlast"[0:8]
    wait_until(lambda: stream.seen == ["whole", "closed"], "it ended by itself")


def test_a_stream_that_sends_goes_on_for_a_client_that_still_reads(serve: Any) -> None:
    sent = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        for number in range(4):
            yield b"%d" % number
            sent.append(number)
            go_on.wait()
            go_on.clear()

    go_on = gevent.event.Event()
    gateway = serve(app)
    client = gateway.connect()
    client.send(GET)
    client.end()
    for number in range(4):
        wait_until(lambda: len(sent) == number + 1)  # noqa: B023  called in this turn alone
        gateway.pass_time(0.1)
        go_on.set()
    assert client.read_answer().content == b"0123"


def test_a_request_that_is_not_answered_yet_runs_to_its_end(serve: Any) -> None:
    may_go_on = gevent.event.Event()
    seen = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        try:
            may_go_on.wait()
        finally:
            seen.append("ran")
        start_response("200 OK", [])
        return [b"answer"]

    gateway = serve(app)
    client = gateway.connect()
    client.send(GET)
    client.end()
    for _ in range(3):
        gateway.pass_time(5)
    assert seen == []
    may_go_on.set()
    assert client.read_answer().content == b"answer"


def test_what_an_app_does_behind_a_whole_response_is_left_alone(serve: Any) -> None:
    may_go_on = gevent.event.Event()
    seen = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", "5")])
        yield b"whole"
        may_go_on.wait()
        seen.append("done")

    gateway = serve(app)
    client = gateway.connect()
    client.send(GET)
    assert client.read_answer().content == b"whole"
    client.close()
    gateway.pass_time(5)
    may_go_on.set()
    wait_until(lambda: seen == ["done"], "it ran to its end")


def test_cleaning_up_is_not_interrupted(serve: Any) -> None:
    may_go_on = gevent.event.Event()
    seen = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            yield b"first"
            gevent.sleep(3600)
        finally:
            may_go_on.wait()
            seen.append("cleaned up")

    gateway = serve(app)
    client = begun(gateway)
    client.close()
    for _ in range(3):
        gateway.pass_time(2)
    assert seen == []
    may_go_on.set()
    wait_until(lambda: seen == ["cleaned up"], "it took its time")


def test_an_app_that_swallows_everything_is_ended_by_its_timeout(serve: Any) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"first"
        try:
            gevent.sleep(3600)
        except GeneratorExit:
            gevent.sleep(3600)

    gateway = serve(app, mount_limits=MountLimits(timeout_seconds=10))
    client = begun(gateway)
    client.close()
    gateway.pass_time(2)
    assert not gateway.records
    gateway.pass_time(13)
    wait_until(lambda: gateway.records, "it has ended")


def test_the_place_of_a_client_that_has_left_is_free(serve: Any, stream: Stream) -> None:
    semaphore = Semaphore("mount /")
    gateway = serve(Limited(stream, semaphore))
    client = begun(gateway)
    assert semaphore._running == 1
    client.close()
    gateway.pass_time(1)
    wait_until(lambda: semaphore._running == 0, "the place is free")


# --- a whole gateway ------------------------------------------------------------------------------

QUIET = """
import time
from pathlib import Path

closed = Path(__file__).with_name("closed")

def app(environ, start_response):
    mount = environ["SCRIPT_NAME"].strip("/")
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/quick":
        return [b"quick"]
    return stream(mount, environ["PATH_INFO"])

def stream(mount, path):
    try:
        yield b"first"
        if path == "/hang":
            time.sleep(3600)
        while True:
            time.sleep(0.05)
            if path == "/tick":
                yield b"tick"
    except GeneratorExit:
        with closed.open("a") as file:
            file.write(f"{mount} {path}\\n")
        raise
"""
MOUNTS = """\
  /main: {app: "quiet:app", max_concurrency: 2, queue: 0}
  /pool: {app: "quiet:app", max_concurrency: 2, queue: 0, pool: greenlets}
  /threads: {app: "quiet:app", max_concurrency: 2, queue: 0, pool: threads}
pools:
  greenlets: {}
  threads: {concurrency: threads, threads: 2}
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: Any) -> Iterator[Running]:
    running = Running(
        tmp_path_factory.mktemp("gateway"), MOUNTS, "  drain_timeout: 1s\n", quiet=QUIET
    )
    yield running
    running.end()


def leave(gateway: Running, target: str) -> None:
    """Begin a stream, and go."""
    with gateway.connect() as client:
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        received = b""
        while b"first" not in received:
            received += client.recv(65536)


@pytest.mark.parametrize("mount", ["/main", "/pool", "/threads"])
@pytest.mark.parametrize("kind", ["/quiet", "/tick"])
def test_iterables_are_closed_and_places_freed(gateway: Running, mount: str, kind: str) -> None:
    for _ in range(2):
        leave(gateway, mount + kind)
    wait_outside(lambda: b" 200 " in gateway.ask(f"{mount}/quick")[:20], "there is a place")
    wait_outside(lambda: _closed(gateway).count(f"{mount[1:]} {kind}") == 2, "both are closed")


def test_threads_that_cannot_be_ended_keep_nobody_waiting(gateway: Running) -> None:
    for _ in range(2):
        leave(gateway, "/threads/hang")
    wait_outside(lambda: b" 200 " in gateway.ask("/threads/quick")[:20], "there is a thread")


def _closed(gateway: Running) -> list[str]:
    path = gateway.folder / "closed"
    return path.read_text().splitlines() if path.exists() else []
