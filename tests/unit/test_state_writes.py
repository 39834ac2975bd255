"""States change by their own objects' methods only: no module of the supervisor writes an attribute
of another object."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SUPERVISOR = Path(__file__).parents[2] / "gateway" / "supervisor"
# subprocess.Popen has no method by which it could be told that its process was reaped elsewhere
EXEMPT = {"returncode"}


def find_writes(source: str) -> Iterator[str]:
    """The statements that write an attribute, or an item of an attribute, of an object that is
    neither their own nor made in the same function."""
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module):
            continue
        nodes = list(walk_own(function))
        made = {"self", "cls", *find_made(nodes)}
        for node in nodes:
            for target in find_targets(node):
                owner = target.value if isinstance(target, ast.Attribute) else None
                if isinstance(target, ast.Subscript) and isinstance(target.value, ast.Attribute):
                    owner = target.value.value
                is_exempt = isinstance(target, ast.Attribute) and target.attr in EXEMPT
                is_own = isinstance(owner, ast.Name) and owner.id in made
                if owner is not None and not is_own and not is_exempt:
                    yield f"{node.lineno}: {ast.unparse(target)}"


def walk_own(function: ast.AST) -> Iterator[ast.stmt]:
    """The statements of a function, without those of the functions in it."""
    for child in ast.iter_child_nodes(function):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(child, ast.stmt):
            yield child
        yield from walk_own(child)


def find_made(nodes: list[ast.stmt]) -> Iterator[str]:
    """The names of objects that are made here, by a call of their class."""
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            called = ast.unparse(node.value.func).rpartition(".")[2]
            if called[:1].isupper():
                yield from (each.id for each in node.targets if isinstance(each, ast.Name))


def find_targets(node: ast.stmt) -> Iterator[ast.expr]:
    """What a statement assigns to, or deletes."""
    targets = []
    if isinstance(node, ast.Assign | ast.Delete):
        targets = node.targets
    elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.For | ast.AsyncFor):
        targets = [node.target]
    elif isinstance(node, ast.With | ast.AsyncWith):
        targets = [each.optional_vars for each in node.items if each.optional_vars is not None]
    for target in targets:
        for each in ast.walk(target):
            if isinstance(getattr(each, "ctx", None), ast.Store | ast.Del):
                yield each  # type: ignore[misc]


@pytest.mark.parametrize(
    "path", sorted(SUPERVISOR.rglob("*.py")), ids=lambda path: str(path.relative_to(SUPERVISOR))
)
def test_no_module_writes_an_attribute_of_another_object(path: Path) -> None:
    assert list(find_writes(path.read_text())) == []


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
