"""Nothing leaves the walk of a request: whatever hits it, and wherever it waits, the connection is
closed, its slot freed, its record written, and the others are served."""

import io
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import breakers
import gevent
import greenlet
import pytest
from gevent import get_hub
from gevent.event import Event
from harness import GET, Client, Gateway, wait_until
from scripted import Peer, scripted
from test_threads import CountedPool

from gateway.http.deadlines import LINGER_SECONDS
from gateway.http.states import RUNNING, State
from gateway.inflight import InFlight, InFlightReader
from gateway.limits import Limits, MountLimits
from gateway.mounts.threads import InThreads
from gateway.wsgi import FileWrapper

TEXT = [("Content-Type", "text/plain")]
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
BIG = 300_000
SENT = 2048  # the buffer of a client that reads slowly


def wait_a_turn() -> None:
    gevent.sleep(0)


# --- the requests: each waits in another place -------------------------------------------------


def answers(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", list(TEXT))
    return [b"ok"]


def waits(environ: Any, start_response: Any) -> list[bytes]:
    wait_a_turn()
    wait_a_turn()
    return answers(environ, start_response)


def reads(environ: Any, start_response: Any) -> list[bytes]:
    environ["wsgi.input"].read()
    return answers(environ, start_response)


def streams(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", list(TEXT))
    for _ in range(3):
        wait_a_turn()
        yield b"piece"


def streams_from_a_thread(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", list(TEXT))
    for _ in range(3):
        time.sleep(0.001)
        yield b"piece"


def sends_much(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", list(TEXT))
    return [b"x" * BIG]


def sends_a_file(environ: Any, start_response: Any) -> Any:
    file = tempfile.TemporaryFile()  # noqa: SIM115  the response closes it
    file.write(b"x" * BIG)
    file.seek(0)
    start_response("200 OK", list(TEXT))
    return FileWrapper(file)


def fails(environ: Any, start_response: Any) -> list[bytes]:
    raise ValueError("broken")


def fails_in_the_middle(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", list(TEXT))
    yield b"piece"
    wait_a_turn()
    raise ValueError("broken")


class ClosesSlowly(io.BytesIO):
    """What an app returns whose ``close`` waits."""

    def close(self) -> None:
        wait_a_turn()
        super().close()


def closes_slowly(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", list(TEXT))
    return ClosesSlowly(b"one\ntwo\n")


def ends_slowly(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", list(TEXT))
    try:
        yield b"piece"
        wait_a_turn()
    finally:
        wait_a_turn()


REQUESTS: dict[str, tuple[Any, tuple[bytes, ...], int]] = {
    "waits": (waits, (GET,), 0),
    "content unread": (answers, (POST, b"x" * 50, b"x" * 50), 0),
    "chunks unread": (answers, (CHUNKED, b"5\r\nhello\r\n", b"0\r\n\r\n"), 0),
    "content": (reads, (POST, b"x" * 50, b"x" * 50), 0),
    "chunks": (reads, (CHUNKED, b"5\r\nhe", b"llo\r\n", b"0\r\n\r\n"), 0),
    "content of an app that fails": (fails, (POST, b"x" * 50, b"x" * 50), 0),
    "slow reader": (sends_much, (GET,), SENT),
    "file": (sends_a_file, (GET,), SENT),
    "error page": (fails, (GET,), 0),
    "failure in the middle": (fails_in_the_middle, (GET,), 0),
    "stream": (streams, (GET,), 0),
    "slow close": (closes_slowly, (GET,), 0),
    "slow end": (ends_slowly, (GET,), 0),
    "no mount": (None, (POST, b"x" * 50, b"x" * 50), 0),
}
KINDS: dict[str, Callable[[], BaseException]] = {
    "Timeout": lambda: gevent.Timeout(1),
    "GreenletExit": gevent.GreenletExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": lambda: SystemExit(3),
    "RuntimeError": lambda: RuntimeError("from nowhere"),
}


class Injector:
    """Throws into the greenlet of the one request in flight where it waits for the ``number``-th
    time, or each time from then on."""

    def __init__(
        self, gateway: Gateway, number: int, make: Callable[[], BaseException], *, again: bool
    ) -> None:
        self._gateway = gateway
        self._number = number
        self._make = make
        self._again = again
        self.waits = 0
        self.hits = 0

    def note(self, event: str, switch: tuple[Any, Any]) -> None:
        """See ``greenlet.settrace``."""
        origin, target = switch
        exchanges = [c.exchange for c in self._gateway.service.connections]
        runners = [e.greenlet for e in exchanges if e is not None]
        if target is not get_hub() or origin not in runners:
            return
        self.waits += 1
        if self.waits == self._number or (self._again and self.waits > self._number):
            self.hits += 1
            get_hub().loop.run_callback(self._throw, origin, self.waits)

    def _throw(self, runner: Any, waits: int) -> None:
        if self.waits == waits and not runner.dead:
            runner.throw(self._make())


@contextmanager
def tracing(injector: Injector) -> Iterator[None]:
    before = greenlet.settrace(injector.note)
    try:
        yield
    finally:
        greenlet.settrace(before)


def converse(client: Client, pieces: tuple[bytes, ...]) -> None:
    """Send each of ``pieces`` when the last was read, and read all that comes."""
    reading = gevent.spawn(read_all, client)
    with suppress(OSError):
        for piece in pieces:
            client.send(piece)
            gevent.sleep(0.001)
    reading.join()


def read_all(client: Client) -> None:
    with suppress(OSError):
        while client._socket.recv(20_000):
            gevent.idle()


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def hit(gateway: Gateway, board: InFlightReader, request: Any, injector: Injector) -> None:
    """One request under ``injector``; what must be so afterwards, whatever has hit it."""
    _, pieces, buffer_bytes = request
    records, descriptors = len(gateway.records), count_descriptors()
    other = gateway.connect()
    [idle] = gateway.service.connections
    client = gateway.connect(buffer_bytes=buffer_bytes)
    with tracing(injector):
        talk = gevent.spawn(converse, client, pieces)
        wait_until(lambda: len(gateway.records) > records, "there is a record")
    # the sweep goes on
    idle.since -= 1e6
    get_hub().loop.run_callback(gateway.server._sweep)
    other.expect_end()
    client._socket.shutdown(2)
    talk.join()
    client.close()
    other.close()
    wait_until(lambda: not gateway.service.connections, "the connection is closed")
    assert len(gateway.records) == records + 1
    assert not board.count()
    assert count_descriptors() == descriptors


def hit_everywhere(
    gateway: Gateway, board: InFlightReader, request: Any, kind: str, *, again: bool
) -> int:
    """Hit ``request`` at each of its waits; how many those are."""
    number = 0
    while True:
        injector = Injector(gateway, number + 1, KINDS[kind], again=again)
        hit(gateway, board, request, injector)
        if not injector.hits:
            assert gateway.ask(b"GET /well HTTP/1.1\r\nHost: a\r\n\r\n").content == b"ok"
            return number
        number += 1


@pytest.fixture
def board() -> InFlightReader:
    return InFlightReader(16)


def begin(serve: Any, board: InFlightReader, app: Any) -> Gateway:
    mounts = {"/well": answers} | ({"/": app} if app else {})
    gateway: Gateway = serve(mounts, in_flight=InFlight(board.descriptor))

    def show_fault(error: BaseException) -> str:
        wait_a_turn()
        return ""

    gateway.service.show_fault = show_fault
    gateway.ask(b"GET /well HTTP/1.1\r\nHost: a\r\n\r\n")  # descriptors that stay are opened now
    return gateway


@pytest.mark.parametrize("again", [False, True], ids=["once", "again"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", REQUESTS)
def test_whatever_hits_a_request_where_it_waits_leaves_one_record_and_nothing_else(
    serve: Any, board: InFlightReader, name: str, kind: str, again: bool
) -> None:
    gateway = begin(serve, board, REQUESTS[name][0])
    assert hit_everywhere(gateway, board, REQUESTS[name], kind, again=again) >= 1


@pytest.mark.parametrize("kind", KINDS)
def test_so_it_is_for_an_app_in_a_thread(serve: Any, board: InFlightReader, kind: str) -> None:
    threads = CountedPool(2)
    gateway = begin(serve, board, InThreads(streams_from_a_thread, threads))
    for _ in range(2):
        gateway.ask()  # what a thread opens stays
    wait_until(lambda: not gateway.service.connections, "both have ended")
    assert hit_everywhere(gateway, board, (None, (GET,), 0), kind, again=False) >= 3
    wait_until(lambda: not len(threads), "no thread is at work")
    threads.end()


@pytest.mark.parametrize("kind", KINDS)
def test_so_it_is_for_a_request_that_another_server_answers(
    serve: Any, upstream: Any, board: InFlightReader, kind: str
) -> None:
    def answer(peer: Peer) -> None:
        with suppress(EOFError, OSError):
            while True:
                peer.read_head()
                peer.read(100)
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", b"fine")

    with scripted(answer) as server:
        mount = upstream(server.address)
        gateway = begin(serve, board, mount)
        number = 1
        while True:
            injector = Injector(gateway, number, KINDS[kind], again=False)
            hit_and_forget(gateway, mount, injector)
            assert not board.count()
            if not injector.hits:
                break
            number += 1
        assert number > 1


def hit_and_forget(gateway: Gateway, mount: Any, injector: Injector) -> None:
    """As ``hit``; connections to the server may stay open, for the next request."""
    records = len(gateway.records)
    client = gateway.connect()
    with tracing(injector):
        talk = gevent.spawn(converse, client, (POST, b"x" * 50, b"x" * 50))
        wait_until(lambda: len(gateway.records) > records, "there is a record")
    client._socket.shutdown(2)
    talk.join()
    client.close()
    wait_until(lambda: not gateway.service.connections, "the connection is closed")
    assert len(gateway.records) == records + 1


@pytest.mark.parametrize(
    "app", [breakers.late_timeout, breakers.late_kill, breakers.late_interrupt]
)
def test_what_an_app_leaves_running_hits_the_draining_of_its_content(
    serve: Any, board: InFlightReader, app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    streams = MountLimits(request_buffering="off")
    in_flight = InFlight(board.descriptor)
    gateway = serve(app(0.02), in_flight=in_flight, mount_limits=streams)
    client = gateway.connect()
    client.send(POST, b"0123456789")
    assert client.read_answer().content == b"ok"
    client.expect_end()
    wait_until(lambda: gateway.records, "there is a record")
    [record] = gateway.records
    assert record["status"] == 200
    assert record["error"]
    assert not board.count()
    assert "left running" in caplog.text


def test_a_sweep_that_fails_for_one_connection_goes_on_for_the_others(serve: Any) -> None:
    gateway = serve(answers, limits=Limits(keep_alive_seconds=60))
    clients = [gateway.connect() for _ in range(3)]
    for connection in gateway.service.connections:
        connection.since -= 1e6
    [broken, *_] = gateway.service.connections
    broken.state, broken.exchange = RUNNING, object()
    get_hub().loop.run_callback(gateway.server._sweep)
    for client in clients:
        client.expect_end()


def test_an_app_whose_deadline_has_passed_and_whose_close_fails_has_one_record(serve: Any) -> None:
    class Result:
        def __iter__(self) -> Iterator[bytes]:
            gevent.sleep(60)
            yield b""

        def close(self) -> None:
            raise RuntimeError("cannot close")

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", list(TEXT))
        return Result()

    gateway = serve(app, mount_limits=MountLimits(timeout_seconds=5))
    client = gateway.connect()
    client.send(GET)
    gateway.pass_time(10)
    assert client.read_answer().status in (500, 504)
    assert len(gateway.records) == 1


def test_a_greenlet_that_reads_on_when_the_request_has_ended_is_told_that_it_has(
    serve: Any,
) -> None:
    seen: list[BaseException] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        content = environ["wsgi.input"]

        def read_on() -> None:
            try:
                content.read()
            except Exception as error:  # noqa: BLE001  it is what is looked at
                seen.append(error)

        gevent.spawn(read_on)
        gevent.idle()
        raise SystemExit

    gateway = serve(app, mount_limits=MountLimits(request_buffering="off"))
    client = gateway.connect()
    client.send(POST, b"0123456789")
    gateway.pass_time(Limits().body_timeout_seconds + 1)
    assert client.read_answer().status == 500
    client.close()
    wait_until(lambda: seen, "it ends")
    assert len(gateway.records) == 1


def test_a_greenlet_that_begins_to_read_when_the_request_has_ended_keeps_no_connection(
    serve: Any,
) -> None:
    """It waits while the connection lingers, which ends in time all the same."""
    may_read = Event()
    seen: list[BaseException] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        content = environ["wsgi.input"].raw

        def read_late() -> None:
            may_read.wait()
            try:
                content.read(1)
            except Exception as error:  # noqa: BLE001  it is what is looked at
                seen.append(error)

        gevent.spawn(read_late)
        start_response("200 OK", [*TEXT, ("Content-Length", "2")])
        return [b"ok"]

    limits = MountLimits(request_buffering="off", max_body_bytes=10**9)
    gateway = serve(app, mount_limits=limits)
    client = gateway.connect()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n")
    assert client.read_answer().status == 200
    wait_until(lambda: gateway.connection.state is State.LINGERING, "the connection lingers")
    may_read.set()
    gevent.idle()
    gateway.pass_time(LINGER_SECONDS + 1)
    wait_until(lambda: not gateway.service.connections, "the connection is closed")
    wait_until(lambda: seen, "it ends")


def test_an_error_log_that_cannot_be_written_costs_no_answer(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import logging

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ValueError("underlying buffer has been detached")

    monkeypatch.setattr(logging.getLogger("gateway"), "handlers", [Broken()])
    assert serve(fails).ask().status == 500
