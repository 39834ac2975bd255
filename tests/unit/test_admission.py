"""How many requests a mount runs at a time, and who is next; over real sockets."""

import contextlib
import gc
import io
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event
from harness import Client, Cut, Gateway, wait_until

from gateway.config.model import AppTarget, Mount, Where
from gateway.limits import Admission, MountLimits
from gateway.mounts.admission import Semaphore
from gateway.mounts.chain import Chain
from gateway.wsgi import HEAD_NOW, FileWrapper, Takeover

WHERE = Where(line=1, column=1)


class Desk:
    """An app that keeps each request until the door with its path is opened."""

    def __init__(self) -> None:
        self.inside: list[str] = []
        self.seen: list[str] = []
        self.doors: dict[str, Event] = defaultdict(Event)

    def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        path = environ["PATH_INFO"]
        self.seen.append(path)
        self.inside.append(path)
        try:
            assert self.doors[path].wait(10)
        finally:
            self.inside.remove(path)
        start_response("200 OK", [])
        return [path.encode()]

    def open(self, *paths: str) -> None:
        for path in paths:
            self.doors[path].set()


class Limited:
    """A gateway whose mounts have these limits, by their names, and the ``Chain`` behind it."""

    def __init__(self, gateway: Gateway, **settings: Any) -> None:
        self.gateway = gateway
        self.chain = Chain()
        self.fit(**settings)

    def fit(self, *, pool: dict[str, Any] | None = None, **mounts: dict[str, Any]) -> None:
        """``root`` is the mount "/"; any other has its own name. All are of one pool."""
        loaded = self.gateway.service.table.mounts
        names = [mount.name for mount in loaded]
        self.chain.serve(
            loaded,
            [
                Mount(
                    name=name,
                    host=None,
                    prefix=name,
                    target=AppTarget("x:y"),
                    limits=MountLimits(**mounts.get(name[1:] or "root", {})),
                    where=WHERE,
                    pool="a",
                    pool_admission=Admission(**pool or {}),
                )
                for name in names
            ],
        )

    @property
    def semaphore(self) -> Semaphore:
        """The only one."""
        [semaphore] = self.chain.semaphores._by_name.values()
        return semaphore

    def is_free(self) -> bool:
        return not self.semaphore._running and not self.semaphore._waiting

    def ask(self, path: str) -> Client:
        """A client whose request is at the app, or waits, or was refused, once this returns."""
        client = self.gateway.connect()
        done = self._count() + 1
        client.send(request(path))
        wait_until(lambda: self._count() >= done, f"{path} has come")
        return client

    def _count(self) -> int:
        semaphore = self.semaphore
        return semaphore._running + len(semaphore._waiting) + len(self.gateway.records)


@pytest.fixture
def limited(serve: Any) -> Callable[..., Limited]:
    return lambda app, **settings: Limited(serve(app), **settings)


def request(path: str, more: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n{more}\r\n".encode()


# --- how many ---------------------------------------------------------------------------------


def test_so_many_run_at_a_time_and_the_others_in_their_turn(limited: Any) -> None:
    desk = Desk()
    gateway = limited(desk, root={"max_concurrency": 2})
    clients = [gateway.ask(f"/{i}") for i in range(5)]
    assert desk.inside == ["/0", "/1"]
    desk.open("/1")
    wait_until(lambda: desk.inside == ["/0", "/2"], "one is let in for one that has gone")
    desk.open("/0", "/2", "/3", "/4")
    assert [client.read_answer().content for client in clients] == [
        b"/0",
        b"/1",
        b"/2",
        b"/3",
        b"/4",
    ]
    assert gateway.is_free()


def test_without_a_limit_nothing_is_wrapped(limited: Any) -> None:
    desk = Desk()
    gateway = limited({"/": desk, "/b": desk}, b={"max_concurrency": 1})
    root, b = gateway.gateway.service.table.mounts
    assert root.app is desk
    assert b.bare_app is desk is not b.app


def test_a_full_mount_leaves_others_alone(limited: Any) -> None:
    desk, other = Desk(), Desk()
    gateway = limited({"/": other, "/b": desk}, b={"max_concurrency": 1, "queue": 1})
    busy = [gateway.ask("/b/1"), gateway.ask("/b/2")]
    other.open("/x")
    assert gateway.gateway.ask(request("/x")).content == b"/x"
    assert gateway.gateway.ask(request("/b/3")).status == 503
    assert desk.seen == ["/1"]
    desk.open("/1", "/2")
    assert [client.read_answer().content for client in busy] == [b"/1", b"/2"]


def test_mounts_of_a_pool_share_its_places(limited: Any) -> None:
    desk = Desk()
    gateway = limited({"/a": desk, "/b": desk}, pool={"max_concurrency": 2})
    clients = [gateway.ask("/a/1"), gateway.ask("/b/2"), gateway.ask("/b/3")]
    assert desk.inside == ["/1", "/2"]
    desk.open("/1", "/2", "/3")
    assert [client.read_answer().status for client in clients] == [200, 200, 200]


def test_a_mount_at_its_own_limit_takes_no_place_of_its_pool(limited: Any) -> None:
    desk = Desk()
    gateway = limited(
        {"/a": desk, "/b": desk},
        pool={"max_concurrency": 2, "queue": 0},
        a={"max_concurrency": 1},
    )
    clients = [gateway.gateway.connect() for _ in range(3)]
    for client, path in zip(clients, ("/a/1", "/a/2", "/b/3"), strict=True):
        client.send(request(path))
    wait_until(lambda: desk.inside == ["/1", "/3"], "the pool is full")
    desk.open("/1")
    wait_until(lambda: desk.inside == ["/3", "/2"], "the mount's next takes the pool's place")
    desk.open("/2", "/3")
    assert [client.read_answer().status for client in clients] == [200, 200, 200]
    assert all(not each._running for each in gateway.chain.semaphores._by_name.values())


# --- who is next ------------------------------------------------------------------------------


def test_the_newest_is_next_while_more_than_half_of_the_queue_is_taken(limited: Any) -> None:
    desk = Desk()
    gateway = limited(desk, root={"max_concurrency": 1, "queue": 4})
    clients = [gateway.ask(f"/{i}") for i in range(5)]
    desk.open(*(f"/{i}" for i in range(5)))
    assert [client.read_answer().status for client in clients] == [200] * 5
    assert desk.seen == ["/0", "/4", "/3", "/1", "/2"]


def test_a_client_that_has_left_is_skipped(limited: Any) -> None:
    desk = Desk()
    gateway = limited(desk, root={"max_concurrency": 1})
    first, leaver, last = (gateway.ask(path) for path in ("/first", "/leaver", "/last"))
    gateway.gateway.pass_time(0)
    leaver.close()
    gateway.gateway.pass_time(0)
    desk.open("/first", "/last")
    assert (first.read_answer().status, last.read_answer().status) == (200, 200)
    assert desk.seen == ["/first", "/last"]
    [record] = [each for each in gateway.gateway.records if each["target"] == "/leaver"]
    assert record["status"] == 499
    assert record["error"] == "the client left while it waited for its turn"
    assert gateway.is_free()


def test_clients_that_have_left_make_room_in_a_full_queue(limited: Any) -> None:
    desk = Desk()
    gateway = limited(desk, root={"max_concurrency": 1, "queue": 1})
    first, leaver = gateway.ask("/first"), gateway.ask("/leaver")
    gateway.gateway.pass_time(0)
    leaver.close()
    gateway.gateway.pass_time(0)
    last = gateway.gateway.connect()
    last.send(request("/last"))
    desk.open("/first", "/last")
    assert (first.read_answer().status, last.read_answer().status) == (200, 200)
    assert desk.seen == ["/first", "/last"]


# --- who is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("queue", [0, 2])
def test_beyond_the_queue_it_is_503(limited: Any, queue: int) -> None:
    desk = Desk()
    gateway = limited(desk, root={"max_concurrency": 1, "queue": queue})
    clients = [gateway.ask(f"/{i}") for i in range(1 + queue)]
    answer = gateway.gateway.ask(request("/more"))
    assert (answer.status, answer["retry-after"]) == (503, "5")
    assert b"Too many requests wait here." in answer.content
    assert gateway.gateway.records[-1]["error"] == (
        f"mount / is at its max_concurrency of 1, and its queue of {queue} is full"
    )
    desk.open(*(f"/{i}" for i in range(1 + queue)))
    assert [client.read_answer().status for client in clients] == [200] * (1 + queue)
    assert len(desk.seen) == 1 + queue


def test_who_waits_too_long_gets_503(limited: Any) -> None:
    desk = Desk()
    gateway = limited(desk, root={"max_concurrency": 1, "queue_timeout_seconds": 0.05})
    first, second = gateway.ask("/first"), gateway.ask("/second")
    answer = second.read_answer()
    assert (answer.status, answer["retry-after"]) == (503, "5")
    assert gateway.gateway.records[-1]["error"] == (
        "mount / is at its max_concurrency of 1, and its queue_timeout of 0.05 s has passed"
    )
    desk.open("/first")
    assert first.read_answer().status == 200
    assert (desk.seen, gateway.is_free()) == (["/first"], True)


def test_the_timeout_of_the_mount_counts_while_a_request_waits(limited: Any) -> None:
    desk = Desk()
    gateway = limited(desk, root={"max_concurrency": 1})
    first, second = gateway.ask("/first"), gateway.ask("/second")
    gateway.gateway.pass_time(31)
    assert (first.read_answer().status, second.read_answer().status) == (504, 504)
    assert (desk.seen, gateway.is_free()) == (["/first"], True)


def test_one_that_is_ended_when_its_turn_has_come_gives_it_on(limited: Any) -> None:
    desk = Desk()
    gateway = limited(desk, root={"max_concurrency": 1})
    first, second, third = (gateway.ask(path) for path in ("/first", "/second", "/third"))
    [turn, _] = gateway.semaphore._waiting
    desk.open("/first", "/third")
    while not turn.is_admitted:
        gevent.sleep(0)
    turn._greenlet.parent.loop.run_callback(turn._greenlet.throw, OSError("ended"))
    answers = [client.read_answer() for client in (first, second, third)]
    assert [answer.status for answer in answers] == [200, 500, 200]
    assert (desk.seen, gateway.is_free()) == (["/first", "/third"], True)


def test_a_stop_ends_those_that_wait(limited: Any) -> None:
    desk = Desk()
    gateway = limited(desk, root={"max_concurrency": 1})
    first, second = gateway.ask("/first"), gateway.ask("/second")
    gateway.gateway.server.drain(0)
    assert (first.read_answer().status, second.read_answer().status) == (503, 503)
    assert gateway.is_free()


def test_a_pipelined_request_behind_one_that_waited_is_answered(limited: Any) -> None:
    desk = Desk()
    gateway = limited(desk, root={"max_concurrency": 1})
    first, second = gateway.ask("/first"), gateway.ask("/second")
    desk.open("/first", "/second", "/third")
    second.send(request("/third"))
    assert first.read_answer().status == 200
    assert [second.read_answer().content for _ in range(2)] == [b"/second", b"/third"]


# --- how long a place is taken ----------------------------------------------------------------


def failing(environ: Any, start_response: Any) -> Any:
    raise ValueError("before")


def failing_later(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [])
    yield b"begun"
    raise ValueError("within")


def failing_at_close(environ: Any, start_response: Any) -> Any:
    class Closing(list[bytes]):
        def close(self) -> None:
            raise ValueError("behind")

    start_response("200 OK", [])
    return Closing([b"whole"])


def without_start(environ: Any, start_response: Any) -> list[bytes]:
    return [b"no head"]


def no_iterable(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [])


@pytest.mark.parametrize(
    "app", [failing, failing_later, failing_at_close, without_start, no_iterable]
)
def test_a_failure_frees_the_place(limited: Any, app: Any) -> None:
    gateway = limited(app, root={"max_concurrency": 1, "queue": 0})
    for _ in range(2):
        with contextlib.suppress(Cut):
            assert gateway.gateway.ask(request("/")).status in (200, 500)
        assert gateway.is_free()


def test_a_stream_holds_its_place_until_its_end(limited: Any) -> None:
    more = Event()

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield HEAD_NOW
        assert more.wait(10)
        yield b"end"

    gateway = limited(app, root={"max_concurrency": 1, "queue": 0})
    client = gateway.gateway.connect()
    client.send(request("/"))
    wait_until(lambda: client._socket.recv(1), "its head has come")
    assert gateway.gateway.ask(request("/")).status == 503
    more.set()
    wait_until(gateway.is_free, "the stream has ended")
    assert gateway.gateway.ask(request("/")).content == b"end"


def test_a_client_that_leaves_a_stream_frees_its_place(limited: Any) -> None:
    closed: list[bool] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            while True:
                yield b"x" * 100_000
        finally:
            closed.append(True)

    gateway = limited(app, root={"max_concurrency": 1})
    client = gateway.ask("/")
    client.close()
    wait_until(gateway.is_free, "it was noticed")
    gc.collect()
    assert closed == [True]


def test_a_client_that_reads_slowly_holds_the_place(limited: Any) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"x" * 3_000_000]

    gateway = limited(app, root={"max_concurrency": 1, "queue": 0})
    client = gateway.gateway.connect()
    client.send(request("/"))
    assert gateway.gateway.ask(request("/")).status == 503
    assert len(client.read_answer().content) == 3_000_000
    assert gateway.gateway.ask(request("/")).status == 200


def one_piece(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def tuple_of_one(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [])
    return (b"hello",)


def written(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [])(b"hello")
    return []


def pieces(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [])
    return iter([b"hel", b"lo"])


@pytest.mark.parametrize("app", [one_piece, tuple_of_one, written, pieces])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_answer_is_the_same_with_a_limit(limited: Any, app: Any, method: str) -> None:
    gateway = limited({"/": app, "/b": app}, b={"max_concurrency": 1})
    plain, own = (
        gateway.gateway.ask(request(path).replace(b"GET", method.encode()), method=method)
        for path in ("/", "/b")
    )
    for answer in (plain, own):
        answer.fields = [field for field in answer.fields if field[0] != "date"]
    assert own == plain


def test_a_file_is_still_sent_by_the_kernel(limited: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    opened: list[io.FileIO] = []

    class Telling(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise AssertionError("it was read")

    def app(environ: Any, start_response: Any) -> Any:
        opened.append(Telling(str(tmp_path / "file")))
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](opened[-1])

    gateway = limited(app, root={"max_concurrency": 1, "queue": 0})
    for _ in range(2):
        assert gateway.gateway.ask(request("/")).content == b"x" * 100_000
    assert gateway.is_free()
    assert [file.closed for file in opened] == [True, True]


def test_one_file_wrapper_for_two_requests_frees_both_places(limited: Any) -> None:
    door, readers = Event(), []

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            readers.append(size)
            assert door.wait(10)
            return b""

    wrapper = FileWrapper(Slow())

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return wrapper

    gateway = limited(app, root={"max_concurrency": 2})
    clients = [gateway.ask("/"), gateway.ask("/")]
    wait_until(lambda: len(readers) == 2, "both are being sent")
    door.set()
    wait_until(gateway.is_free, "both have ended")
    for client in clients:
        client.close()


def test_a_tunnel_holds_its_place_until_it_ends(limited: Any) -> None:
    end = Event()

    class Tunnel(Takeover):
        head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"
        closed = 0

        def run(self, connection: Any) -> None:
            assert end.wait(10)

        def close(self) -> None:
            Tunnel.closed += 1

    gateway = limited(lambda *_: Tunnel(), root={"max_concurrency": 1, "queue": 0})
    client = gateway.gateway.connect()
    client.send(request("/"))
    assert client._read_head().status == 101
    assert gateway.gateway.ask(request("/")).status == 503
    end.set()
    wait_until(gateway.is_free, "the tunnel has ended")
    assert Tunnel.closed == 1


# --- an edit of the table ---------------------------------------------------------------------


def test_a_higher_limit_lets_those_in_that_wait(limited: Any) -> None:
    desk = Desk()
    gateway = limited(desk, root={"max_concurrency": 1})
    clients = [gateway.ask(f"/{i}") for i in range(4)]
    gateway.fit(root={"max_concurrency": 3})
    wait_until(lambda: desk.inside == ["/0", "/1", "/2"], "two more are let in")
    desk.open(*(f"/{i}" for i in range(4)))
    assert [client.read_answer().status for client in clients] == [200] * 4
    assert gateway.is_free()


def test_a_lower_limit_counts_those_that_run(limited: Any) -> None:
    desk = Desk()
    gateway = limited(desk, root={"max_concurrency": 2})
    clients = [gateway.ask(f"/{i}") for i in range(3)]
    gateway.fit(root={"max_concurrency": 1})
    desk.open("/0")
    assert clients[0].read_answer().status == 200
    gevent.idle()
    assert desk.inside == ["/1"]
    desk.open("/1", "/2")
    assert [client.read_answer().status for client in clients[1:]] == [200, 200]


def test_without_its_limit_all_that_wait_are_let_in(limited: Any) -> None:
    desk = Desk()
    gateway = limited(desk, root={"max_concurrency": 1})
    clients = [gateway.ask(f"/{i}") for i in range(3)]
    gateway.fit()
    [mount] = gateway.gateway.service.table.mounts
    assert mount.app is desk
    wait_until(lambda: len(desk.inside) == 3, "all are let in")
    desk.open(*(f"/{i}" for i in range(3)))
    assert [client.read_answer().status for client in clients] == [200] * 3
