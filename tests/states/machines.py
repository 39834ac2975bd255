"""Draws the tables of states into docs/architecture.md, between its markers: `make docs`.

A picture is in Mermaid's language, which GitHub draws: one line for each state, with its meaning
and the states that may follow.
"""

from pathlib import Path
from typing import Any

from gateway.http.states import CONNECTION
from gateway.states import Machine
from gateway.supervisor.generations.generation import GENERATION
from gateway.supervisor.pools.pool import POOL
from gateway.supervisor.processes.process import PROCESS

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"
BEGIN, END = "<!-- machines: begin, made by `make docs` -->", "<!-- machines: end -->"
MACHINES: dict[str, Machine[Any]] = {
    "A pool": POOL,
    "A generation": GENERATION,
    "A worker": PROCESS,
    "A client connection": CONNECTION,
}


def draw(machine: Machine[Any]) -> str:
    """A flow chart of a machine's states, of which ``first`` follows the dot."""
    lines = ["```mermaid", "flowchart TB", f"  dot(( )) --> {name(machine.first)}"]
    for old in machine.table:
        line = f'  {name(old)}["{old.value}: {old.meaning}"]'
        following = [name(new) for new in machine.table if new in machine.table[old]]
        lines.append(f"{line} --> {' & '.join(following)}" if following else line)
    return "\n".join([*lines, "```"])


def name(state: Any) -> str:
    """A state's name in the picture."""
    return str(state.name.lower())


def write_into(page: str) -> str:
    """The text of a page with the pictures of now."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    assert found, f"the page has no {BEGIN} with an {END} after it"
    parts = [f"{title}:\n\n{draw(machine)}" for title, machine in MACHINES.items()]
    return before + "\n\n".join([BEGIN, *parts, END]) + after


if __name__ == "__main__":
    PAGE.write_text(write_into(PAGE.read_text()))
