"""Finds statements that write an attribute of another object, in modules below directories that are
given; 1 if any. Objects change by their own methods only, so that states go by their tables.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

# subprocess.Popen has no method by which it would learn that its process was reaped elsewhere
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


def main(places: list[str]) -> int:
    """Print what is found in each place; the exit code."""
    found = [
        f"{path}:{write} is an attribute of another object: call a method of it"
        for place in places
        for path in sorted(Path(place).rglob("*.py"))
        for write in find_writes(path.read_text())
    ]
    print(*found, sep="\n", end="\n" if found else "")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
