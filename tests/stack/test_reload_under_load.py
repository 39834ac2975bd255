"""Reloads under load, through nginx: none loses a request, and one that fails changes nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from load import Load
from stacks import Lab
from wire import wait_until

TABLE = ("-c", "/srv/apps/mounts.yaml")
RELOADS = 10


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
    with Load(lab) as load:
        for number in range(RELOADS):
            if number % 2:
                assert lab.run_in("gateway", "bash", "-c", "kill -HUP 1").exit_code == 0
            else:
                lab.table += f"  /added-{number}: echo:app\n"
            last = outcome_after(lab, last)
            assert last["exit_code"] == 0, last["messages"]
            assert last["trigger"] == ("SIGHUP" if number % 2 else "edit")
            assert lab.fetch(f"/added-{number // 2 * 2}").status == 200
            served = sum(load.answered.values())
            wait_until(lambda served=served: sum(load.answered.values()) > served + 50, "load")
    assert load.faults == []
    assert min(load.answered["GET"], load.answered["POST"]) > 500
    print(f"{dict(load.answered)} answered, the slowest after {load.longest:.2f} s")
    # each with new workers: one mount of the table never loads, and may by then
    assert int(status(lab)["generation"][1:]) == int(began["generation"][1:]) + RELOADS


@pytest.fixture(scope="module")
def load(lab: Lab):
    with Load(lab, clients=4) as load:
        yield load


ADD = "  /added: added:app\n"


@pytest.mark.parametrize(
    ("edit", "module", "told"),
    [
        ("  /added: [\n", "", "not YAML"),
        ("  /added: {app: echo:app, timout: 3s}\n", "", 'unknown key: did you mean "timeout"?'),
        ("  /added: ech:app\n", "", 'there is no module "ech"; did you mean "echo"?'),
        (ADD, "app = (", "SyntaxError"),
        (ADD, "import psycopg9", "No module named 'psycopg9'"),
        (ADD, "raise RuntimeError('no database')", "RuntimeError: no database"),
        (ADD, "import sys; sys.exit(1)", "the app called sys.exit(1) while it was loaded"),
        (ADD, "import ctypes; ctypes.string_at(0)", "was ended by SIGSEGV"),
        ("server: {start_timeout: 4s}", "import time; time.sleep(99)", "did not load within 4 s"),
    ],
)
def test_a_bad_edit_under_load_changes_nothing(
    lab: Lab, load: Load, edit: str, module: str, told: str
):
    table, before = lab.table, status(lab)
    app = Path(lab.folder, "added.py")
    try:
        app.write_text(f"{module}\n")
        if edit.startswith("server:"):
            lab.table = table.replace("server:\n", "server:\n  start_timeout: 4s\n") + ADD
        else:
            lab.table = table + edit
        last = outcome_after(lab, before["last_reload"])
        after = status(lab)
        answered = sum(load.answered.values())
        wait_until(lambda: sum(load.answered.values()) > answered + 20, "the load goes on")
        ran = lab.run_in("gateway", "gateway", "reload", *TABLE)
    finally:
        lab.table = table
        app.unlink()
        back = outcome_after(lab, status(lab)["last_reload"])
    line = lab.table.count("\n") + (2 if edit.startswith("server:") else 1)
    assert last["exit_code"] == ran.exit_code == (3 if module else 2)
    for message in ("\n".join(last["messages"]), ran.err):
        assert told in message
        assert f"/srv/apps/mounts.yaml:{line}:" in message or told == "not YAML"
    assert json.dumps(told)[1:-1] in lab.stderr("gateway")
    assert after["generation"] == before["generation"]
    workers = [w["pid"] for g in before["generations"][-1:] for w in g["workers"]]
    assert workers == [w["pid"] for g in after["generations"][-1:] for w in g["workers"]]
    assert load.faults == []
    assert back["exit_code"] == 0
