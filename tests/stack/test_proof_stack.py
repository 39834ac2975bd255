"""The promise, at full speed and through nginx: 64 connections that check every byte never notice a
reload, a recycle or a rollback.

``PROOF_ROUNDS`` is how many reloads there are; `make proof` has 50. The gateway alone meets the
same in ``tests/process/test_proof.py``.
"""

import json
import os
import time
from pathlib import Path

from clients import Load
from stacks import Lab
from wire import wait_until

TABLE = ("-c", "/srv/apps/mounts.yaml")
RELOADS = int(os.environ.get("PROOF_ROUNDS", "5"))
ROLLBACKS = RECYCLES = max(2, RELOADS * 2 // 5)
CLIENTS = 64
VERSIONED = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [environ["gateway.generation"].encode() + b" version %d"]
"""


def go_on(load: Load) -> None:
    served = load.total
    wait_until(lambda: load.total > served + CLIENTS, "the load goes on")


def find_answers(lab: Lab) -> set[tuple[str, str]]:
    """Which generation and code answer, on many of the connections that nginx keeps."""
    answers = [lab.fetch("/versioned").content.decode() for _ in range(20)]
    return {(generation, code) for generation, _, code in (a.partition(" ") for a in answers)}


def find_generation(lab: Lab) -> str:
    """The one that serves."""
    report = json.loads(lab.run_in("gateway", "gateway", "status", "--json", *TABLE).out)
    generation: str = report["generation"]
    return generation


def test_reloads_recycles_and_rollbacks_lose_nothing(disturbed_lab: Lab):
    lab = disturbed_lab
    app = Path(lab.folder, "versioned.py")
    app.write_text(VERSIONED % 0)
    quiet = "server:\n  reload_on_edit: false\n  access_log: off\n  max_requests: 2000\n"
    lab.table = lab.table.replace("server:\n", quiet) + "  /versioned: versioned:app\n"
    assert lab.run_in("gateway", "gateway", "reload", *TABLE).exit_code == 0
    with Load(lab.address, CLIENTS) as load:
        for number in range(RELOADS):
            app.write_text(VERSIONED % number)
            ran = lab.run_in("gateway", "gateway", "reload", *TABLE)
            assert ran.exit_code == 0, ran.err
            assert find_answers(lab) == {(find_generation(lab), f"version {number}")}
            go_on(load)
        for _ in range(ROLLBACKS):
            assert lab.run_in("gateway", "gateway", "rollback", *TABLE).exit_code == 0
            # a worker of it may have been recycled, and loaded the code that was there then
            assert {generation for generation, _ in find_answers(lab)} == {find_generation(lab)}
            go_on(load)
        wait_until(
            lambda: lab.stderr("gateway").count("replaces worker") >= RECYCLES,
            "workers are recycled",
            RECYCLES * 20,
        )
    app.unlink()
    assert (load.faults, load.resets) == ([], 0)
    print(f"{RELOADS} reloads, {ROLLBACKS} rollbacks, {RECYCLES} recycles: {load}")


def target_of(fault: str) -> str:
    return fault.split(" ")[1].rstrip(":")


def test_of_a_kill_each_request_that_is_lost_has_a_record(disturbed_lab: Lab):
    """In nginx's log: the gateway itself has one of what its workers had begun."""
    lab = disturbed_lab
    with Load(lab.address, CLIENTS) as load:
        go_on(load)
        workers = [process["Pid"] for process in lab.processes("gateway") if process["PPid"] == "1"]
        began = time.monotonic()
        assert lab.run_in("gateway", "bash", "-c", f"kill -9 {' '.join(workers)}").exit_code == 0
        wait_until(lambda: lab.fetch("/echo").status == 200, "new workers answer")
        took = time.monotonic() - began
        for _ in range(3):
            go_on(load)  # until each of them has noticed
        lost = len(load.faults)
        go_on(load)
    assert len(load.faults) == lost <= CLIENTS
    # of an answer that had begun, the end is all that can tell
    unanswered = {target_of(fault) for fault in load.faults if "b'HTTP/1.1 502 " in fault}
    cut = {target_of(fault) for fault in load.faults} - unanswered
    assert len(cut) == load.resets

    def recorded(status: int) -> set[str]:
        return {r["target"] for r in lab.records("nginx") if r["status"] == status}

    wait_until(lambda: unanswered <= recorded(502) and cut <= recorded(200), "each has its record")
    print(f"all workers: served again after {took:.2f} s; {lost} lost, each recorded")


def test_an_edit_in_place_reaches_every_worker_under_load(disturbed_lab: Lab):
    lab = disturbed_lab

    def status():
        return json.loads(lab.run_in("gateway", "gateway", "status", "--json", *TABLE).out)

    def outcome_after(before):
        return wait_until(
            lambda: (last := status()["last_reload"]) != before and last, "a reload has ended", 60
        )

    began = status()["last_reload"]
    # a mount that never loads is tried by new workers at each edit
    lab.table = lab.table.replace("  /broken: broken:app\n", "")
    before = outcome_after(began)
    assert before["exit_code"] == 0
    with Load(lab.address, CLIENTS) as load:
        go_on(load)
        lab.table += "  /moved: {redirect: /mirror}\n"
        last = outcome_after(before)
        assert (last["exit_code"], last["how"]) == (0, "in place")
        assert {lab.fetch("/moved/1").status for _ in range(20)} == {308}
        go_on(load)
    assert (load.faults, load.resets) == ([], 0)
    print(f"served {last['seconds']:.2f} s after the save: {load}")
