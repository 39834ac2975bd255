"""States change by methods of their own objects only: a module that writes an attribute of another
object is found."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "states"))
from writes import find_writes, main

SUPERVISOR = Path(__file__).parents[2] / "gateway" / "supervisor"


def test_no_module_of_the_supervisor_writes_an_attribute_of_another_object(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (main([str(SUPERVISOR)]), capsys.readouterr().out) == (0, "")


def test_each_write_is_shown_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = tmp_path / "below" / "module.py"
    module.parent.mkdir()
    module.write_text("def f(other):\n    other.state = 1\n")
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out == (
        f"{module}:2: other.state is an attribute of another object: call a method of it\n"
    )


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f(other):\n    other.state = 1", ["2: other.state"]),
        ("def f(self):\n    self.other.state += 1", ["2: self.other.state"]),
        ("def f(other):\n    a, other.b = 1, 2", ["2: other.b"]),
        ("def f(other):\n    other.items[1] = 2", ["2: other.items[1]"]),
        ("def f(other):\n    del other.b", ["2: other.b"]),
        ("def f(self):\n    if True:\n        make().state = 1", ["3: make().state"]),
        ("def f(self):\n    def g(other):\n        other.state = 1", ["3: other.state"]),
        ("def f(other):\n    with a as other.b: pass", ["2: other.b"]),
        ("other.state = 1", ["1: other.state"]),
        ("def f(self):\n    self.state = 1\n    self.items[1] = 2", []),
        ("def f():\n    head = Head()\n    head.method = 1", []),
        ("def f(items):\n    items[1] = 2", []),
        ("def f(self):\n    self._process.returncode = 0", []),
        ("class A:\n    def f(self):\n        self.state = 1", []),
    ],
)
def test_what_is_taken_for_a_write(source: str, found: list[str]) -> None:
    assert list(find_writes(source)) == found
