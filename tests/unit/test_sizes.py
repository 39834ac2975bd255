"""Functions of the package stay short enough to be read at once."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "gateway"
MAX_LINES = 50


def find_long(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = len(ast.get_source_segment(text, node).splitlines())  # type: ignore[union-attr]
            if lines > MAX_LINES:
                yield node.name


def test_no_function_is_longer_than_a_page() -> None:
    found = {path.name: [*find_long(path.read_text())] for path in PACKAGE.rglob("*.py")}
    assert {name: long for name, long in found.items() if long} == {}


def test_one_line_more_than_that_is_noticed() -> None:
    body = "    pass\n" * (MAX_LINES - 1)
    assert [*find_long(f"def fits():\n{body}")] == []
    assert [*find_long(f"def too_long():\n{body}    pass\n")] == ["too_long"]
