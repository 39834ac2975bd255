"""The backup of docs/operations.md: its lines as they stand there, each of them twice."""

import re
import secrets
import sqlite3
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import Browser
from compose_stack import ROOT
from stacks import Example

PAGE = (ROOT / "docs/operations.md").read_text("utf-8")
SECTION = PAGE.partition("\n## Backup\n")[2].partition("\n## ")[0]
COPY, SAVE, RESTORE = (
    re.sub(r"^\$ ", "", block, flags=re.MULTILINE)
    for block in re.findall(r"```console\n(.*?)```", SECTION, re.DOTALL)
)


@pytest.fixture
def type_in(example: Example, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Types lines in a folder of its own; each has to succeed."""

    def type_in(lines: str) -> None:
        done = subprocess.run(
            ["sh", "-e", "-c", lines],
            cwd=tmp_path,
            env=example.shell_environ,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr

    yield type_in
    example.up()


def test_a_database_is_copied_while_its_app_runs(example, type_in, tmp_path):
    for _ in range(2):
        text = secrets.token_hex(8)
        Browser(example.url).post("/notes/", {"text": text})
        type_in(COPY)
        with sqlite3.connect(tmp_path / "notes.backup.db") as copy:
            assert copy.execute("SELECT 1 FROM note WHERE text = ?", (text,)).fetchone()
    assert "backup" not in example.run_in("gateway", "ls", "/data").out


def test_the_volume_is_saved_and_restored(example, type_in, tmp_path):
    for _ in range(2):
        kept, later = secrets.token_hex(8), secrets.token_hex(8)
        Browser(example.url).post("/notes/", {"text": kept})
        type_in(SAVE)
        example.up()
        with tarfile.open(tmp_path / "data.tar") as saved:
            assert "data/notes.db" in saved.getnames()
            assert "data/environments" not in saved.getnames()
        Browser(example.url).post("/notes/", {"text": later})
        example.run_in("gateway", "touch", "/data/later")
        type_in(RESTORE)
        example.up()
        board = Browser(example.url).get("/notes/").text
        assert kept in board
        assert later not in board
        assert example.run_in("gateway", "ls", "/data/later").exit_code != 0
