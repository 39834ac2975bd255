"""How many processes load at a time, and who goes first."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from one_mount import CONFIG
from running import Running, wait_until

from gateway.commands.remote import format_status
from gateway.config.values.processes import usable_cores
from gateway.supervisor.generations.generation import Generation, GenerationState
from gateway.supervisor.processes.start_gate import (
    IDLE_SECONDS,
    MAX_OVERTAKEN,
    MIN_LOADS,
    Load,
    StartGate,
    Urgency,
)

Start = Callable[..., Running]

LIMIT = max(MIN_LOADS, usable_cores())
MANUAL = "  reload_on_edit: false\n"
# each import notes its begin and its end, and uses the processor for a while in between
BUSY = """
import os, time
from pathlib import Path
here = Path(__file__).parent
def note(what):
    with open(here / "loads", "a") as file:
        file.write(what + "\\n")
note("begin")
began = time.thread_time()
while time.thread_time() < began + 0.2 or (here / "hold").exists():
    pass
note("end")
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"busy"]
"""
IDLE = """
import time
from pathlib import Path
while not (Path(__file__).parent / "go").exists():
    time.sleep(0.01)
from good import app
"""


def own(module: str, count: int) -> str:
    return "".join(f"  /{module}{n}: {{app: '{module}:app', pool: own}}\n" for n in range(count))


def find_loads(gateway: Running) -> list[str]:
    path = gateway.folder / "loads"
    return path.read_text().split() if path.exists() else []


def is_served(gateway: Running, target: str) -> bool:
    try:
        return b" 200 " in gateway.ask(target).partition(b"\r\n")[0]
    except TimeoutError:  # on a busy machine
        return False


# --- the gate alone ---------------------------------------------------------------------------


def enter(gate: StartGate, urgency: Urgency, rank: int = 0) -> "asyncio.Task[Load]":
    return asyncio.create_task(gate.enter(lambda: urgency, rank))


async def turn_loop() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def run(work: Awaitable[None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(work, 60)

    asyncio.run(bounded())


def test_no_more_load_than_the_limit_and_the_next_follows() -> None:
    async def work() -> None:
        gate = StartGate(2)
        entered = [enter(gate, Urgency.START) for _ in range(4)]
        await turn_loop()
        assert [each.done() for each in entered] == [True, True, False, False]
        gate.leave(entered[0].result())
        gate.leave(entered[0].result())  # which frees no second place
        await turn_loop()
        assert [each.done() for each in entered] == [True, True, True, False]
        entered[3].cancel()
        await turn_loop()
        assert entered[3].cancelled()

    run(work())


def test_the_less_urgent_are_not_waited_for() -> None:
    async def work() -> None:
        gate = StartGate(1)
        [building, starting, awaited] = [
            [enter(gate, urgency) for _ in range(2)]
            for urgency in (Urgency.BUILD, Urgency.START, Urgency.AWAITED)
        ]
        await turn_loop()
        assert building[0].done()
        assert starting[0].done()
        assert awaited[0].done()
        assert not any(entered[1].done() for entered in (building, starting, awaited))
        gate.leave(building[0].result())  # but those that are more urgent are
        await turn_loop()
        assert not building[1].done()
        for load in (starting[0], awaited[0]):
            gate.leave(load.result())
        await turn_loop()
        assert awaited[1].done()
        assert not starting[1].done()
        for waiting in (starting[1], building[1]):
            waiting.cancel()

    run(work())


def test_who_becomes_urgent_while_it_waits_goes_first() -> None:
    async def work() -> None:
        gate = StartGate(1)
        urgency = {"late": Urgency.START}
        first = await gate.enter(lambda: Urgency.START)
        waiting = enter(gate, Urgency.START)
        late = asyncio.create_task(gate.enter(lambda: urgency["late"]))
        await turn_loop()
        urgency["late"] = Urgency.AWAITED
        await late
        assert not waiting.done()
        gate.leave(late.result())
        gate.leave(first)
        await waiting

    run(work())


def test_one_that_is_overtaken_again_and_again_has_its_turn() -> None:
    async def work() -> None:
        gate = StartGate(1)
        load = await gate.enter(lambda: Urgency.START)
        start, build = enter(gate, Urgency.START), enter(gate, Urgency.BUILD)
        for overtaken in range(MAX_OVERTAKEN + 1):
            assert not start.done(), overtaken
            waking = enter(gate, Urgency.AWAITED)
            await turn_loop()
            gate.leave(load)
            await turn_loop()
            load = start.result() if start.done() else waking.result()
        assert start.done()
        assert not waking.done()
        gate.leave(load)
        await turn_loop()
        assert waking.done()
        assert not build.done()
        build.cancel()

    run(work())


def test_the_first_of_each_goes_before_the_second_of_any() -> None:
    async def work() -> None:
        gate = StartGate(1)
        first = await gate.enter(lambda: Urgency.START)
        second_of_one, first_of_other = enter(gate, Urgency.START, 2), enter(gate, Urgency.START, 1)
        await turn_loop()
        gate.leave(first)
        await first_of_other
        assert not second_of_one.done()
        second_of_one.cancel()

    run(work())


def test_one_that_was_cancelled_when_its_turn_came_keeps_no_place() -> None:
    async def work() -> None:
        gate = StartGate(1)
        first = await gate.enter(lambda: Urgency.START)
        waiting = enter(gate, Urgency.START)
        await turn_loop()
        gate.leave(first)
        waiting.cancel()
        await turn_loop()
        async with gate.turn_to_build(0):
            pass

    run(work())


@contextmanager
def python(code: str) -> Iterator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, process_group=0) as process:
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # with what it has started


CHILD = "import subprocess, sys; print(flush=True); subprocess.run([sys.executable, '-c', {!r}])"


@pytest.mark.parametrize("outer", ["{}", CHILD])
def test_one_that_waits_for_something_else_holds_up_nobody(outer: str) -> None:
    waits = "import time; print(flush=True); time.sleep(60)"

    async def work() -> None:
        gate = StartGate(1)
        with python(outer.format(waits)) as process:
            load = await gate.enter(lambda: Urgency.START)
            load.pid = process.pid
            await gate.enter(lambda: Urgency.START)
            assert load.is_idle

    run(work())


@pytest.mark.parametrize("outer", ["{}", CHILD])
def test_one_that_uses_the_processor_is_waited_for(outer: str) -> None:
    async def work() -> None:
        gate = StartGate(1)
        with python(
            outer.format("print(flush=True)\nimport time\nwhile time.thread_time() < 30: pass")
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            load = await gate.enter(lambda: Urgency.START)
            load.pid = process.pid
            waiting = enter(gate, Urgency.START)
            await asyncio.sleep(3 * IDLE_SECONDS)  # in which an idle one would have been noticed
            assert not waiting.done()
            waiting.cancel()

    run(work())


def test_the_time_of_a_start_begins_with_its_turn() -> None:
    started: list[float] = []

    def refuse(*_: Any) -> Any:
        started.append(asyncio.get_running_loop().time())
        raise OSError("no process here")

    async def work() -> None:
        gate = StartGate(1)
        load = await gate.enter(lambda: Urgency.START)
        generation = Generation(1, CONFIG, refuse, gate=gate)
        adding = asyncio.create_task(generation.add())
        await turn_loop()
        assert (started, generation.queued) == ([], 1)
        gate.leave(load)
        with pytest.raises(OSError, match="no process here"):
            await adding
        assert (len(started), generation.queued) == (1, 0)
        await gate.enter(lambda: Urgency.START)  # it holds no place

    run(work())


def test_what_is_not_wanted_any_more_is_not_started() -> None:
    async def work() -> None:
        gate = StartGate(1)
        load = await gate.enter(lambda: Urgency.START)
        generation = Generation(1, CONFIG, lambda *_: pytest.fail("started"), gate=gate)
        adding = asyncio.create_task(generation.add())
        await turn_loop()
        generation.state = GenerationState.STOPPING
        gate.leave(load)
        assert await adding is None
        await gate.enter(lambda: Urgency.START)

    run(work())


# --- a gateway --------------------------------------------------------------------------------


def test_pools_load_a_few_at_a_time(start: Start) -> None:
    count = 3 * LIMIT
    gateway = start(server=MANUAL, busy=BUSY)
    gateway.write_table("  /: good:app\n" + own("busy", count))
    assert gateway.control("reload")["exit_code"] == 0
    loads = find_loads(gateway)
    assert loads.count("end") == count
    loading = most = 0
    for what in loads:
        loading += 1 if what == "begin" else -1
        most = max(most, loading)
    assert most <= LIMIT + 1  # one may just have waited for something
    assert is_served(gateway, f"/busy{count - 1}")


def test_a_pool_that_waits_for_its_turn_is_shown(start: Start) -> None:
    gateway = start(server=MANUAL, busy=BUSY)
    gateway.write("hold", "")
    gateway.write_table("  /: good:app\n" + own("busy", LIMIT + 1))
    with ThreadPoolExecutor(1) as threads:
        reloading = threads.submit(gateway.control, "reload")
        try:
            wait_until(lambda: len(find_loads(gateway)) == LIMIT, "as many load as may", 90)
            status = gateway.control("status")
            assert sum(generation["queued"] for generation in status["generations"]) >= 1
            lines = format_status(status)
            assert any("workers waiting to load: 1" in line for line in lines)
        finally:
            (gateway.folder / "hold").unlink()
        assert reloading.result()["exit_code"] == 0


def test_a_pool_that_wakes_does_not_wait_behind_others(start: Start) -> None:
    nap = "  /: good:app\n  /nap: {app: 'good:app', pool: nap}\n"
    gateway = start(nap, MANUAL + "pools: {nap: {idle: 1s}}\n", busy=BUSY)
    is_asleep = lambda: any(  # noqa: E731
        g["state"] == "asleep" for g in gateway.control("status")["generations"]
    )
    wait_until(is_asleep, "the pool sleeps", 90)
    gateway.write("hold", "")
    gateway.write_table(nap + own("busy", LIMIT + 1))
    with ThreadPoolExecutor(1) as threads:
        reloading = threads.submit(gateway.control, "reload")
        try:
            wait_until(lambda: len(find_loads(gateway)) == LIMIT, "as many load as may", 90)
            wait_until(lambda: is_served(gateway, "/nap"), "the pool that slept answers", 90)
            assert find_loads(gateway) == ["begin"] * LIMIT
        finally:
            (gateway.folder / "hold").unlink()
        assert reloading.result()["exit_code"] == 0


def test_imports_that_wait_hold_up_no_other_pool(start: Start) -> None:
    mounts = "  /: good:app\n" + own("idle", LIMIT + 1) + own("good", 1)
    gateway = start(mounts, MANUAL, idle=IDLE)
    # nobody asks for it, and it was the last to come
    wait_until(lambda: "pool /good0: ready" in gateway.log_text, "the one that can load serves", 90)
    gateway.write("go", "")
    wait_until(lambda: is_served(gateway, f"/idle{LIMIT}"), "the last serves", 90)
