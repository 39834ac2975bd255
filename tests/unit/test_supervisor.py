"""The supervisor's decisions, and its listening sockets, without a worker."""

import asyncio
import os
import socket
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from idle_process import IdleProcess
from one_mount import CONFIG

from gateway.errors import ConfigError
from gateway.supervisor.backoff import (
    FIRST_BACKOFF_SECONDS,
    MAX_BACKOFF_SECONDS,
    SERVED_BACKOFF_SECONDS,
    YOUNG_SECONDS,
    Backoff,
    backoff_seconds,
)
from gateway.supervisor.generations.generation import Generation, GenerationState
from gateway.supervisor.generations.reports import take_report
from gateway.supervisor.listeners.sockets import describe, open_listener, split_address
from gateway.supervisor.processes.process import Process, ProcessState, Purpose, describe_exit
from gateway.supervisor.supervise import Supervisor


def supervisor(*states: ProcessState) -> Supervisor:
    supervisor = Supervisor(CONFIG, lambda _: CONFIG)
    processes = {pid: IdleProcess(pid, state) for pid, state in enumerate(states)}
    generations: Any = [SimpleNamespace(processes=processes)]
    supervisor._pools = SimpleNamespace(generations=generations, failed={})  # type: ignore[assignment]
    return supervisor


def take(generation: Generation, process: Process, report: Any) -> None:
    """In an event loop, which deadlines are set in."""

    async def run() -> None:
        take_report(generation, process, report)

    asyncio.run(run())


def cannot_start(_: Generation, __: Purpose) -> Any:
    raise OSError("no process here")


def generation(state: GenerationState, may_fail: frozenset[str] | None = None) -> Generation:
    generation = Generation(1, CONFIG, cannot_start, may_fail=may_fail)
    generation.state = state
    return generation


# --- status and reports -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "is_ready", "state", "ready"),
    [
        ([], False, "starting", 0),
        ([ProcessState.LOADING, ProcessState.LOADING], False, "starting", 0),
        ([ProcessState.READY, ProcessState.LOADING], True, "ready", 1),
        ([ProcessState.READY, ProcessState.READY], True, "ready", 2),
        ([ProcessState.DRAINING, ProcessState.DEAD], False, "starting", 0),
    ],
)
def test_one_ready_worker_is_enough(
    states: list[ProcessState], is_ready: bool, state: str, ready: int
) -> None:
    assert supervisor(*states).status() == (
        is_ready,
        {"status": state, "workers": len(states), "ready": ready, "failed": 0},
    )


def test_a_gateway_that_stops_is_not_ready() -> None:
    stopping = supervisor(ProcessState.READY)
    stopping._is_stopping = True
    report = {"status": "draining", "workers": 1, "ready": 1, "failed": 0}
    assert stopping.status() == (False, report)


LOADED = {"event": "loaded", "mounts": []}
FAILED = {"mount": "/shop", "error": "shop:app: ValueError: x", "traceback": "Traceback …"}


def test_a_ready_worker_is_believed_unless_it_was_told_to_stop() -> None:
    loading, draining = IdleProcess(1, ProcessState.LOADING), IdleProcess(2, ProcessState.DRAINING)
    watching = generation(GenerationState.SERVING)
    for report in (LOADED, {"event": "ready"}):
        take(watching, loading, report)
        take(watching, draining, report)
    assert (loading.state, draining.state) == (ProcessState.READY, ProcessState.DRAINING)


@pytest.mark.parametrize(
    ("state", "orders"),
    [
        (GenerationState.SERVING, ["accept"]),
        (GenerationState.STARTING, []),
        (GenerationState.STOPPING, []),
    ],
)
def test_a_worker_accepts_at_once_only_where_its_generation_serves(
    state: GenerationState, orders: list[str]
) -> None:
    loading = IdleProcess(1, ProcessState.LOADING)
    take(generation(state), loading, LOADED)
    assert (loading.state, loading.orders) == (ProcessState.LOADED, orders)


def test_a_worker_that_is_asked_to_end_while_it_tries_a_mount_does_not_come_back() -> None:
    trying, leaving = IdleProcess(1), IdleProcess(2)
    for worker in (trying, leaving):
        worker.begin_trial("/shop", may_serve=True)
    leaving.terminate()
    for worker in (trying, leaving):
        take(generation(GenerationState.SERVING), worker, LOADED)
    assert (trying.state, trying.orders) == (ProcessState.LOADED, ["accept"])
    assert (leaving.state, leaving.orders) == (ProcessState.DRAINING, [])


def test_a_mount_that_does_not_load_is_reported_once_for_all_workers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watching = generation(GenerationState.SERVING)
    for pid in range(3):
        take(watching, IdleProcess(pid, ProcessState.LOADING), LOADED | {"mounts": [FAILED]})
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.getMessage() == (
        "mounts.yaml:7:3: mounts./shop: shop:app: ValueError: x; it answers 503, the others serve\n"
        "Traceback …"
    )
    assert not watching.faults


@pytest.mark.parametrize(
    ("may_fail", "faults"),
    [
        ([], ["mounts.yaml:7:3: mounts./shop: shop:app: ValueError: x\nTraceback …"]),
        (["/shop"], []),
    ],
)
def test_a_reload_fails_with_a_mount_that_had_loaded_before(
    may_fail: list[str], faults: list[str]
) -> None:
    starting = generation(GenerationState.STARTING, frozenset(may_fail))
    for pid in range(3):
        take(starting, IdleProcess(pid, ProcessState.LOADING), LOADED | {"mounts": [FAILED]})
    assert starting.faults == faults


@pytest.mark.parametrize(
    ("reports", "orders"),
    [
        ([LOADED, LOADED], [["accept"], ["accept"]]),
        ([LOADED, LOADED | {"mounts": [FAILED]}], [[], []]),
        ([LOADED | {"mounts": [FAILED]}, LOADED], [[], []]),
    ],
)
def test_no_worker_accepts_before_all_have_loaded_all(
    reports: list[Any], orders: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    starting = generation(GenerationState.STARTING, frozenset())
    workers = [IdleProcess(pid, ProcessState.LOADING) for pid in range(2)]

    async def load() -> None:
        pending = iter(workers)

        def spawn(*, is_spare: bool) -> Any:
            worker = next(pending)
            return starting.processes.setdefault(worker.pid, worker)

        monkeypatch.setattr(starting, "spawn", spawn)
        loading = asyncio.create_task(load_and_accept(starting))
        for worker, report in zip(workers, reports, strict=True):
            while worker.pid not in starting.processes:
                await asyncio.sleep(0)
            assert not any("accept" in worker.orders for worker in workers)
            take_report(starting, worker, report)
        for _ in range(10):  # turns of the loop
            await asyncio.sleep(0)
        loading.cancel()

    async def load_and_accept(starting: Generation) -> None:
        await starting.load()
        await starting.accept()

    asyncio.run(load())
    assert [[o for o in worker.orders if o == "accept"] for worker in workers] == orders


def test_requests_that_a_worker_cut_are_told(caplog: pytest.LogCaptureFixture) -> None:
    watching = generation(GenerationState.RETIRING)
    take(watching, IdleProcess(5, ProcessState.DRAINING), {"event": "drained", "cut": 0})
    assert caplog.records == []
    take(watching, IdleProcess(5, ProcessState.DRAINING), {"event": "drained", "cut": 2})
    assert "worker 5 cut requests: 2" in caplog.text


def test_the_mount_that_a_worker_loads_is_known() -> None:
    loading = IdleProcess(1, ProcessState.LOADING)
    watching = generation(GenerationState.STARTING)
    take(watching, loading, {"event": "loading", "mount": "/shop"})
    assert loading.loading == "/shop"
    assert watching.locate("/shop", "why") == "mounts.yaml:7:3: mounts./shop: why"
    take(watching, loading, LOADED)
    assert loading.loading == ""


# --- workers that end -------------------------------------------------------------------------


def test_a_worker_that_dies_young_is_waited_for_longer_each_time() -> None:
    delays = [backoff_seconds(deaths) for deaths in range(12)]
    assert delays[:4] == [0, FIRST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2, 0.4]
    assert delays == sorted(delays)
    assert delays[-1] == backoff_seconds(100_000) == MAX_BACKOFF_SECONDS


def test_workers_that_die_together_count_once() -> None:
    backoff = Backoff()
    delays = [backoff.note_death(1.0, now, has_served=False) for now in (2.0, 2.1, 2.2)]
    assert delays == [FIRST_BACKOFF_SECONDS] * 3
    assert backoff.note_death(2.5, 3.0, has_served=False) == FIRST_BACKOFF_SECONDS * 2


def test_a_worker_that_had_served_is_soon_replaced_however_often_it_dies() -> None:
    backoff, other = Backoff(), Backoff()
    served = [backoff.note_death(now, now + 1, has_served=True) for now in range(10, 70, 2)]
    assert served[:3] == [0, 0, FIRST_BACKOFF_SECONDS]
    assert max(served) == SERVED_BACKOFF_SECONDS
    loading = [other.note_death(now, now + 1, has_served=False) for now in range(10, 70, 2)]
    assert max(loading) == MAX_BACKOFF_SECONDS


def test_a_start_that_took_too_long_is_waited_for_longer_each_time() -> None:
    backoff, now, delays = Backoff(), 100.0, []
    for _ in range(8):
        started, now = now, now + 64.0
        delays.append(backoff.note_death(started, now, has_served=False, has_loaded=False))
        assert backoff.until == now + delays[-1]
        now += delays[-1]
    # a share of what it took of the processor, and as much in the end
    assert delays[:4] == [8.0, 16.0, 32.0, 64.0]
    assert max(delays) == 64.0
    # one that has loaded and lived as long did not die of its start
    assert backoff.note_death(now, now + 64.0, has_served=False) == 0


def test_an_old_worker_is_replaced_at_once() -> None:
    backoff = Backoff()
    backoff.note_death(1.0, 2.0, has_served=True)
    assert backoff.note_death(1.0, 1.1 + YOUNG_SECONDS, has_served=True) == 0


@pytest.mark.parametrize(
    ("exit_code", "told"),
    [
        (0, "exited with 0"),
        (3, "exited with 3"),
        (-9, "was killed by SIGKILL"),
        (-11, "was killed by SIGSEGV"),
        (-40, "was killed by signal 40"),
        (None, "exited with None"),
    ],
)
def test_how_a_process_ended(exit_code: int | None, told: str) -> None:
    assert describe_exit(exit_code) == told


# --- listening sockets ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:8000", ("::1", 8000)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_an_address_has_a_host_and_a_port(address: str, expected: tuple[str, int]) -> None:
    assert split_address(address) == expected


def test_a_unix_listener_replaces_the_socket_of_a_gateway_that_died(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sock"
    open_listener(f"unix:{path}", "server.listen").close()
    assert path.is_socket()
    with open_listener(f"unix:{path}", "server.listen") as listener:
        assert describe(listener) == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_a_unix_listener_leaves_a_gateway_that_lives_alone(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/gateway.sock"
    with open_listener(address, "server.listen"), pytest.raises(ConfigError) as refused:
        open_listener(address, "server.listen")
    assert refused.value.problems == [
        f"server.listen: cannot listen on {address}: another process answers there"
    ]


def test_a_unix_listener_never_removes_a_file(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear")
    with pytest.raises(ConfigError, match="Address already in use"):
        open_listener(f"unix:{path}", "server.listen")
    assert path.read_text() == "dear"


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("unix:/nowhere/at/all.sock", "No such file or directory"),
        ("unix:/" + "x" * 200, "AF_UNIX path too long"),
        ("203.0.113.1:80", "Cannot assign requested address"),
    ],
)
def test_where_nobody_can_listen(address: str, reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        open_listener(address, "server.admin")
    assert refused.value.problems == [f"server.admin: cannot listen on {address}: {reason}"]


def test_the_descriptor_limit_is_raised_to_the_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    from gateway.supervisor.listeners.sockets import raise_descriptor_limit

    asked: list[Any] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, os.sysconf("SC_OPEN_MAX")))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: asked.append(limits))
    raise_descriptor_limit()
    assert asked == [(os.sysconf("SC_OPEN_MAX"),) * 2]
