"""What docs/libraries.md says of each library is what happens, in each kind of worker."""

import itertools
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from pathlib import Path
from urllib.parse import urlencode

import pytest
from rows import ROWS, Row
from services import WAIT_SECONDS, Gate, wait_until
from talkers import SWITCHED, OnPort

PAGE = Path(__file__).parents[2] / "docs" / "libraries.md"
ADVICE = re.compile(r"give the mount a pool (of its own )?with `concurrency: threads`")
# how long somebody who is to be kept waiting is seen to wait
BLOCKED_SECONDS = 1.0
numbers = itertools.count()


def read_table() -> dict[tuple[str, str], str]:
    """Of each library and set-up, what the page says."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    heading = next(row for row in rows if row[0] == "Library")
    return {
        (row[0], setup): row[number]
        for row in rows
        for number, setup in enumerate(heading)
        if len(row) == len(heading) and number and row is not heading and "---" not in row[0]
    }


TABLE = read_table()


def test_the_page_has_the_rows_that_are_tried() -> None:
    assert [library for library, setup in TABLE if setup == "Shared worker"] == [
        row.library for row in ROWS
    ]


@pytest.mark.parametrize("row", ROWS, ids=[row.library for row in ROWS])
def test_a_library_does_what_the_page_says(
    setup: tuple[str, OnPort], row: Row, make_gate: Callable[[str, str], Gate]
) -> None:
    name, gateway = setup
    says = TABLE[row.library, name]
    gate = make_gate(row.waits_for, f"token{next(numbers)}")
    target = f"{row.target}?{urlencode(gate.parameters)}"
    with ThreadPoolExecutor(2) as clients:
        asked = clients.submit(row.speak, gateway, target)
        wait_until(lambda: gate.is_held() or asked.done(), "the row waits, or is done")
        seen = "ok" if asked.done() else look_at_neighbour(clients, gateway, says)
        gate.release()
        status, answer = asked.result(WAIT_SECONDS)
    if says == "refused":
        assert status == 500
        assert ADVICE.search(gateway.log_text)
        return
    assert status in (200, SWITCHED), gateway.log_text[-3000:]
    assert answer == (f"{gate.token} {row.target}" if row.names_itself else gate.token)
    assert seen == says


def look_at_neighbour(clients: ThreadPoolExecutor, gateway: OnPort, says: str) -> str:
    """Whether another request is answered while the row waits."""
    answer: Future[bytes] = clients.submit(gateway.ask, "/neighbour")
    try:
        told = answer.result(BLOCKED_SECONDS if says == "blocks" else WAIT_SECONDS)
    except TimeoutError:
        return "blocks"
    assert told.endswith(b"ok")
    return "ok"
