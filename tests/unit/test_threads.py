"""Apps in native threads, over real sockets; nothing here is monkey-patched."""

import contextlib
import gc
import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import get_hub
from harness import GET, Cut, Gateway, wait_until

from gateway.errors import AppError, ClientDisconnected
from gateway.limits import MountLimits
from gateway.mounts import threadpool
from gateway.mounts.threadpool import ThreadPool
from gateway.mounts.threads import InThreads

HUB_THREAD = threading.get_ident()
LONG = 1024 * 1024  # more than the kernel takes of an answer that nobody reads
STREAMS = MountLimits(request_buffering="off")
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


class CountedPool(ThreadPool):
    """``len`` is how many of its threads are at work or asked for."""

    def __init__(self, most: int, name: str = "app") -> None:
        super().__init__(most, name)
        self._lock = threading.Lock()
        self._most_threads = most
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def spawn(self, call: Callable[[], object]) -> None:
        def counted() -> object:
            is_lost = call()
            with self._lock:
                self._count -= 1
            return is_lost

        with self._lock:
            self._count += 1
        super().spawn(counted)

    def _run(self) -> None:
        with contextlib.suppress(SystemExit):
            super()._run()

    def end(self) -> None:
        """Have all its threads end: a gateway takes them for left behind."""
        for _ in range(self._most_threads):
            super().spawn(sys.exit)


@pytest.fixture
def threads() -> Iterator[ThreadPool]:
    pool = CountedPool(2)
    yield pool
    wait_until(lambda: not len(pool), "no thread is at work")
    pool.end()


class Rendezvous:
    """Blocks the threads that come to it, without the hub."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.ended: list[str] = []
        self.open = threading.Event()
        self._lock = threading.Lock()

    def wait(self) -> None:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        assert self.open.wait(10)
        with self._lock:
            self.inside -= 1


def answer(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def test_an_app_runs_in_a_thread_of_its_own(serve: Any, threads: ThreadPool) -> None:
    seen: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append((threading.get_ident(), environ["wsgi.multithread"]))
        return answer(environ, start_response)

    found = serve(InThreads(app, threads)).ask()
    assert (found.status, found.content, found["content-length"]) == (200, b"hello", "5")
    assert seen[0][0] != HUB_THREAD
    assert seen[0][1] is True


def test_its_threads_are_those_of_the_threading_module_and_have_names(
    serve: Any,
) -> None:
    seen: list[threading.Thread] = []
    meeting = Rendezvous()
    local = threading.local()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        local.count = getattr(local, "count", 0) + 1
        seen.append(threading.current_thread())
        meeting.wait()
        start_response("200 OK", [])
        return [b"%d" % local.count]

    pool = CountedPool(2, "shop")
    gateway = serve(InThreads(app, pool))
    clients = [gateway.connect() for _ in range(2)]
    for client in clients:
        client.send(GET)
    wait_until(lambda: meeting.inside == 2, "two requests are in threads")
    assert {thread.name for thread in seen} == {"shop-1", "shop-2"}
    assert set(seen) <= set(threading.enumerate())
    assert {type(thread) for thread in seen} == {threading.Thread}
    meeting.open.set()
    assert [client.read_answer().content for client in clients] == [b"1", b"1"]
    assert gateway.ask().content == b"2"  # which a thread kept from the request before
    pool.end()
    wait_until(lambda: not set(seen) & set(threading.enumerate()), "they have ended")


def test_a_thread_is_started_only_where_none_is_free_and_never_one_too_many() -> None:
    pool = CountedPool(3)
    seen: set[str] = set()
    for _ in range(20):
        pool.spawn(lambda: seen.add(threading.current_thread().name))
        wait_until(lambda: not len(pool), "the call has ended")
        wait_until(lambda: len(pool._ended) == 1, "its thread is free again")
    assert seen == {"app-1"}
    meeting = Rendezvous()
    for _ in range(20):
        pool.spawn(meeting.wait)
    wait_until(lambda: meeting.inside == 3, "all threads are at work")
    meeting.open.set()
    wait_until(lambda: not len(pool), "all calls have ended")
    assert meeting.most == 3
    pool.end()


@pytest.mark.parametrize("way", ["pause", "lose"])
def test_a_call_that_had_to_wait_is_replaced_like_any_other(way: str) -> None:
    pool = CountedPool(1)
    meetings = Rendezvous(), Rendezvous()
    done: list[str] = []

    def block_and_end() -> bool:
        meetings[1].wait()
        return way == "lose"

    pool.spawn(meetings[0].wait)
    pool.spawn(block_and_end)
    meetings[0].open.set()
    wait_until(lambda: meetings[1].inside == 1, "the second call runs")
    wait_until(lambda: not pool._timer.active, "nobody waits for a thread")
    getattr(pool, way)(block_and_end)
    pool.spawn(lambda: done.append("third"))
    wait_until(lambda: done, "the third call runs")
    if way == "pause":
        pool.resume(block_and_end, meetings[1].open.set)
    else:
        meetings[1].open.set()
    wait_until(lambda: not len(pool), "all calls have ended")
    wait_until(lambda: len(names_of_threads()) == 1, "one thread is left")
    pool.end()


def test_as_many_block_at_a_time_as_there_are_threads(serve: Any, threads: ThreadPool) -> None:
    meeting = Rendezvous()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        meeting.wait()
        time.sleep(0.01)  # blocks its thread alone
        return answer(environ, start_response)

    gateway = serve({"/": InThreads(app, threads), "/now": answer})
    clients = [gateway.connect() for _ in range(5)]
    for client in clients:
        client.send(GET)
    wait_until(lambda: meeting.inside == 2, "both threads are taken")
    # the event loop is free meanwhile
    assert gateway.ask(b"GET /now HTTP/1.1\r\nHost: a\r\n\r\n").content == b"hello"
    meeting.open.set()
    assert [client.read_answer().content for client in clients] == [b"hello"] * 5
    assert meeting.most == 2


def test_a_response_is_streamed_out_of_the_thread(serve: Any, threads: ThreadPool) -> None:
    go_on = threading.Event()
    ran_in: set[int] = set()

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        ran_in.add(threading.get_ident())
        yield b"one"
        assert go_on.wait(10)
        ran_in.add(threading.get_ident())
        yield b"two"

    gateway = serve(InThreads(app, threads))
    client = gateway.connect()
    client.send(GET)
    wait_until(lambda: gateway.connection.wire.sent_bytes > 0, "the first piece has gone out")
    assert not go_on.is_set()
    go_on.set()
    found = client.read_answer()
    assert (found.framing, found.content) == ("chunked", b"onetwo")
    assert len(ran_in) == 1
    assert HUB_THREAD not in ran_in


def test_the_end_goes_out_before_close_runs_once(serve: Any, threads: ThreadPool) -> None:
    closed: list[int] = []
    may_close = threading.Event()

    class Pieces:
        def __init__(self, *pieces: bytes) -> None:
            self.pieces = iter(pieces)

        def __iter__(self) -> Iterator[bytes]:
            return self.pieces

        def close(self) -> None:
            assert may_close.wait(10)
            closed.append(threading.get_ident())

    def app(environ: Any, start_response: Any) -> Pieces:
        start_response("200 OK", [])
        return Pieces(*[b"x"] * int(environ["QUERY_STRING"]))

    gateway = serve(InThreads(app, threads))
    for count in (0, 1, 3):
        may_close.clear()
        found = gateway.ask(b"GET /?%d HTTP/1.1\r\nHost: a\r\n\r\n" % count)
        assert found.content == b"x" * count
        assert not closed
        may_close.set()
        wait_until(lambda: closed, "close ran")
        assert closed != [HUB_THREAD]
        assert len(closed) == 1
        closed.clear()


def test_content_is_read_from_the_thread(serve: Any, threads: ThreadPool) -> None:
    received: list[bytes] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        while piece := environ["wsgi.input"].read(1000):
            received.append(piece)
        return answer(environ, start_response)

    gateway = serve(InThreads(app, threads))
    client = gateway.connect()
    client.send(CHUNKED, b"5\r\nabcde\r\n", b"3\r\nfgh\r\n", b"0\r\n\r\n")
    assert client.read_answer().status == 200
    assert b"".join(received) == b"abcdefgh"
    received.clear()
    content = bytes(range(256)) * 4000
    request = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    client.send(request % len(content))
    wait_until(lambda: gateway.connection.wire.sent_bytes > 0, "100 Continue")
    sender = gevent.spawn(client.send, content)
    found = client.read_answer()
    sender.get()
    assert [each.status for each in found.interim] == [100]
    assert b"".join(received) == content


def test_write_and_early_hints_are_sent_at_once(serve: Any, threads: ThreadPool) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        environ["wsgi.early_hints"]([("Link", "</a.css>; rel=preload")])
        write = start_response("200 OK", [])
        write(b"one")
        return [b"two"]

    found = serve(InThreads(app, threads)).ask()
    assert [each.status for each in found.interim] == [103]
    assert found.content == b"onetwo"


def test_what_an_app_raises_is_its_500(
    serve: Any, threads: ThreadPool, caplog: pytest.LogCaptureFixture
) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        raise {"value": ValueError, "exit": SystemExit}[environ["QUERY_STRING"]]("broken")

    gateway = serve(InThreads(app, threads))
    assert gateway.ask(b"GET /?value HTTP/1.1\r\nHost: a\r\n\r\n").status == 500
    assert gateway.ask(b"GET /?exit HTTP/1.1\r\nHost: a\r\n\r\n").status == 500
    assert [record["error"] for record in gateway.records] == [
        "ValueError: broken",
        "SystemExit: broken",
    ]


def test_a_fault_within_the_response_cuts_it(serve: Any, threads: ThreadPool) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"one"
        raise ValueError("broken")

    client = serve(InThreads(app, threads)).connect()
    with pytest.raises(Cut) as cut:
        client.ask(GET)
    assert cut.value.content == b"one"


def test_exc_info_replaces_a_response_that_has_not_begun(serve: Any, threads: ThreadPool) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        try:
            if environ["QUERY_STRING"]:
                write(b"x")
            raise ValueError("broken")
        except ValueError as error:
            start_response("500 Oh", [], (type(error), error, error.__traceback__))
        return [b"replaced"]

    gateway = serve(InThreads(app, threads))
    assert gateway.ask().reason == "Oh"
    with pytest.raises(Cut):
        gateway.ask(b"GET /?late HTTP/1.1\r\nHost: a\r\n\r\n")


def test_a_bad_header_is_refused_where_the_app_gave_it(serve: Any, threads: ThreadPool) -> None:
    refused: list[str] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        try:
            start_response("200 OK", [("a", "b\r\nc: d")])
        except AppError as error:
            refused.append(str(error))
        return answer(environ, start_response)

    assert serve(InThreads(app, threads)).ask().content == b"hello"
    assert "line breaks" in refused[0]


def test_a_request_that_timed_out_leaves_its_thread_to_itself(
    serve: Any, threads: ThreadPool
) -> None:
    meeting = Rendezvous()
    heard: list[BaseException] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        meeting.wait()
        try:
            start_response("200 OK", [])
        except ClientDisconnected as error:
            heard.append(error)
            raise
        return [b"late"]

    gateway = serve(InThreads(app, threads), mount_limits=MountLimits(timeout_seconds=30))
    client = gateway.connect()
    client.send(GET)
    wait_until(lambda: meeting.inside == 1, "the app is called")
    gateway.pass_time(31)
    assert client.read_answer().status == 504
    assert len(threads) == 1
    meeting.open.set()
    wait_until(lambda: heard, "the app turned to its request again")
    assert str(heard[0]) == "the request has ended"
    assert gateway.ask().content == b"late"


def test_a_request_may_time_out_while_it_waits_for_a_thread(
    serve: Any, threads: ThreadPool
) -> None:
    meeting = Rendezvous()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        meeting.wait()
        return answer(environ, start_response)

    gateway = serve(InThreads(app, threads), mount_limits=MountLimits(timeout_seconds=30))
    clients = [gateway.connect() for _ in range(3)]
    for client in clients:
        client.send(GET)
    wait_until(lambda: meeting.inside == 2, "both threads are taken")
    gateway.pass_time(31)
    assert [client.read_answer().status for client in clients] == [504] * 3
    meeting.open.set()
    wait_until(lambda: not len(threads), "both threads are free again")
    assert gateway.ask().status == 200


def test_a_client_that_leaves_closes_the_result_in_its_thread(
    serve: Any, threads: ThreadPool
) -> None:
    closed: list[int] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            while True:
                yield b"x" * 65536
        finally:
            closed.append(threading.get_ident())

    gateway = serve(InThreads(app, threads))
    client = gateway.connect()
    client.send(GET)
    wait_until(lambda: gateway.connection.state.value == "writing", "the client does not read")
    client.close()
    wait_until(lambda: closed, "the app's finally ran")
    assert closed != [HUB_THREAD]
    wait_until(lambda: gateway.records, "it is recorded")
    assert "the client left" in gateway.records[0]["error"]


def test_a_client_that_leaves_within_its_content_is_told_to_the_app(
    serve: Any, threads: ThreadPool
) -> None:
    heard: list[BaseException] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            heard.append(error)
            raise
        return answer(environ, start_response)

    gateway = serve(InThreads(app, threads), mount_limits=STREAMS)
    client = gateway.connect()
    client.send(CHUNKED, b"5\r\nab")
    client.close()
    wait_until(lambda: heard, "the app heard of it")


@pytest.mark.parametrize(
    ("end", "status", "told"),
    [
        (lambda gateway: gateway.pass_time(31), 408, "no content came in time"),
        (
            lambda gateway: get_hub().loop.run_callback(gateway.connection.cut),
            503,
            "the request has ended",
        ),
    ],
)
def test_a_request_that_is_ended_while_it_is_read_frees_its_thread(
    serve: Any, threads: ThreadPool, end: Any, status: int, told: str
) -> None:
    heard: list[str] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        try:
            environ["wsgi.input"].read()
        except Exception as error:
            heard.append(str(error))
            raise
        return answer(environ, start_response)

    gateway = serve(InThreads(app, threads), mount_limits=STREAMS)
    client = gateway.connect()
    client.send(CHUNKED, b"5\r\nab")
    wait_until(lambda: gateway.connection.state.value == "reading", "the app reads")
    end(gateway)
    assert client.read_answer().status == status
    wait_until(lambda: heard, "the app heard of it")
    assert heard == [told]


def test_each_request_begins_in_an_empty_context(serve: Any) -> None:
    marked: ContextVar[str] = ContextVar("marked", default="no")
    found: list[str] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        found.append(marked.get())
        marked.set("yes")
        yield b"one"
        found.append(marked.get())

    pool = CountedPool(1)
    gateway = serve(InThreads(app, pool))
    for _ in range(2):
        gateway.ask()
    assert found == ["no", "yes", "no", "yes"]
    pool.end()


def test_a_file_goes_out_by_sendfile(serve: Any, threads: ThreadPool, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789" * 10_000)

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        is_file = environ["QUERY_STRING"] == "file"
        file = open(tmp_path / "file", "rb") if is_file else io.BytesIO(b"in memory")  # noqa: SIM115
        return environ["wsgi.file_wrapper"](file)

    gateway = serve(InThreads(app, threads))
    found = gateway.ask(b"GET /?file HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (found.framing, len(found.content)) == ("length", 100_000)
    assert gateway.ask().content == b"in memory"
    gc.collect()  # ResourceWarning is an error: both are closed


def test_requests_of_one_connection_follow_each_other(serve: Any, threads: ThreadPool) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [environ["QUERY_STRING"].encode()]

    client = serve(InThreads(app, threads)).connect()
    request = b"GET /?%d HTTP/1.1\r\nHost: a\r\n\r\n"
    client.send(b"".join(request % number for number in range(20)))
    assert [client.read_answer().content for _ in range(20)] == [b"%d" % n for n in range(20)]


def test_many_threads_and_many_requests_never_mix(serve: Any) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        for _ in range(5):
            yield environ["QUERY_STRING"].encode()

    pool = CountedPool(8)
    gateway: Gateway = serve(InThreads(app, pool))

    def ask(number: int) -> None:
        for turn in range(10):
            name = b"%d-%d;" % (number, turn)
            assert gateway.ask(b"GET /?%b HTTP/1.1\r\nHost: a\r\n\r\n" % name).content == name * 5

    gevent.joinall([gevent.spawn(ask, number) for number in range(20)], raise_error=True)
    pool.end()


# --- slow clients ---------------------------------------------------------------------------------


def test_slow_clients_hold_no_thread_and_no_more_run_than_there_are(serve: Any) -> None:
    inside: list[int] = []
    seen: set[int] = set()

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        for _ in range(20):
            inside.append(1)
            seen.add(len(inside))
            time.sleep(0.001)
            inside.pop()
            yield b"x" * 65536

    pool = CountedPool(1)
    gateway = serve({"/": InThreads(app, pool), "/short": InThreads(answer, pool)})
    slow = [gateway.connect() for _ in range(10)]
    for client in slow:
        client.send(GET)
    for _ in range(3):
        assert gateway.ask(b"GET /short HTTP/1.1\r\nHost: a\r\n\r\n").content == b"hello"
    assert not gateway.records or {record["target"] for record in gateway.records} == {"/short"}
    readers = [gevent.spawn(client.read_answer) for client in slow]
    gevent.joinall(readers, raise_error=True)
    assert {len(reader.value.content) for reader in readers} == {20 * 65536}
    assert seen == {1}
    wait_until(lambda: len(names_of_threads()) == 1, "the pool is as small as before")
    pool.end()


def test_streams_that_go_on_keep_no_request_from_its_turn(serve: Any) -> None:
    """Each of them always finds another one waiting for the only thread."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        while True:
            time.sleep(0.005)
            yield b"x" * LONG

    def read_on(client: Any) -> None:
        while True:
            for _ in range(16):
                client._more()
            client._received = b""
            gevent.sleep(0.02)

    pool = CountedPool(1)
    gateway = serve({"/": InThreads(app, pool), "/short": InThreads(answer, pool)})
    slow = [gateway.connect() for _ in range(10)]
    for client in slow:
        client.send(GET)
    readers = [gevent.spawn(read_on, client) for client in slow]
    for _ in range(5):
        assert gateway.ask(b"GET /short HTTP/1.1\r\nHost: a\r\n\r\n").content == b"hello"
    gevent.killall(readers)
    for client in slow:
        client.close()
    wait_until(lambda: len(gateway.records) == 15, "all are recorded")
    pool.end()


@pytest.mark.parametrize("way", ["write", "read"])
def test_so_it_is_where_an_app_waits_in_write_or_for_content(serve: Any, way: str) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        if way == "write":
            write(b"x" * LONG)
        return [b"%d" % len(environ["wsgi.input"].read())]

    pool = CountedPool(1)
    mounts = {"/": InThreads(app, pool), "/short": InThreads(answer, pool)}
    gateway = serve(mounts, mount_limits=STREAMS)
    slow = gateway.connect()
    slow.send(CHUNKED, b"0\r\n\r\n" if way == "write" else b"5\r\nab")
    assert gateway.ask(b"GET /short HTTP/1.1\r\nHost: a\r\n\r\n").content == b"hello"
    slow.send(b"" if way == "write" else b"cde\r\n0\r\n\r\n")
    assert slow.read_answer().content == (b"x" * LONG + b"0" if way == "write" else b"5")
    pool.end()


def test_so_many_slow_clients_are_replaced_and_no_more(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threadpool, "MAX_REPLACED", 2)
    looks: list[float] = []

    class WatchedPool(CountedPool):
        def _replace_paused(self) -> None:
            super()._replace_paused()
            looks.append(time.monotonic())

    pool = WatchedPool(1)
    gateway = serve({"/": InThreads(stream_long, pool), "/short": InThreads(answer, pool)})
    slow = [gateway.connect() for _ in range(3)]
    for client in slow:
        client.send(GET)
        client._more()
    waiting = gateway.connect()
    waiting.send(b"GET /short HTTP/1.1\r\nHost: a\r\n\r\n")
    looks.clear()
    wait_until(lambda: looks and looks[-1] - looks[0] > 3 * threadpool.PAUSE_SECONDS, "no room")
    waiting.expect_open()
    assert names_of_threads() == {"app-1", "app-2", "app-3"}
    assert len(slow[1].read_answer().content) == LONG  # one that was replaced
    slow[0].close()  # another one: its result is closed once there is room
    assert len(slow[2].read_answer().content) == LONG
    assert waiting.read_answer().content == b"hello"
    pool.end()


@pytest.mark.parametrize("most", [1, 3])
def test_slow_and_leaving_clients_leave_a_pool_as_it_was(
    serve: Any, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(threadpool, "MAX_REPLACED", 3)
    inside: list[int] = []
    seen: set[int] = set()

    def run() -> None:
        inside.append(1)
        seen.add(len(inside))
        time.sleep(0.001)
        inside.pop()

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            for _ in range(3):
                run()
                yield b"x" * LONG
        finally:
            run()

    def visit(client: Any, pieces: int) -> None:
        client.send(GET)
        for _ in range(pieces):
            client._more()
            gevent.sleep(0.005)
        if pieces % 2:
            client.close()
        else:
            assert len(client.read_answer().content) == 3 * LONG

    pool = CountedPool(most)
    gateway = serve({"/": InThreads(app, pool), "/short": InThreads(answer, pool)})
    visits = [gevent.spawn(visit, gateway.connect(), pieces) for pieces in range(12)]
    for _ in range(5):
        assert gateway.ask(b"GET /short HTTP/1.1\r\nHost: a\r\n\r\n").content == b"hello"
    gevent.joinall(visits, raise_error=True)
    wait_until(lambda: not len(pool), "all calls have ended")
    wait_until(lambda: len(names_of_threads()) == most, "the pool is as small as before")
    assert max(seen) <= most
    assert [len(calls) for calls in (pool._paused, pool._replaced, pool._returning)] == [0, 0, 0]
    pool.end()


def test_where_the_system_starts_no_more_threads_requests_wait(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = CountedPool(1)
    gateway = serve({"/": InThreads(stream_long, pool), "/short": InThreads(answer, pool)})
    slow, waiting = gateway.connect(), gateway.connect()
    slow.send(GET)
    slow._more()
    refused: list[str] = []

    def refuse(thread: threading.Thread) -> None:
        refused.append(thread.name)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    waiting.send(b"GET /short HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_until(lambda: len(refused) > 1, "it was tried again")
    assert len(slow.read_answer().content) == LONG
    assert waiting.read_answer().content == b"hello"
    pool.end()


def stream_long(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [])
    yield from [b"x" * 65536] * (LONG // 65536)


def names_of_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("app-")}


# --- streams whose client has left ----------------------------------------------------------------


def leave_streams(gateway: Gateway, count: int, meeting: Rendezvous | None = None) -> None:
    """Begin as many streams, and go, once each is at the meeting."""
    for _ in range(count):
        before, records = meeting.inside if meeting else 0, len(gateway.records)
        client = gateway.connect()
        client.send(GET)
        client._read_head()
        wait_until(lambda: not meeting or meeting.inside > before, "it is quiet")  # noqa: B023
        client.close()
        gateway.pass_time(0)
        gateway.pass_time(1)
        wait_until(lambda: len(gateway.records) >= records + 1, "its request has ended")  # noqa: B023


def hang_in_streams(meeting: Rendezvous) -> Any:
    """An app that answers ``/now``, and goes to the meeting in the midst of every other answer."""

    def app(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/now":
            return answer(environ, start_response)
        return hang(start_response)

    def hang(start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"first"
        meeting.wait()

    return app


@pytest.mark.parametrize("way", [time.sleep, lambda _: sum(range(1000))])
def test_a_stream_that_only_computes_or_polls_is_interrupted(
    serve: Any, threads: ThreadPool, way: Callable[[float], object]
) -> None:
    seen: list[str] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            yield b"first"
            while True:
                way(0.001)
        except OSError:
            seen.append("wrong")
        except GeneratorExit:
            seen.append("GeneratorExit")
            raise
        finally:
            seen.append("closed")

    gateway = serve(InThreads(app, threads))
    leave_streams(gateway, 1)
    wait_until(lambda: seen == ["GeneratorExit", "closed"], "it was interrupted")


def test_threads_that_hang_in_streams_are_replaced(
    serve: Any, threads: ThreadPool, caplog: Any
) -> None:
    meeting = Rendezvous()
    gateway = serve(InThreads(hang_in_streams(meeting), threads))
    leave_streams(gateway, 2, meeting)
    assert gateway.ask(b"GET /now HTTP/1.1\r\nHost: a\r\n\r\n").content == b"hello"
    leave_streams(gateway, 1, meeting)
    names = {thread.name for thread in threading.enumerate()} - {"MainThread"}
    assert names >= {"app-1", "app-2", "app-3"}
    meeting.open.set()
    wait_until(lambda: not len(threads), "all have come back")
    wait_until(lambda: len(names_of_threads()) <= 2, "those that were replaced have ended")
    assert gateway.ask(b"GET /now HTTP/1.1\r\nHost: a\r\n\r\n").content == b"hello"
    assert not caplog.records


def test_as_many_threads_are_replaced_as_there_are(serve: Any, threads: ThreadPool) -> None:
    meeting = Rendezvous()
    gateway = serve(InThreads(hang_in_streams(meeting), threads))
    leave_streams(gateway, 4, meeting)
    client = gateway.connect()
    client.send(b"GET /now HTTP/1.1\r\nHost: a\r\n\r\n")
    client.expect_open()
    meeting.open.set()
    assert client.read_answer().content == b"hello"


def test_a_thread_whose_request_was_not_answered_is_left_alone(
    serve: Any, threads: ThreadPool
) -> None:
    meeting = Rendezvous()
    done: list[str] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        meeting.wait()
        done.append("done")
        return answer(environ, start_response)

    gateway = serve(InThreads(app, threads), mount_limits=MountLimits(timeout_seconds=5))
    client = gateway.connect()
    client.send(GET)
    wait_until(lambda: meeting.inside == 1, "it is at work")
    gateway.pass_time(0)
    gateway.pass_time(6)
    assert client.read_answer().status == 504
    meeting.open.set()
    wait_until(lambda: done == ["done"], "it ran to its end")
