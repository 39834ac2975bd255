"""``module:callable``: its syntax, and whether the module's file exists.

Imports nothing: an app's code must not run in the process that reads the table.
Source: PEP 3333's callables, Python's import system (PEP 420, PEP 451).
"""

import re
from importlib.machinery import all_suffixes
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path

from gateway.config.text.problems import BadValueError, did_you_mean

IMPORT_STRING_PATTERN = r"[^\s:/()\\-]+:[^\s:/()\\-]+(\(\))?"

_SUFFIXES = all_suffixes()


def parse_import_string(text: str) -> str:
    """``text`` itself, if it is an import string. Raises BadValueError."""
    module, colon, target = text.partition(":")
    callable_name = target.removesuffix("()")
    is_file = module.endswith(".py")
    if is_file or not (colon and _is_dotted_name(module) and _is_dotted_name(callable_name)):
        raise BadValueError(_hint(text, module, colon, target))
    return text


def _is_dotted_name(text: str) -> bool:
    return all(part.isidentifier() and not iskeyword(part) for part in text.split("."))


def _hint(text: str, module: str, colon: str, target: str) -> str:
    if re.match(r"https?://", text):
        return 'an address is written "redirect: URL"'
    if re.search(r"\s", text):
        return "it has no spaces"
    if "/" in module or "\\" in module or module.endswith(".py"):
        return _file_hint(module, colon, target)
    if not colon:
        return _colon_hint(text)
    if "(" in target and not target.endswith("()"):
        return "a factory is called without arguments: settings come from its environment"
    if ":" in target:
        return "it has one colon; use dots on both sides of it"
    if not module or not target.removesuffix("()"):
        return "the module stands before the colon, the callable after it"
    if module.startswith("."):
        return "name the module in full, without leading dots"
    return _name_hint(module, target.removesuffix("()"))


def _colon_hint(text: str) -> str:
    bare = text.removesuffix("()")
    if not _is_dotted_name(bare):
        return ""
    module, dot, last = bare.rpartition(".")
    is_factory = bare != text or last in ("create_app", "make_app")
    likely = f"{bare}:app"
    if dot and (is_factory or last in ("app", "application")):
        likely = f"{module}:{last}{'()' if is_factory else ''}"
    return f'the callable stands after a colon: "{likely}"'


def _file_hint(module: str, colon: str, target: str) -> str:
    dotted = re.sub(r"[/\\]+", ".", module.removesuffix(".py").removeprefix("./")).strip(".")
    if module.endswith(".py") or (colon and _is_dotted_name(dotted)):
        return f'write the module with dots and without ".py": "{dotted}:{target or "app"}"'
    return f'a directory is written "static: {module}", another address "redirect: {module}"'


def _name_hint(module: str, callable_name: str) -> str:
    part = next(
        part
        for name in (module, callable_name)
        for part in name.split(".")
        if not part.isidentifier() or iskeyword(part)
    )
    if "-" in part:
        return f'a name in Python has no dash: rename "{part}" to "{part.replace("-", "_")}"'
    if iskeyword(part):
        return f'"{part}" is a Python keyword'
    return f'"{part}" is not a name in Python' if part else "a dot too many"


def check_module(import_string: str, directory: Path) -> None:
    """Raises BadValueError if the module's file is certainly missing."""
    parts = import_string.partition(":")[0].split(".")
    folder = directory
    for number, part in enumerate(parts, start=1):
        if not _is_there(folder, part):
            # A regular package elsewhere comes before a folder without __init__.py (PEP 420).
            is_namespace = number == 2 and not (folder / "__init__.py").is_file()
            if (number == 1 or is_namespace) and _is_installed(parts[0]):
                return
            raise _missing(parts[:number], folder)
        folder /= part


def _missing(parts: list[str], folder: Path) -> BadValueError:
    package = "".join(f"{part}." for part in parts[:-1])
    near = did_you_mean(package + parts[-1], [package + name for name in _modules_in(folder)])
    hint = f'there is no module "{".".join(parts)}"'
    return BadValueError(
        f"{hint}; {near}" if near else f"{hint} beside the table, and none installed"
    )


def _is_there(folder: Path, name: str) -> bool:
    return (folder / name).is_dir() or any(
        (folder / f"{name}{suffix}").is_file() for suffix in _SUFFIXES
    )


def _is_installed(top: str) -> bool:
    try:
        # For a name without dots, this asks the finders and imports nothing.
        spec = find_spec(top)
    except ValueError:  # loaded, by something that left no spec
        return True
    return spec is not None and spec.origin is not None


def _modules_in(folder: Path) -> list[str]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    return [entry.stem for entry in entries if entry.suffix == ".py" or entry.is_dir()]
