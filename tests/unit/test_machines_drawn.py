"""The pictures of states in docs/architecture.md are those of the tables."""

import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.states import Machine

sys.path.insert(0, str(Path(__file__).parents[1] / "states"))
from machines import BEGIN, END, MACHINES, PAGE, draw, write_into


def test_the_page_shows_the_tables_as_they_are() -> None:
    page = PAGE.read_text()
    assert write_into(page) == page, "make docs"


@pytest.mark.parametrize("machine", MACHINES.values(), ids=lambda machine: machine.kind)
def test_a_picture_has_every_transition_and_no_other(machine: Machine[Any]) -> None:
    drawn = set()
    for line in draw(machine).splitlines()[3:-1]:
        old, _, following = line.partition(" --> ")
        drawn |= {(old.split("[")[0].strip(), new) for new in following.split(" & ") if new}
    assert drawn == {
        (old.name.lower(), new.name.lower()) for old in machine.table for new in machine.table[old]
    }


def test_every_state_is_drawn_with_its_meaning() -> None:
    page = PAGE.read_text()
    for machine in MACHINES.values():
        for state in machine.table:
            assert f'["{state.value}: {state.meaning}"]' in page


def test_a_page_with_other_pictures_gets_those_of_now_and_keeps_the_rest() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter"
    written = write_into(page)
    assert written.startswith(f"before\n{BEGIN}\n")
    assert written.endswith(f"```\n\n{END}\nafter")
    assert "old\n" not in written


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(AssertionError, match="machines: begin"):
        write_into("nothing here")
