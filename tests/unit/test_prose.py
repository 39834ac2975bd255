"""Hard words are found in prose and not in code; pre-commit runs what `make check` runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def check(path: Path) -> tuple[int, str]:
    command = [sys.executable, ROOT / "tests" / "prose" / "check.py", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The old workers serve on.", "serve on"),
        ("The old workers keep serving.", ""),
        ("One\nthat is\ntold so.", "is\ntold"),
        ("Write `is told` there.", ""),
        ("```\nit is told\n```\n", ""),
    ],
)
def test_hard_words_in_markdown(text: str, found: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    code, said = check(tmp_path)

    assert code == bool(found)
    assert (repr(found) in said) is bool(found)


def test_hard_words_in_python_are_those_of_texts(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text('"""It is fine."""\nanew = 1\n# begun anew\n')

    assert check(module) == (1, f"{module}:3: 'anew': write again\n")


def test_pre_commit_runs_what_make_check_runs() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (recipe,) = re.findall(r"^check: .*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    (prose,) = re.findall(r"^PROSE := (.*)$", makefile, re.MULTILINE)
    commands = recipe.replace("$(BIN)", ".venv/bin").replace("$(PROSE)", prose)
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]

    assert [hook["entry"] for hook in hooks] == commands.replace("\t", "").splitlines()
