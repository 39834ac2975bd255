"""Every bad edit of a gateway that serves changes nothing for anybody, and is told with its cause.

The same edits meet the stack in ``tests/stack/test_reload_under_load.py``.
"""

import ctypes
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_edits import BAD_EDITS, BadEdit
from clients import Load
from running import Running, wait_until

from gateway.commands.remote import format_status

MIRROR = Path(__file__).parents[1] / "stack" / "apps" / "mirror.py"
MOUNTS = "  /: good:app\n  /mirror: mirror:app\n"
# prctl(2), capabilities(7)
PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2


def obey_modes() -> None:
    """Root may read every file; without these its files' modes hold, as for everybody else."""
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One for all that must not change it."""
    gateway = Running(
        tmp_path_factory.mktemp("site"),
        MOUNTS,
        "  reload_on_edit: false\n",
        before=obey_modes,
        mirror=MIRROR.read_text(),
    )
    yield gateway
    assert gateway.end() == 0


@pytest.fixture(scope="module")
def load(gateway: Running) -> Iterator[Load]:
    with Load(str(gateway.folder / "listen.sock"), 16, pause=0.02) as load:
        yield load
    assert (load.faults, load.resets) == ([], 0)
    print(load)


@pytest.mark.parametrize("edit", BAD_EDITS, ids=str)
def test_a_bad_edit_changes_nothing_and_tells_its_cause(
    gateway: Running, load: Load, edit: BadEdit
) -> None:
    table = gateway.folder / "mounts.yaml"
    text, logged = table.read_text(), len(gateway.log_text)
    workers, answered = gateway.children(), load.total
    try:
        place = edit.save(table)
        outcome = gateway.control("reload")
        wait_until(lambda: load.total > answered + 100, "the load goes on")
    finally:
        edit.undo(table, text)
    status = "\n".join(format_status(gateway.control("status")))
    for told in ("\n".join(outcome["messages"]), status):
        assert edit.told in told
        assert place in told
    log = gateway.log_text[logged:]
    assert json.dumps(edit.told)[1:-1] in log
    assert place in log
    assert outcome["exit_code"] == edit.exit_code
    assert gateway.generation() == outcome["generation"] == "g1"
    assert gateway.children() == workers
    assert (load.faults, load.resets) == ([], 0)


def test_a_good_edit_after_all_of_them_is_served(gateway: Running, load: Load) -> None:
    gateway.write("more.py", (gateway.folder / "good.py").read_text())
    gateway.write_table(MOUNTS + "  /more: more:app\n")
    outcome = gateway.control("reload")
    assert (outcome["exit_code"], outcome["messages"]) == (0, [])
    assert gateway.ask("/more").endswith(outcome["generation"].encode())
    answered = load.total
    wait_until(lambda: load.total > answered + 100, "the load goes on")
