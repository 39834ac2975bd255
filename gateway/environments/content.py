"""What an environment is made from: the requirements file and the files that it includes.

Owns which files count and their digest; refuses to know how they are installed. Source: pip's
requirements file format, PEP 621 (pyproject.toml), PEP 751 (pylock.toml).
"""

import os
import re
import tomllib
from enum import Enum
from hashlib import sha256
from pathlib import Path
from typing import Any

from gateway.errors import BuildError

_INCLUDE = re.compile(r"\s*(?:-r|-c|--requirement|--constraint)[\s=]*([^\s#]+)")
_PYLOCK = re.compile(r"pylock(\.[^.]+)?\.toml")  # PEP 751 "File Name"
_FOREIGN = {
    "poetry.lock": "poetry export -o requirements.txt",
    "pdm.lock": "pdm export -o requirements.txt",
    "Pipfile": "pipenv requirements > requirements.txt",
    "Pipfile.lock": "pipenv requirements > requirements.txt",
}


class Form(Enum):
    """What a requirements file is written in."""

    REQUIREMENTS = "requirements"
    PYPROJECT = "pyproject"
    PYLOCK = "pylock"
    UV_LOCK = "uv lock"


def tell_form(path: Path) -> Form:
    """By its name, as installers do. Raises BuildError."""
    if path.name in _FOREIGN:
        raise BuildError(
            f"{path}: only its own tool can read it; write one that others can read, with "
            f"`{_FOREIGN[path.name]}`"
        )
    if path.name == "pyproject.toml":
        return Form.PYPROJECT
    if path.name == "uv.lock":
        return Form.UV_LOCK
    return Form.PYLOCK if _PYLOCK.fullmatch(path.name) else Form.REQUIREMENTS


def digest(path: Path) -> str:
    """Of all that decides what is installed; the packages that a line names by their path are not
    looked into. Raises BuildError."""
    found = sha256()
    for file in list_files(path):
        content = _read(file)
        found.update(f"{os.path.relpath(file, path.parent)}\0{len(content)}\0".encode())
        found.update(content)
    return found.hexdigest()


def list_files(path: Path) -> list[Path]:
    """``path`` and what it includes, each once. Raises BuildError."""
    form = tell_form(path)
    if form is Form.UV_LOCK:
        return [path, path.parent / "pyproject.toml"]
    if form is not Form.REQUIREMENTS:
        return [path]
    files = [path]
    for file in files:  # which grows meanwhile
        for line in _read(file).decode("utf-8", "replace").splitlines():
            found = _INCLUDE.match(line)
            if found is not None and "://" not in found[1]:
                included = Path(os.path.normpath(file.parent / found[1]))
                if included not in files:
                    files.append(included)
    return files


def read_dependencies(path: Path) -> list[str]:
    """``project.dependencies`` of a pyproject.toml (PEP 621). Raises BuildError."""
    try:
        project: dict[str, Any] = tomllib.loads(_read(path).decode()).get("project", {})
    except ValueError as error:
        raise BuildError(f"{path}: {error}") from error
    if "dependencies" in project.get("dynamic", ()):
        raise BuildError(f"{path}: its dependencies are dynamic: install uv, or list them")
    return [str(each) for each in project.get("dependencies", ())]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BuildError(f"{path}: {error.strerror}") from error
