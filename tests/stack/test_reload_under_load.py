"""Reloads under load, through nginx: none loses a request, and one that fails changes nothing.

The same bad edits meet the gateway alone in ``tests/process/test_bad_edits.py``.
"""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bad_edits import BAD_EDITS, BadEdit
from clients import Load
from stacks import Lab
from wire import wait_until

TABLE = ("-c", "/srv/apps/mounts.yaml")
RELOADS = 10
# connections from nginx to the gateway
KEPT = 40


def status(lab: Lab) -> dict[str, Any]:
    ran = lab.run_in("gateway", "gateway", "status", "--json", *TABLE)
    assert ran.exit_code == 0, ran.err
    return json.loads(ran.out)


def outcome_after(lab: Lab, before: dict[str, Any] | None) -> dict[str, Any]:
    """How the reload ended that came after the one whose outcome is ``before``."""

    def find() -> dict[str, Any] | None:
        last = status(lab)["last_reload"]
        return last if last != before else None

    return wait_until(find, "a reload has ended", 60)


def test_reloads_under_load_lose_nothing(disturbed_lab: Lab):
    lab = disturbed_lab
    began = status(lab)
    last = began["last_reload"]
    with Load(lab.address, 16) as load:
        for number in range(RELOADS):
            if number % 2:
                assert lab.run_in("gateway", "bash", "-c", "kill -HUP 1").exit_code == 0
            else:
                lab.table += f"  /added-{number}: echo:app\n"
            last = outcome_after(lab, last)
            assert last["exit_code"] == 0, last["messages"]
            assert last["trigger"] == ("SIGHUP" if number % 2 else "edit")
            assert lab.fetch(f"/added-{number // 2 * 2}").status == 200
            served = load.total
            wait_until(lambda served=served: load.total > served + 50, "the load goes on")
    assert (load.faults, load.resets) == ([], 0)
    assert min(load.answered["GET"], load.answered["POST"]) > 500
    print(load)
    # each with new workers: one mount of the table never loads, and may by then
    assert int(status(lab)["generation"][1:]) == int(began["generation"][1:]) + RELOADS


VERSIONED = """
import time
def app(environ, start_response):
    time.sleep(float(environ["QUERY_STRING"] or 0))
    start_response("200 OK", [])
    return [b"version %d"]
"""


@pytest.mark.parametrize("mount", ["versioned:app", "{app: 'versioned:app', pool: own}"])
def test_the_next_answers_are_all_the_new_codes(disturbed_lab: Lab, mount: str):
    """On each of the connections that nginx keeps, after a reload and after a rollback."""
    lab = disturbed_lab
    app = Path(lab.folder, "versioned.py")

    def serve(number: int) -> None:
        app.write_text(VERSIONED % number)
        ran = lab.run_in("gateway", "gateway", "reload", *TABLE)
        assert (ran.exit_code, ran.err) == (0, "")

    def find_versions(query: str = "") -> set[bytes]:
        with ThreadPoolExecutor(KEPT) as pool:
            answers = pool.map(lab.fetch, [f"/versioned{query}"] * KEPT)
            return {answer.content for answer in answers}

    manual = lab.table.replace("server:\n", "server:\n  reload_on_edit: false\n")
    lab.table = f"{manual}  /versioned: {mount}\n"
    serve(0)
    for number in range(1, 4):
        assert find_versions("?0.5") == {b"version %d" % (number - 1)}  # all of them at a time
        serve(number)
        assert {lab.fetch("/versioned").content for _ in range(60)} == {b"version %d" % number}
    assert find_versions("?0.5") == {b"version 3"}
    for version in (2, 3):
        assert lab.run_in("gateway", "gateway", "rollback", *TABLE).exit_code == 0
        assert find_versions("?0.5") == {b"version %d" % version}


# --- bad edits ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def load(lab: Lab) -> Iterator[Load]:
    with Load(lab.address, 16, pause=0.05) as load:
        yield load
    assert (load.faults, load.resets) == ([], 0)
    print(load)


SAVED = [edit for edit in BAD_EDITS if edit.name in ("unknown key", "crash in C")]


@pytest.mark.parametrize("edit", SAVED, ids=str)
def test_a_bad_edit_is_told_as_it_is_saved(lab: Lab, load: Load, edit: BadEdit):
    table, text, before = Path(lab.folder, "mounts.yaml"), lab.table, status(lab)
    try:
        place = edit.save(table)
        last = outcome_after(lab, before["last_reload"])
        after = status(lab)
    finally:
        edit.undo(table, text)  # which means the same as what is served
    assert (last["trigger"], last["exit_code"]) == ("edit", edit.exit_code)
    assert edit.told in "\n".join(last["messages"])
    assert place in "\n".join(last["messages"])
    assert serving(after) == serving(before)
    assert (load.faults, load.resets) == ([], 0)


def serving(report: dict[str, Any]) -> tuple[str, set[int]]:
    """The generation that serves, and its workers, but for those that only try a mount that does
    not load."""
    [generation] = [g for g in report["generations"] if g["generation"] == report["generation"]]
    workers = generation["workers"]
    return report["generation"], {w["pid"] for w in workers if w["state"] != "trying"}


# the two commands in one process, which is half the time
RELOAD_AND_STATUS = f"""
from gateway.commands.main import main
print(main(["reload", *{TABLE}]), flush=True)
main(["status", "--json", *{TABLE}])
"""


@pytest.fixture(scope="module")
def unwatched(lab: Lab) -> Iterator[dict[str, Any]]:
    """The status of the lab with a table whose saves wait for `gateway reload`, and a log of
    nothing else."""
    table, before = lab.table, status(lab)["last_reload"]
    settings = "server:\n  reload_on_edit: false\n  access_log: off\n"
    lab.table = table.replace("server:\n", settings)
    assert outcome_after(lab, before)["exit_code"] == 0
    yield status(lab)
    lab.table = table
    assert lab.run_in("gateway", "gateway", "reload", *TABLE).exit_code == 0


@pytest.mark.parametrize("edit", BAD_EDITS, ids=str)
def test_a_bad_edit_under_load_changes_nothing(
    lab: Lab, unwatched: dict[str, Any], load: Load, edit: BadEdit
):
    table, text = Path(lab.folder, "mounts.yaml"), lab.table
    answered, began = load.total, time.time()
    try:
        place = edit.save(table)
        ran = lab.run_in("gateway", "python", "-c", RELOAD_AND_STATUS)
    finally:
        edit.undo(table, text)
    exit_code, _, report = ran.out.partition("\n")
    after = json.loads(report)
    for message in ("\n".join(after["last_reload"]["messages"]), ran.err):
        assert edit.told in message
        assert place in message
    log = lab.stderr("gateway", began)
    assert json.dumps(edit.told)[1:-1] in log
    assert place in log
    assert int(exit_code) == after["last_reload"]["exit_code"] == edit.exit_code
    assert serving(after) == serving(unwatched)
    wait_until(lambda: load.total > answered + 100, "the load goes on")
    assert (load.faults, load.resets) == ([], 0)
