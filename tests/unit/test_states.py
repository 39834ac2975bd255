"""The helper by which lives are tables: what is refused, how, and what is drawn."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import states
from gateway.states import VARIABLE, IllegalTransitionError, Machine, State


class Door(State):
    OPEN = "open", "anyone may pass"
    CLOSED = "closed", "it can be opened"
    GONE = "gone", "the house was pulled down"


DOOR = Machine(
    "door",
    Door.OPEN,
    {
        Door.OPEN: frozenset((Door.CLOSED, Door.GONE)),
        Door.CLOSED: frozenset((Door.OPEN,)),
        Door.GONE: frozenset(),
    },
)
EVERY_PAIR = [(old, new) for old in Door for new in Door]


def test_a_state_has_a_name_and_a_meaning():
    assert (Door.OPEN.value, Door.OPEN.meaning) == ("open", "anyone may pass")
    assert Door("closed") is Door.CLOSED


@pytest.mark.parametrize(("old", "new"), EVERY_PAIR)
def test_a_transition_is_made_if_it_is_in_the_table_or_changes_nothing(old, new, monkeypatch):
    monkeypatch.setattr(states, "IS_STRICT", True)
    if new is old or new in DOOR.table[old]:
        assert DOOR.step(old, new, "front") is new
    else:
        with pytest.raises(IllegalTransitionError, match=f"door front: {old.value} -> {new.value}"):
            DOOR.step(old, new, "front")


def test_in_production_a_refused_transition_is_a_record_and_is_made(monkeypatch, caplog):
    monkeypatch.setattr(states, "IS_STRICT", False)
    with caplog.at_level(logging.ERROR, "gateway.error"):
        assert DOOR.step(Door.GONE, Door.OPEN, "front") is Door.OPEN
        assert DOOR.step(Door.OPEN, Door.CLOSED, "front") is Door.CLOSED
    (record,) = caplog.records
    assert (
        "an illegal transition: IllegalTransitionError: door front: gone -> open" in record.message
    )
    # and who made it
    assert "test_in_production_a_refused_transition_is_a_record_and_is_made:" in record.message


def test_a_transition_is_in_the_log_at_the_level_debug(caplog):
    with caplog.at_level(logging.DEBUG, "gateway"):
        DOOR.step(Door.OPEN, Door.CLOSED, "front")
        DOOR.step(Door.CLOSED, Door.CLOSED, "front")
    assert [record.message for record in caplog.records] == ["door front: open -> closed"]


@pytest.mark.parametrize(("value", "is_strict"), [("1", True), ("", False)])
def test_the_variable_decides_whether_it_is_strict(value, is_strict):
    shown = subprocess.run(
        [sys.executable, "-c", "from gateway.states import IS_STRICT; print(IS_STRICT)"],
        env={VARIABLE: value, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == f"{is_strict}\n"
