"""The promise, at full speed: 64 connections that check every byte never notice a reload, a recycle
or a rollback, and of a kill only what it cut.

``PROOF_ROUNDS`` is how many reloads there are; `make proof` has 50. The stack meets the same in
``tests/stack/test_proof_stack.py``.
"""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from clients import Load
from running import Running, wait_until

pytestmark = pytest.mark.alone

Start = Callable[..., Running]
RELOADS = int(os.environ.get("PROOF_ROUNDS", "5"))
ROLLBACKS = RECYCLES = max(2, RELOADS * 2 // 5)
CLIENTS = 64
MIRROR = (Path(__file__).parents[1] / "stack" / "apps" / "mirror.py").read_text()
MOUNTS = "  /: good:app\n  /mirror: mirror:app\n"
IN_POOL = "  /: good:app\n  /mirror: {app: 'mirror:app', pool: own}\n"
VERSIONED = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"version %d"]
"""


def go_on(load: Load) -> None:
    served = load.total
    wait_until(lambda: load.total > served + CLIENTS, "the load goes on")


def answers(gateway: Running) -> bool:
    """A worker may take a connection while it is being killed."""
    try:
        return gateway.ask("/").endswith(b"g1")
    except OSError:
        return False


@pytest.mark.parametrize("mounts", [MOUNTS, IN_POOL], ids=["in the front", "in a pool"])
def test_reloads_and_rollbacks_lose_nothing(start: Start, mounts: str) -> None:
    server = "  workers: 2\n  reload_on_edit: false\n  access_log: off\n"
    gateway = start(mounts, server, mirror=MIRROR)
    with Load(str(gateway.folder / "listen.sock"), CLIENTS) as load:
        for number in range(RELOADS):
            gateway.write("good.py", VERSIONED % number)
            assert gateway.control("reload")["messages"] == []
            assert gateway.ask().endswith(b"version %d" % number)
            go_on(load)
        for number in range(ROLLBACKS):
            assert gateway.control("rollback")["messages"] == []
            assert gateway.ask().endswith(b"version %d" % (RELOADS - 1 - (number + 1) % 2))
            go_on(load)
    assert (load.faults, load.resets) == ([], 0)
    assert min(load.answered["GET"], load.answered["POST"]) > CLIENTS
    print(f"{RELOADS} reloads, {ROLLBACKS} rollbacks: {load}")


def test_recycles_lose_nothing(start: Start) -> None:
    server = "  workers: 2\n  reload_on_edit: false\n  access_log: off\n  max_requests: 1000\n"
    gateway = start(MOUNTS, server, mirror=MIRROR)
    with Load(str(gateway.folder / "listen.sock"), CLIENTS) as load:
        wait_until(
            lambda: gateway.log_text.count("replaces worker") >= RECYCLES,
            "workers are recycled",
            seconds=RECYCLES * 20,
        )
    assert (load.faults, load.resets) == ([], 0)
    print(f"{RECYCLES} recycles: {load}")


def test_edits_in_place_lose_nothing(start: Start) -> None:
    gateway = start(MOUNTS, "  workers: 2\n  access_log: off\n", mirror=MIRROR)
    workers = gateway.children()
    with Load(str(gateway.folder / "listen.sock"), CLIENTS) as load:
        for number in range(ROLLBACKS):
            before = gateway.control("status")["last_reload"]
            gateway.write_table(f"{MOUNTS}  /old-{number}: {{redirect: /mirror}}\n")
            wait_until(
                lambda before=before: gateway.control("status")["last_reload"] != before,
                "the edit is served",
            )
            assert b" 308 " in gateway.ask(f"/old-{number}")
            go_on(load)
    assert gateway.children() == workers
    assert (load.faults, load.resets) == ([], 0)


@pytest.mark.parametrize("killed", ["a worker", "all workers"])
def test_of_a_kill_only_what_was_in_flight_is_lost(start: Start, killed: str) -> None:
    gateway = start(MOUNTS, "  workers: 2\n  access_log: json\n", mirror=MIRROR)
    wait_until(lambda: len(gateway.children()) == 2, "both workers have started")
    with Load(str(gateway.folder / "listen.sock"), CLIENTS) as load:
        go_on(load)
        victims = sorted(gateway.children())[: 1 if killed == "a worker" else 2]
        began = time.monotonic()
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: answers(gateway), "it serves again")
        took = time.monotonic() - began
        wait_until(lambda: len(gateway.children() - set(victims)) == 2, "both serve again")
        for _ in range(3):
            go_on(load)  # until each of them has noticed
        lost = len(load.faults)
        go_on(load)
    assert len(load.faults) == lost == load.resets <= CLIENTS
    recorded = [record for record in gateway.records if record["status"] == 502]
    assert len(recorded) <= lost
    for record in recorded:
        assert record["mount"] == "/mirror"
        assert "was killed by SIGKILL" in record["error"]
    print(f"{killed}: served again after {took:.2f} s; {lost} lost, {len(recorded)} recorded")
