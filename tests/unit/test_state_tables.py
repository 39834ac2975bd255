"""The lives of processes, generations and pools: each transition of their tables is made by a
method of the object, and no other transition is made."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from idle_process import IdleProcess
from one_mount import CONFIG

from gateway import states
from gateway.config.model import Config, PoolSettings
from gateway.errors import AppLoadError
from gateway.http.states import CONNECTION
from gateway.states import IllegalTransitionError, Machine
from gateway.supervisor.generations.generation import GENERATION, Generation, GenerationState
from gateway.supervisor.pools import sleep
from gateway.supervisor.pools.pool import POOL, Pool, PoolState
from gateway.supervisor.processes.process import PROCESS, ProcessState
from gateway.supervisor.processes.start_gate import StartGate

MACHINES: list[Machine[Any]] = [PROCESS, GENERATION, POOL, CONNECTION]
DEADLINE_SECONDS = 20.0


@pytest.fixture(autouse=True)
def strict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(states, "IS_STRICT", True)
    monkeypatch.chdir(tmp_path)  # environments are looked for beside the table


def find_edges(machine: Machine[Any]) -> set[tuple[Any, Any]]:
    return {(old, new) for old, following in machine.table.items() for new in following}


def find_pairs() -> list[Any]:
    return [
        pytest.param(machine, old, new, id=f"{machine.kind}: {old.value} -> {new.value}")
        for machine in MACHINES
        for old in machine.table
        for new in machine.table
        if new is not old
    ]


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.kind)
def test_a_table_has_every_state_and_each_can_be_reached(machine: Machine[Any]) -> None:
    assert set(machine.table) == set(type(machine.first))
    reached = {machine.first}
    for _ in machine.table:
        reached |= {new for old in reached for new in machine.table[old]}
    assert reached == set(machine.table)


@pytest.mark.parametrize(("machine", "old", "new"), find_pairs())
def test_only_what_is_in_the_table_is_accepted(machine: Machine[Any], old: Any, new: Any) -> None:
    if new in machine.table[old]:
        assert machine.step(old, new, "x") is new
    else:
        with pytest.raises(IllegalTransitionError):
            machine.step(old, new, "x")


# --- what makes the transitions of a process --------------------------------------------------

P = ProcessState
OF_PROCESSES: dict[tuple[P, P], Callable[[IdleProcess], object]] = {
    (P.LOADING, P.TRYING): lambda process: process.begin_trial("/shop", may_serve=False),
    (P.LOADING, P.LOADED): lambda process: process.finish_loading(),
    (P.LOADING, P.DRAINING): lambda process: process.pause(hands_over=False),
    (P.TRYING, P.LOADING): lambda process: process.note_loaded(frozenset()),
    (P.TRYING, P.DRAINING): lambda process: process.retire(),
    (P.LOADED, P.READY): lambda process: process.note_ready(),
    (P.LOADED, P.DRAINING): lambda process: process.pause(hands_over=False),
    (P.READY, P.PAUSED): lambda process: process.pause(hands_over=False),
    (P.READY, P.RETIRING): lambda process: process.retire(),
    (P.READY, P.DRAINING): lambda process: process.terminate(),
    (P.PAUSED, P.LOADED): lambda process: process.accept(),
    (P.PAUSED, P.RETIRING): lambda process: process.retire(),
    (P.PAUSED, P.DRAINING): lambda process: process.pause(hands_over=False),
    (P.RETIRING, P.DRAINING): lambda process: process.terminate(),
} | {(state, P.DEAD): lambda process: process.finish() for state in P if state is not P.DEAD}


def test_every_transition_of_a_process_is_tried() -> None:
    assert set(OF_PROCESSES) == find_edges(PROCESS)


@pytest.mark.parametrize(("old", "new"), OF_PROCESSES, ids=lambda state: state.value)
def test_a_process_makes_its_transitions_by_its_methods(old: P, new: P) -> None:
    async def run() -> None:
        process = IdleProcess(1)
        if old is P.TRYING:
            process.begin_trial("/shop", may_serve=True)
        process.state = old
        done = OF_PROCESSES[old, new](process)
        if asyncio.iscoroutine(done):
            await done
        assert process.state is new

    asyncio.run(run())


@pytest.mark.parametrize("state", P, ids=lambda state: state.value)
def test_no_order_and_no_report_is_illegal_in_any_state(state: P) -> None:
    """Orders and reports cross each other: whatever comes, the table has it."""
    calls: list[Callable[[IdleProcess], object]] = [
        lambda process: process.pause(hands_over=True),
        lambda process: process.retire(),
        lambda process: process.terminate(),
        lambda process: process.accept(),
        lambda process: process.note_ready(),
        lambda process: process.note_loaded(frozenset()),
        lambda process: process.finish_loading(),
    ]

    async def run() -> None:
        for call in calls:
            process = IdleProcess(1, state)
            process.exit_code = 0 if state is P.DEAD else None
            call(process)

    asyncio.run(run())


# --- what makes those of a generation ---------------------------------------------------------


def config_of(**pool: Any) -> Config:
    """A table whose generations need no workers."""
    settings = PoolSettings(name="shop", **pool)
    server = replace(CONFIG.server, workers=0, try_asleep=False)
    return replace(CONFIG, server=server, pool=settings)


def cannot_start(*_: Any) -> Any:
    raise OSError("no process here")


G = GenerationState
OF_GENERATIONS: dict[tuple[G, G], Callable[[Generation], Any]] = {
    (G.STARTING, G.SERVING): lambda generation: generation.serve(),
    (G.STARTING, G.ASLEEP): lambda generation: generation.rest(),
    (G.STARTING, G.STOPPING): lambda generation: generation.stop(0),
    (G.SERVING, G.STANDBY): lambda generation: generation.leave(hands_over=False),
    (G.SERVING, G.STOPPING): lambda generation: generation.stop(0),
    (G.STANDBY, G.STARTING): lambda generation: generation.accept(),
    (G.STANDBY, G.RETIRING): lambda generation: generation.retire(),
    (G.STANDBY, G.STOPPING): lambda generation: generation.stop(0),
    (G.ASLEEP, G.STOPPING): lambda generation: generation.stop(0),
    (G.RETIRING, G.STOPPING): lambda generation: generation.stop(0),
    (G.STOPPING, G.ASLEEP): lambda generation: generation.sleep(0),
}


def test_every_transition_of_a_generation_is_tried() -> None:
    assert set(OF_GENERATIONS) == find_edges(GENERATION)


@pytest.mark.parametrize(("old", "new"), OF_GENERATIONS, ids=lambda state: state.value)
def test_a_generation_makes_its_transitions_by_its_methods(
    old: G, new: G, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        generation = Generation(1, config_of(), cannot_start)
        generation.state = old
        done = OF_GENERATIONS[old, new](generation)
        if asyncio.iscoroutine(done):
            await asyncio.wait_for(done, DEADLINE_SECONDS)

    with caplog.at_level(logging.DEBUG, "gateway"):
        asyncio.run(run())
    assert f"generation g1: {old.value} -> {new.value}" in caplog.messages


# --- what makes those of a pool ---------------------------------------------------------------


class Site:
    """A pool on a socket of its own, without workers, and its tasks."""

    def __init__(self, folder: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.path = str(folder / "s")
        self.listener.bind(self.path)
        self.listener.listen()
        self.tasks: list[asyncio.Task[Any]] = []
        numbers = iter(range(1, 99))
        self.pool = Pool(
            self.listener,
            cannot_start,
            lambda: next(numbers),
            self.begin,
            lambda: None,
            asyncio.Semaphore(1),
            StartGate(),
        )

    def begin(self, work: Any) -> None:
        self.tasks.append(asyncio.ensure_future(work))

    async def close(self) -> None:
        for generation in self.pool.generations:
            generation.processes.clear()
        await self.pool.stop(0)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.pool.close()

    async def reach(self, state: PoolState) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while self.pool.state is not state:
                await asyncio.sleep(0.005)

    async def change(self, **settings: Any) -> None:
        await self.pool.commit(await self.pool.prepare(config_of(**settings), anew=True))

    async def connect(self) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.path)
            await self.reach(PoolState.SERVING)


IDLE = {"idle_seconds": 0.01}
NOWHERE = {"venv": Path("/nowhere/at/all")}


async def fall_asleep_slowly(site: Site) -> None:
    """It has a worker that does not end."""
    await site.pool.serve(config_of(**IDLE))
    assert site.pool.current is not None
    site.pool.current.processes[1] = IdleProcess(1, ProcessState.READY)
    await site.reach(PoolState.FALLING_ASLEEP)


async def fall_asleep(site: Site) -> None:
    await site.pool.serve(config_of(**IDLE))
    await site.reach(PoolState.ASLEEP)


async def be_refused(site: Site) -> None:
    site.begin(site.pool.serve(config_of(**NOWHERE)))
    await site.reach(PoolState.REFUSED)


async def begin_to_start(site: Site) -> None:
    site.begin(site.pool.serve(config_of(**NOWHERE)))
    await site.reach(PoolState.STARTING)


async def serve(site: Site) -> None:
    await site.pool.serve(config_of())


async def serve_at_a_reload(site: Site) -> None:
    await site.change()


async def be_taken_over_while_it_falls_asleep(site: Site) -> None:
    await site.pool.serve(config_of(**IDLE))
    change = await site.pool.prepare(config_of(), anew=True)
    assert site.pool.current is not None
    site.pool.current.processes[1] = IdleProcess(1, ProcessState.READY)
    await site.reach(PoolState.FALLING_ASLEEP)
    await site.pool.commit(change)


async def be_put_back_to_sleep(site: Site) -> None:
    """A reload was prepared while it slept, and it was woken before that took effect."""
    await fall_asleep(site)
    change = await site.pool.prepare(config_of(), anew=True)
    await site.connect()
    await site.pool.commit(change)


async def nothing(_: Site) -> None:
    """It is new."""


def then(*steps: Callable[[Site], Awaitable[None]]) -> Callable[[Site], Awaitable[None]]:
    async def run(site: Site) -> None:
        for step in steps:
            await step(site)

    return run


def stop(site: Site) -> Awaitable[None]:
    return site.pool.stop(0)


async def end_workers_and_stop(site: Site) -> None:
    assert site.pool.current is not None
    site.pool.current.processes.clear()
    await site.pool.stop(0)


O = PoolState  # noqa: E741
OF_POOLS: dict[tuple[O, O], Callable[[Site], Awaitable[None]]] = {
    (O.NEW, O.STARTING): serve,
    (O.NEW, O.SERVING): serve_at_a_reload,
    (O.NEW, O.CLOSED): then(nothing, stop),
    (O.STARTING, O.REFUSED): be_refused,
    (O.STARTING, O.SERVING): serve,
    (O.STARTING, O.CLOSED): then(begin_to_start, stop),
    (O.REFUSED, O.SERVING): then(be_refused, serve_at_a_reload),
    (O.REFUSED, O.CLOSED): then(be_refused, stop),
    (O.SERVING, O.FALLING_ASLEEP): fall_asleep,
    (O.SERVING, O.ASLEEP): be_put_back_to_sleep,
    (O.SERVING, O.CLOSED): then(serve, stop),
    (O.FALLING_ASLEEP, O.ASLEEP): fall_asleep,
    (O.FALLING_ASLEEP, O.SERVING): be_taken_over_while_it_falls_asleep,
    (O.FALLING_ASLEEP, O.CLOSED): then(fall_asleep_slowly, end_workers_and_stop),
    (O.ASLEEP, O.SERVING): then(fall_asleep, Site.connect),
    (O.ASLEEP, O.CLOSED): then(fall_asleep, stop),
}


def test_every_transition_of_a_pool_is_tried() -> None:
    assert set(OF_POOLS) == find_edges(POOL)


@pytest.mark.parametrize(("old", "new"), OF_POOLS, ids=lambda state: state.value)
def test_a_pool_makes_its_transitions_by_its_methods(
    old: O,
    new: O,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sleep, "IDLE_LOOK_SECONDS", 0.01)

    async def run() -> None:
        site = Site(tmp_path)
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                await OF_POOLS[old, new](site)
        finally:
            await site.close()

    with caplog.at_level(logging.DEBUG, "gateway"):
        asyncio.run(run())
    ending = f": {old.value} -> {new.value}"
    assert [text for text in caplog.messages if text.startswith("pool ") and text.endswith(ending)]


def test_a_pool_that_is_closed_stays_so(tmp_path: Path) -> None:
    async def run() -> None:
        site = Site(tmp_path)
        change = await site.pool.prepare(config_of(), anew=True)
        await site.pool.stop(0)
        with suppress(AppLoadError):
            await site.pool.commit(change)
        assert site.pool.state is PoolState.CLOSED
        await site.close()

    asyncio.run(run())
