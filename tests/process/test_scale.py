"""How many workers a pool has: another one joins the busy, and leaves when it is not needed."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from idle_process import IdleProcess
from running import Running, wait_until

from gateway.config.compare.slices import cut
from gateway.config.model import Config, PoolSettings, ServerSettings, Workers
from gateway.supervisor.generations.generation import Generation, GenerationState
from gateway.supervisor.generations.scale import (
    DOWN_SECONDS,
    FULL_REQUESTS,
    REST_SECONDS,
    UP_SECONDS,
    Scaler,
)
from gateway.supervisor.processes.process import ProcessState

Start = Callable[..., Running]
WAITING = """
import pathlib, time
here = pathlib.Path(__file__).parent
def app(environ, start_response):
    while environ["PATH_INFO"] == "/slow" and not (here / "go").exists():
        time.sleep(0.01)
    start_response("200 OK", [])
    return [b"done"]
"""


class FakeWorkers:
    """A generation whose workers are none, with a clock to be set."""

    def __init__(self, config: Config, size: int) -> None:
        self.generation = Generation(1, config, lambda *_: self._start())
        self.generation.state, self.generation.size = GenerationState.SERVING, size
        self.now, self.started = 0.0, 0
        self.fault = ""
        for _ in range(size):
            self._add(ProcessState.READY)
        self.scaler = Scaler(self.generation, lambda: self.now)

    def _add(self, state: ProcessState) -> Any:
        self.started += 1
        worker: Any = IdleProcess(self.started, state)
        worker.started, worker.load = float(self.started), 0
        worker.in_flight = SimpleNamespace(count=lambda: worker.load)
        self.generation.processes[worker.pid] = worker
        return worker

    def _start(self) -> Any:
        worker = self._add(ProcessState.READY)
        if self.fault:
            worker.refuse(self.fault)
            worker.exit_code, worker.state = 1, ProcessState.DEAD
        return worker

    def pass_time(self, seconds: float, *loads: int) -> int:
        """With so many requests in flight in each worker; how many workers are to stay then."""

        async def look() -> None:
            until = self.now + seconds
            while self.now < until:
                for worker, load in zip(self.generation.workers, loads, strict=False):
                    worker.load = load  # type: ignore[attr-defined]
                self.scaler.look()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                self.now += 1

        asyncio.run(look())
        assert len(self.generation.workers) == self.generation.size
        return self.generation.size


def a_pool(least: int = 1, most: int = 3, size: int = 1, **settings: Any) -> FakeWorkers:
    pool = PoolSettings(name="a", workers=Workers(min=least, max=most), **settings)
    return FakeWorkers(config_of(ServerSettings(), pool)["a"], size)


def config_of(server: ServerSettings, *pools: PoolSettings) -> dict[str, Config]:
    """What each pool is to serve, of a table without mounts."""
    config = Config(source="x", directory=Path(), server=server, mounts=(), pools=pools)
    return cut(config, str, lambda _: ())


BUSY = FULL_REQUESTS
UP, DOWN = UP_SECONDS + 1, DOWN_SECONDS + 1


@pytest.mark.parametrize(
    ("seconds", "load", "size"), [(UP, BUSY, 2), (UP - 1, BUSY, 1), (UP, BUSY - 1, 1)]
)
def test_one_joins_once_all_have_been_busy_for_long_enough(
    seconds: float, load: int, size: int
) -> None:
    assert a_pool().pass_time(seconds, load, load) == size


def test_one_that_is_not_busy_keeps_others_from_joining() -> None:
    assert a_pool(size=2).pass_time(2 * UP, BUSY, BUSY - 1) == 2


def test_there_are_never_more_than_the_most() -> None:
    assert a_pool(most=3).pass_time(10 * UP, BUSY, BUSY, BUSY, BUSY) == 3
    assert a_pool(most=0).pass_time(10 * UP, BUSY) == 1


def test_with_native_threads_busy_is_one_request_in_each() -> None:
    threads = {"concurrency": "threads", "threads": 2}
    assert a_pool(**threads).pass_time(UP, 2) == 2
    assert a_pool(**threads).pass_time(UP, 1) == 1


def test_the_youngest_leaves_when_it_is_not_needed() -> None:
    few = a_pool(size=3)
    assert few.pass_time(DOWN - 1, 0, 0, 0) == 3
    assert few.pass_time(1, 0, 0, 0) == 2
    assert few.generation.processes[3].state is ProcessState.RETIRING
    assert few.pass_time(DOWN, 0, 0) == 1
    assert few.pass_time(10 * DOWN, 0) == 1


def test_as_many_as_the_table_says_stay_whether_needed_or_not() -> None:
    assert a_pool(least=2, size=3).pass_time(10 * DOWN, 0, 0, 0) == 2
    front = config_of(ServerSettings(workers=3))["main"]
    assert FakeWorkers(front, 3).pass_time(10 * DOWN, 0, 0, 0) == 3


def test_one_that_is_needed_stays() -> None:
    assert a_pool(size=2).pass_time(2 * DOWN, BUSY // 2 + 1, 0) == 2
    assert a_pool(size=2).pass_time(2 * DOWN, BUSY // 2, 0) == 1


def test_one_that_does_not_load_is_tried_again_later(caplog: pytest.LogCaptureFixture) -> None:
    few = a_pool()
    few.fault = "a.py does not parse"
    assert few.pass_time(2 * (REST_SECONDS + UP), BUSY) == 1
    assert few.started == 3
    assert caplog.text.count("a.py does not parse") == 1
    few.fault = "b.py does not parse"
    assert few.pass_time(REST_SECONDS + UP, BUSY) == 1
    assert caplog.text.count("b.py does not parse") == 1
    few.fault = ""
    assert few.pass_time(REST_SECONDS + UP, BUSY) == 2


def test_a_fault_of_the_gateways_own_is_waited_out_like_any_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    few, tries = a_pool(), []

    async def fail(**_: Any) -> None:
        tries.append(few.now)
        raise LookupError("never seen before")

    monkeypatch.setattr(few.generation, "add", fail)
    assert few.pass_time(2 * (REST_SECONDS + UP), BUSY) == 1
    assert len(tries) == 2
    assert caplog.text.count("Traceback") == 2
    monkeypatch.undo()
    assert few.pass_time(REST_SECONDS + UP, BUSY) == 2


@pytest.mark.parametrize(
    "state", [GenerationState.STARTING, GenerationState.STANDBY, GenerationState.RETIRING]
)
def test_a_generation_that_does_not_serve_is_left_alone(state: GenerationState) -> None:
    few = a_pool()
    few.generation.state = state
    assert few.pass_time(2 * UP, BUSY) == 1


def test_a_busy_pool_gets_another_worker_of_its_own(start: Start) -> None:
    table = "  reload_on_edit: false\npools: {a: {workers: {min: 1, max: 2}}}\n"
    gateway = start("  /: good:app\n  /a: {app: 'waiting:app', pool: a}\n", table, waiting=WAITING)

    def workers() -> list[Any]:
        [generation] = [g for g in gateway.control("status")["generations"] if g["pool"] == "a"]
        return [w for w in generation["workers"] if w["state"] == "ready"]

    wait_until(lambda: len(workers()) == 1, "the worker is ready")
    with ExitStack() as clients:
        for _ in range(FULL_REQUESTS):
            client = clients.enter_context(gateway.connect())
            client.sendall(b"GET /a/slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        wait_until(lambda: len(workers()) == 2, "another worker joins")
        gateway.write("go", "")
    assert "joins, since all were busy: 2 now" in gateway.log_text
