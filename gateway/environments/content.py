"""The requirements file of an environment and the files that it includes, with their digest.

Source: pip's
requirements file format, PEP 751 (pylock.toml).
"""

import os
import re
from enum import Enum
from hashlib import sha256
from pathlib import Path

from gateway.errors import BuildError

_INCLUDE = re.compile(r"\s*(?:-r|-c|--requirement|--constraint)[\s=]*([^\s#]+)")
_PYLOCK = re.compile(r"pylock(\.[^.]+)?\.toml")  # PEP 751 "File Name"
_FOREIGN = {
    "poetry.lock": "poetry export -o requirements.txt",
    "pdm.lock": "pdm export -o requirements.txt",
    "Pipfile": "pipenv requirements > requirements.txt",
    "Pipfile.lock": "pipenv requirements > requirements.txt",
}


class RequirementsFormat(Enum):
    """The format of a requirements file."""

    REQUIREMENTS = "requirements"
    UV_LOCK = "uv lock"
    # a pyproject.toml or pylock.toml, which includes no other file
    WHOLE = "whole"


def detect_format(path: Path) -> RequirementsFormat:
    """The format, by the file's name, as installers do. Raises BuildError."""
    if path.name in _FOREIGN:
        raise BuildError(
            f"{path}: only its own tool can read it; write one that others can read, with "
            f"`{_FOREIGN[path.name]}`"
        )
    if path.name == "uv.lock":
        return RequirementsFormat.UV_LOCK
    is_whole = path.name == "pyproject.toml" or _PYLOCK.fullmatch(path.name)
    return RequirementsFormat.WHOLE if is_whole else RequirementsFormat.REQUIREMENTS


def digest(path: Path) -> str:
    """A digest of these files, without packages that are named by their path. Raises BuildError."""
    found = sha256()
    for file in list_files(path):
        content = _read(file)
        found.update(f"{os.path.relpath(file, path.parent)}\0{len(content)}\0".encode())
        found.update(content)
    return found.hexdigest()


def list_files(path: Path) -> list[Path]:
    """``path`` and what it includes, each once. Raises BuildError."""
    form = detect_format(path)
    if form is RequirementsFormat.UV_LOCK:
        return [path, path.parent / "pyproject.toml"]
    if form is RequirementsFormat.WHOLE:
        return [path]
    files = [path]
    for file in files:  # the loop appends to it
        for line in _read(file).decode("utf-8", "replace").splitlines():
            found = _INCLUDE.match(line)
            if found is not None and "://" not in found[1]:
                included = Path(os.path.normpath(file.parent / found[1]))
                if included not in files:
                    files.append(included)
    return files


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BuildError(f"{path}: {error.strerror}") from error
