"""The tool that makes environments and fills them: uv, or pip and venv where there is no uv.

Owns its command lines, and what is told of one that failed. Refuses to know what is already built.
Source: the command-line references of uv and pip.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from gateway.environments.content import Form, read_dependencies, tell_form
from gateway.environments.interpreter import Interpreter, inspect
from gateway.errors import BuildError

Tell = Callable[[str], object]

KEPT_LINES = 200
FIRST_LINES = 4
SHOWN_LINES = 12
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_FIRST_OF_ERROR = re.compile(r"\s*(?:error|ERROR|\u00d7)")
_NOISE = re.compile(r"\s*(?:$|\[notice\]|WARNING: (?:You are using pip|Retrying))")
_QUIET = {
    "NO_COLOR": "1",
    "UV_NO_PROGRESS": "1",
    "PIP_NO_INPUT": "1",
    "PIP_PROGRESS_BAR": "off",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
    "GIT_TERMINAL_PROMPT": "0",
}
# what is meant for this process and only disturbs the tools
_OWN_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")


class Installer:
    """Works in ``root``, where it keeps downloads; ``tell`` gets each line that a tool says."""

    def __init__(self, root: Path, tell: Tell, uv: str | None = None) -> None:
        self._tell = tell
        self._uv = find_uv() if uv is None else uv
        cache = root / "cache"
        (cache / "tmp").mkdir(parents=True, exist_ok=True)
        kept = {k: v for k, v in os.environ.items() if k not in _OWN_VARIABLES}
        places = {
            "UV_CACHE_DIR": str(cache / "uv"),
            "PIP_CACHE_DIR": str(cache / "pip"),
            "UV_PYTHON_INSTALL_DIR": str(root / "python"),
        }
        # large packages and what is compiled do not fit into a container's small /tmp
        self._environ = places | kept | {"TMPDIR": str(cache / "tmp")} | _QUIET

    def fetch_python(self, version: str) -> Interpreter:
        """The Python of that version that uv knows of or can download. Raises BuildError."""
        if not self._uv:
            raise BuildError(
                f"found no Python {version}: install it, give the path of one, or install uv, "
                "which can download it"
            )
        try:
            self._run("uv", [self._uv, "python", "install", "--no-bin", version], Path.cwd())
            find = [self._uv, "python", "find", "--no-project", version]
            return inspect(self._run("uv", find, Path.cwd())[-1])
        except BuildError as error:
            raise BuildError(f"found no Python {version}, and {error}") from error

    def build(self, python: Interpreter, requirements: Path, environment: Path) -> None:
        """A new environment with all that a requirements file asks for. Raises BuildError."""
        fill = self._plan(requirements, environment)
        if self._uv:
            command = [self._uv, "venv", "--quiet", "--no-project", "--python", python.base]
        else:
            command = [python.base, "-I", "-m", "venv"]
        self._run(command[0], [*command, str(environment)], environment.parent)
        self._run(
            *("uv" if self._uv else "pip", fill, requirements.parent),
            UV_PROJECT_ENVIRONMENT=str(environment),
        )

    def _plan(self, requirements: Path, environment: Path) -> list[str]:
        form = tell_form(requirements)
        python = str(environment / "bin" / "python")
        what = ["--requirement", str(requirements)]
        if self._uv and form is Form.UV_LOCK:
            return [
                *(self._uv, "sync", "--frozen", "--no-dev", "--no-install-project"),
                *("--compile-bytecode", "--project", str(requirements.parent)),
                *("--python", python),
            ]
        if self._uv:
            return [self._uv, "pip", "install", "--compile-bytecode", "--python", python, *what]
        if form is Form.REQUIREMENTS:
            return [python, "-I", "-m", "pip", "install", *what]
        if form is Form.PYPROJECT:
            return [python, "-I", "-m", "pip", "install", *read_dependencies(requirements)]
        raise BuildError(f"{requirements}: pip cannot install from it: install uv")

    def install_apart(
        self, python: Interpreter, requirements: Iterable[str], directory: Path
    ) -> None:
        """Packages for ``python`` into a directory that is not its own. Raises BuildError."""
        if self._uv:
            tool = [self._uv, "pip", "install", "--compile-bytecode", "--python", python.path]
        else:
            tool = [python.base, "-I", "-m", "pip", "install"]
        where = ["--target", str(directory), "--only-binary", ":all:"]
        command = [*tool, *where, *requirements]
        self._run("uv" if self._uv else "pip", command, directory.parent)

    def _run(self, name: str, command: list[str], directory: Path, **more: str) -> list[str]:
        """What the tool said, in lines."""
        lines: deque[str] = deque(maxlen=KEPT_LINES)
        try:
            process = subprocess.Popen(
                command,
                cwd=directory,
                env={**self._environ, **more},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise BuildError(f"{command[0]}: {error.strerror}") from error
        with process:
            assert process.stdout is not None  # noqa: S101  for the type checker
            for raw_line in process.stdout:
                line = _COLOR.sub("", raw_line.rstrip())
                if not _NOISE.match(line):
                    lines.append(line)
                    self._tell(line)
        if process.returncode == -signal.SIGKILL:
            raise BuildError(
                f"{name} was killed, as the kernel's OOM killer does: is there enough memory?"
            )
        if process.returncode:
            raise BuildError(f"{name} failed: {excerpt(lines, process.returncode)}")
        return list(lines)


def find_uv() -> str:
    """The path of uv, or "": on the path, or where this Python's own commands are."""
    beside = Path(sys.executable).parent / "uv"
    return shutil.which("uv") or (str(beside) if os.access(beside, os.X_OK) else "")


def excerpt(lines: Iterable[str], exit_code: int) -> str:
    """Of what a tool said the part that tells why it failed."""
    said = list(lines)
    first = next((n for n, line in enumerate(said) if _FIRST_OF_ERROR.match(line)), None)
    if first is None:
        shown = said[-SHOWN_LINES:]
    else:
        # what failed is said first, and why it did last: by a compiler, say, behind all that it did
        shown = said[first:]
        if len(shown) > FIRST_LINES + SHOWN_LINES:
            shown = [*shown[:FIRST_LINES], "…", *shown[-SHOWN_LINES:]]
    return "\n  ".join([line.rstrip() for line in shown]) or f"exit code {exit_code}"
