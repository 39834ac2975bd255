"""When a file counts as saved."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.supervisor.watching import files as watch

pytestmark = pytest.mark.alone


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(watch, "FILE_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(watch, "SETTLED_SECONDS", 0.05)
    path = tmp_path / "mounts.yaml"
    path.write_text("first")
    return path


def saves_seen(table: Path, *steps: Callable[[], object], pause: float = 0.2) -> list[str]:
    """What the file said at each save that was noticed, while ``steps`` are made."""
    seen: list[str] = []
    began = time.time()

    async def note(saved: float) -> None:
        # file times are those of the kernel's last tick
        assert began - 0.1 < saved <= time.time()
        seen.append(table.read_text())

    async def make_steps() -> None:
        watching = asyncio.create_task(watch.watch_file(str(table), note))
        await asyncio.sleep(0.05)
        for step in steps:
            step()
            await asyncio.sleep(pause)
        await asyncio.sleep(0.2)
        watching.cancel()

    asyncio.run(make_steps())
    return seen


def replace(table: Path, text: str) -> None:
    new = table.with_suffix(".new")
    new.write_text(text)
    new.replace(table)


def test_what_is_not_touched_is_not_saved(table: Path) -> None:
    assert saves_seen(table, lambda: None) == []


def test_each_save_counts_however_it_is_made(table: Path) -> None:
    steps = (
        lambda: table.write_text("written"),
        lambda: replace(table, "replaced"),
        lambda: replace(table, "REPLACED"),
    )
    assert saves_seen(table, *steps) == ["written", "replaced", "REPLACED"]


def test_a_file_with_an_old_time_is_saved_when_it_is_put_there(table: Path) -> None:
    def move() -> None:
        new = table.with_suffix(".new")
        new.write_text("of old")
        os.utime(new, (1, 1))
        new.replace(table)

    assert saves_seen(table, move) == ["of old"]


def test_a_file_that_goes_is_no_save_until_it_is_back(table: Path) -> None:
    assert saves_seen(table, table.unlink, lambda: table.write_text("back")) == ["back"]


def test_many_writes_in_a_row_are_one_save(table: Path) -> None:
    def append() -> None:
        with table.open("a") as file:
            file.write("x")

    assert saves_seen(table, *[append] * 10, pause=0.01) == ["first" + "x" * 10]


def test_a_file_that_is_not_there_at_first_is_saved_when_it_comes(table: Path) -> None:
    table.unlink()
    assert saves_seen(table, lambda: table.write_text("came")) == ["came"]
