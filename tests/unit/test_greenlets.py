"""Which greenlet runs a request, and how long it is kept: the pool alone, and under a server."""

import gc
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import get_hub
from gevent.local import local
from greenlet import getcurrent
from harness import Gateway, wait_until

from gateway.http.wire.greenlets import UNUSED_SECONDS, GreenletPool


class Kept:
    """What an app keeps for each thread; ``count`` are alive. Part of a cycle, as most are."""

    count = 0

    def __init__(self) -> None:
        Kept.count += 1
        self.itself = self
        weakref.finalize(self, self._end)

    @staticmethod
    def _end() -> None:
        Kept.count -= 1


class Job:
    """Keeps something in its greenlet, and waits until it may go on."""

    def __init__(self, kept: local, may_end: gevent.event.Event | None = None) -> None:
        self._kept = kept
        self._may_end = may_end
        self.has_ended = False
        self.ran_in: Any = None

    def run(self, runner: Any, _: float) -> float:
        self.ran_in = weakref.ref(runner)
        if not hasattr(self._kept, "thing"):
            self._kept.thing = Kept()
        if self._may_end is not None:
            self._may_end.wait()
        self.has_ended = True
        return time.monotonic()


@pytest.fixture
def pool() -> Iterator[GreenletPool]:
    assert Kept.count == 0
    pool = GreenletPool()
    yield pool
    pool.close()
    end_unused(pool, time.monotonic())
    assert pool._parked == []


def submit(pool: GreenletPool, *jobs: Job) -> None:
    """Have the hub run them in one turn."""
    timer = get_hub().loop.timer(0)
    timer.start(lambda: [pool.submit(job) for job in jobs])
    wait_until(lambda: all(job.ran_in for job in jobs), "the jobs run")
    timer.close()


def sweep(pool: GreenletPool, now: float) -> None:
    """As the server does."""
    get_hub().loop.run_callback(pool.sweep, now)
    gevent.idle()


def end_unused(pool: GreenletPool, since: float) -> None:
    """Sweep, when it is due, so that what has run nothing since then ends."""
    pool._swept = since
    sweep(pool, since + UNUSED_SECONDS)


def burst(pool: GreenletPool, kept: local, count: int) -> None:
    """Have ``count`` greenlets work at once."""
    may_end = gevent.event.Event()
    jobs = [Job(kept, may_end) for _ in range(count)]
    submit(pool, *jobs)
    may_end.set()
    wait_until(lambda: all(job.has_ended for job in jobs), "all jobs end")


def test_what_an_app_keeps_for_a_thread_goes_with_its_unused_greenlet(pool: GreenletPool) -> None:
    kept, began = local(), time.monotonic()
    burst(pool, kept, 40)
    assert (len(pool._parked), Kept.count) == (40, 40)
    end_unused(pool, began)
    assert (len(pool._parked), Kept.count) == (40, 40)
    end_unused(pool, time.monotonic())
    assert (len(pool._parked), Kept.count) == (0, 0)


def test_the_last_parked_is_used_first_and_stays(pool: GreenletPool) -> None:
    kept = local()
    burst(pool, kept, 5)
    last, since = pool._parked[-1], time.monotonic()
    used = Job(kept)
    submit(pool, used)
    assert used.ran_in() is last
    end_unused(pool, since)
    assert pool._parked == [last]
    assert Kept.count == 1


def test_greenlets_are_ended_no_more_often_than_they_may_be_unused(pool: GreenletPool) -> None:
    """A collection of garbage goes with it."""
    swept = time.monotonic() + 3 * UNUSED_SECONDS
    sweep(pool, swept)
    burst(pool, local(), 2)
    sweep(pool, swept + 0.9 * UNUSED_SECONDS)
    assert len(pool._parked) == 2
    sweep(pool, swept + UNUSED_SECONDS)
    assert len(pool._parked) == 0


def test_what_ends_with_a_greenlet_may_wait(pool: GreenletPool) -> None:
    """As a session of SQLAlchemy does that rolls back when it goes."""
    ended = []

    class Slow:
        def __del__(self) -> None:
            gevent.sleep(0.001)
            ended.append(getcurrent() is not get_hub())

    kept = local()

    class Keeping(Job):
        def run(self, runner: Any, now: float) -> float:
            kept.slow = Slow()
            return Job.run(self, runner, now)

    submit(pool, Keeping(kept))
    end_unused(pool, time.monotonic())
    wait_until(lambda: ended, "what was kept has ended")
    assert ended == [True]
    burst(pool, kept, 2)  # and the pool works on
    assert len(pool._parked) == 2


def test_a_server_ends_the_greenlets_of_a_burst(serve: Callable[..., Gateway]) -> None:
    kept, may_end = local(), gevent.event.Event()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        kept.thing = Kept()
        may_end.wait()
        start_response("200 OK", [])
        return [b"hello"]

    gateway = serve(app)
    gc.freeze()  # as a worker does with what its apps have built
    clients = [gateway.connect() for _ in range(6)]
    for client in clients:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_until(lambda: Kept.count == 6, "all are at work")
    may_end.set()
    for client in clients:
        assert client.read_answer().status == 200
    end_unused(gateway.service.greenlets, time.monotonic())
    wait_until(lambda: Kept.count == 0, "what the app kept has gone")
    assert clients[0].ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").status == 200
