"""Workers that are replaced though nothing is wrong with them, and those that take too much."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from http.client import HTTPConnection, HTTPException
from typing import Any

import pytest
from idle_process import IdleProcess
from one_mount import CONFIG
from running import Running, wait_until

from gateway.supervisor.generations.generation import Generation
from gateway.supervisor.generations.recycle import Recycler
from gateway.supervisor.processes.process import ProcessState

Start = Callable[..., Running]
RECYCLES = 4
MANUAL = "  reload_on_edit: false\n"
# small enough for a fresh worker, and far from what /grow makes of it
MOUNTS = "  /: leaky:app\n"
LEAKY = """
import pathlib, time
here = pathlib.Path(__file__).parent
if (here / "broken").exists():
    raise RuntimeError("no longer")
(here / f"loading-{time.monotonic()}").touch()
while (here / "hold").exists():
    time.sleep(0.01)
kept = []
def app(environ, start_response):
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/grow":
        kept.append(b"x" * (200 << 20))
    if environ["PATH_INFO"] == "/slow":
        (here / "began").touch()
        while not (here / "go").exists():
            time.sleep(0.01)
    return [environ["wsgi.input"].read() or b"nothing"]
"""


class Client(HTTPConnection):
    """Keeps its connection until it is told to close."""

    def __init__(self, gateway: Running) -> None:
        super().__init__("localhost")
        self._gateway = gateway

    def connect(self) -> None:
        self.sock = self._gateway.connect()

    def ask(self, content: bytes) -> bytes:
        self.request("POST", "/", content)
        return self.getresponse().read()


def load(gateway: Running, is_over: threading.Event) -> list[str]:
    """Ask until it ``is_over``; what went wrong."""
    client, wrong, count = Client(gateway), [], 0
    while not is_over.is_set():
        count += 1
        content = b"%d" % count * 500
        try:
            if client.ask(content) != content:
                wrong.append("another content")
        except (OSError, HTTPException) as error:
            wrong.append(repr(error))
            client.close()
    client.close()
    return wrong if count > 1 else ["nothing was asked"]


def ready(gateway: Running) -> set[int]:
    """The pids of those that serve and stay."""
    [*_, generation] = gateway.control("status")["generations"]
    return {w["pid"] for w in generation["workers"] if w["state"] == "ready"}


def replaced(gateway: Running, old: set[int]) -> set[int]:
    return wait_until(lambda: (new := ready(gateway)) and not new & old and new, "another serves")


def test_recycling_under_load_loses_nothing(start: Start) -> None:
    gateway = start(MOUNTS, f"{MANUAL}  workers: 2\n  max_requests: 5\n", leaky=LEAKY)
    is_over = threading.Event()
    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load, gateway, is_over) for _ in range(4)]
        try:
            wait_until(lambda: gateway.log_text.count("replaces worker") >= RECYCLES, "recycles")
        finally:
            is_over.set()
    assert [wrong for load in loads for wrong in load.result()] == []
    assert "requests (max_requests)" in gateway.log_text
    assert {record["status"] for record in gateway.records} == {200}
    assert "error" not in gateway.log_text


@pytest.mark.parametrize(
    ("setting", "path", "reason"),
    [
        ("max_memory: 150MiB", "/grow", "MiB (max_memory)"),
        ("max_lifetime: 2s", "/", "s old (max_lifetime)"),
    ],
)
def test_a_worker_goes_once_another_has_taken_its_place(
    start: Start, setting: str, path: str, reason: str
) -> None:
    gateway = start(MOUNTS, f"{MANUAL}  {setting}\n", leaky=LEAKY)
    old = ready(gateway)
    gateway.ask(path)
    replaced(gateway, old)
    assert reason in gateway.log_text
    wait_until(lambda: not old & gateway.children(), "the old one has gone")
    assert gateway.ask().endswith(b"nothing")
    assert {record["status"] for record in gateway.records} == {200}


def test_within_the_limits_nobody_goes(start: Start) -> None:
    server = (
        "  max_requests: 100\n  max_memory: 1GiB\n  max_memory_hard: 2GiB\n  max_lifetime: 1h\n"
    )
    gateway = start(MOUNTS, MANUAL + server, leaky=LEAKY)
    old = ready(gateway)
    gateway.ask("/grow")
    age = wait_until(lambda: age_of(gateway) > 4 and age_of(gateway), "it has been looked at")
    assert age < 60
    assert ready(gateway) == old


def age_of(gateway: Running) -> float:
    age: float = gateway.control("status")["generations"][0]["workers"][0]["age"]
    return age


def test_a_limit_below_what_the_apps_take_is_told_and_not_kept(start: Start) -> None:
    gateway = start(MOUNTS, f"{MANUAL}  max_memory: 1MiB\n", leaky=LEAKY)
    old = ready(gateway)
    wait_until(lambda: "max_memory (1 MiB) is less than" in gateway.log_text, "it is told")
    assert ready(gateway) == old


def test_far_too_large_a_worker_is_killed_and_its_requests_recorded(start: Start) -> None:
    gateway = start(MOUNTS, f"{MANUAL}  max_memory_hard: 150MiB\n", leaky=LEAKY)
    old = ready(gateway)

    def ask_slow() -> None:
        with suppress(OSError):
            gateway.ask("/slow")

    with ThreadPoolExecutor(1) as pool:
        pool.submit(ask_slow)
        wait_until((gateway.folder / "began").exists, "the request has begun")
        gateway.ask("/grow")
        replaced(gateway, old)
    assert "MiB (max_memory_hard is 150 MiB)" in gateway.log_text
    [record] = [record for record in gateway.records if record["target"] == "/slow"]
    assert record["status"] == 502
    assert "was killed by SIGKILL (it took " in record["error"]


def test_where_none_can_take_its_place_a_worker_stays(start: Start) -> None:
    gateway = start(MOUNTS, f"{MANUAL}  max_requests: 1\n", leaky=LEAKY)
    old = ready(gateway)
    (gateway.folder / "broken").touch()
    gateway.ask()
    gateway.ask()
    wait_until(lambda: "stays, since its replacement" in gateway.log_text, "it is told")
    assert "mounts./: leaky:app: RuntimeError: no longer" in gateway.log_text
    assert ready(gateway) == old
    assert gateway.ask().endswith(b"nothing")
    (gateway.folder / "broken").unlink()
    replaced(gateway, old)
    assert gateway.log_text.count("stays, since its replacement") == 1


@pytest.fixture
def replacing(start: Start) -> tuple[Running, set[int]]:
    """A gateway with a spare worker that loads until ``hold`` has gone, and who serves."""
    gateway = start(MOUNTS, f"{MANUAL}  max_lifetime: 3s\n", leaky=LEAKY)
    (gateway.folder / "hold").touch()
    wait_until(lambda: len(gateway.children()) == 2, "a spare worker loads")
    wait_until(lambda: len(list(gateway.folder.glob("loading-*"))) == 2, "a spare worker loads")
    return gateway, ready(gateway)


def test_a_stop_does_not_wait_for_a_spare_worker(replacing: Any) -> None:
    gateway, _ = replacing
    assert gateway.end() == 0


def test_a_spare_worker_stands_in_for_one_that_dies(replacing: Any) -> None:
    gateway, [old] = replacing
    os.kill(old, signal.SIGKILL)
    wait_until(lambda: old not in gateway.children(), "it has gone")
    (gateway.folder / "hold").unlink()
    replaced(gateway, {old})
    assert len(gateway.children()) == 1


def test_a_reload_takes_over_from_a_spare_worker_too(replacing: Any) -> None:
    gateway, _ = replacing
    (gateway.folder / "hold").unlink()
    gateway.write("leaky.py", LEAKY + "\n")
    assert gateway.control("reload")["exit_code"] == 0
    generations = gateway.control("status")["generations"]
    assert [g["state"] for g in generations][-1] == "serving"
    assert gateway.control("rollback")["exit_code"] == 0
    assert gateway.ask().endswith(b"nothing")


def test_a_spare_worker_stands_in_for_another_than_the_one_that_was_to_go(start: Start) -> None:
    gateway = start(MOUNTS, f"{MANUAL}  workers: 2\n  max_lifetime: 3s\n", leaky=LEAKY)
    wait_until(lambda: len(ready(gateway)) == 2, "both serve")
    (gateway.folder / "hold").touch()
    wait_until(lambda: len(gateway.children()) == 3, "a spare worker loads")
    [generation] = gateway.control("status")["generations"]
    other = generation["workers"][1]["pid"]
    os.kill(other, signal.SIGKILL)
    wait_until(lambda: other not in gateway.children(), "it has gone")
    (gateway.folder / "hold").unlink()
    wait_until(lambda: len(ready(gateway)) == 2, "two serve")
    assert gateway.ask().endswith(b"nothing")
    assert "exited with" not in gateway.log_text  # nobody went in vain


def test_a_fault_of_the_gateways_own_is_waited_out_like_any_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = []

    async def fail(**_: Any) -> None:
        tries.append(time.monotonic())
        raise LookupError("never seen before")

    async def look() -> None:
        limits = replace(CONFIG.server.pool_limits, max_lifetime_seconds=1.0)
        server = replace(CONFIG.server, workers=1, pool_limits=limits)
        generation = Generation(1, replace(CONFIG, server=server), lambda *_: IdleProcess(2))
        generation.serve()
        old = IdleProcess(1, ProcessState.READY)
        old.started = time.monotonic() - 2.0
        generation.processes[1] = old
        monkeypatch.setattr(generation, "add", fail)
        recycler = Recycler(generation)
        for _ in range(5):
            recycler.look()
            for _ in range(3):  # turns of the loop
                await asyncio.sleep(0)
        assert old.state is ProcessState.READY

    asyncio.run(look())
    assert len(tries) == 1
    assert caplog.text.count("Traceback") == 1
    assert "worker 1 stays, since its replacement did not load: " in caplog.text
    assert "The next try is in 5 s" in caplog.text
