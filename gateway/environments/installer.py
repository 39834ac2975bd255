"""Runs uv, which creates environments and installs packages.

Owns its command lines, and the excerpt of its output that is reported when it fails. Source: the
command-line reference of uv.
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

from gateway.environments.content import RequirementsFormat, detect_format
from gateway.environments.interpreter import Interpreter, inspect
from gateway.errors import BuildError

Report = Callable[[str], object]

KEPT_LINES = 200
FIRST_LINES = 4
SHOWN_LINES = 12
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_FIRST_OF_ERROR = re.compile(r"\s*(?:error|\u00d7)")
_QUIET = {
    "NO_COLOR": "1",
    "UV_NO_PROGRESS": "1",
    "GIT_TERMINAL_PROMPT": "0",
}
# variables for this process that would confuse uv
_OWN_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")


class Installer:
    """Keeps downloads below ``root``; ``report`` gets each line of output."""

    def __init__(self, root: Path, report: Report) -> None:
        self._report = report
        self._uv = find_uv()
        cache = root / "cache"
        (cache / "tmp").mkdir(parents=True, exist_ok=True)
        kept = {k: v for k, v in os.environ.items() if k not in _OWN_VARIABLES}
        places = {
            "UV_CACHE_DIR": str(cache / "uv"),
            "UV_PYTHON_INSTALL_DIR": str(root / "python"),
        }
        # large packages and compilations do not fit in a container's small /tmp
        self._environ = places | kept | {"TMPDIR": str(cache / "tmp")} | _QUIET

    def fetch_python(self, version: str) -> Interpreter:
        """A Python of that version that uv finds or downloads. Raises BuildError."""
        try:
            self._run(Path.cwd(), "python", "install", "--no-bin", version)
            found = self._run(Path.cwd(), "python", "find", "--no-project", version)
            return inspect(found[-1])
        except BuildError as error:
            raise BuildError(f"found no Python {version}, and {error}") from error

    def build(self, python: Interpreter, requirements: Path, environment: Path) -> None:
        """Create an environment with the packages of a requirements file. Raises BuildError."""
        venv = ("venv", "--quiet", "--no-project", "--python", python.base, str(environment))
        self._run(environment.parent, *venv)
        if detect_format(requirements) is RequirementsFormat.UV_LOCK:
            fill = ["sync", "--frozen", "--no-dev", "--no-install-project"]
            where = ["--project", str(requirements.parent)]
        else:
            fill = ["pip", "install", "--requirement", str(requirements)]
            where = []
        self._run(
            requirements.parent,
            *(*fill, "--compile-bytecode", *where),
            *("--python", str(environment / "bin" / "python")),
            UV_PROJECT_ENVIRONMENT=str(environment),
        )

    def install_apart(
        self, python: Interpreter, requirements: Iterable[str], directory: Path
    ) -> None:
        """Install packages for ``python`` into a separate directory. Raises BuildError."""
        self._run(
            directory.parent,
            *("pip", "install", "--compile-bytecode", "--python", python.path),
            *("--target", str(directory), "--only-binary", ":all:", *requirements),
        )

    def _run(self, directory: Path, *arguments: str, **more: str) -> list[str]:
        """Run uv in ``directory``, with ``more`` variables; returns its output."""
        if not self._uv:
            install = f"{sys.executable} -m pip install uv"
            raise BuildError(f"uv, which builds environments, is not installed: {install}")
        lines: deque[str] = deque(maxlen=KEPT_LINES)
        try:
            process = subprocess.Popen(
                [self._uv, *arguments],
                cwd=directory,
                env={**self._environ, **more},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise BuildError(f"{self._uv}: {error.strerror}") from error
        with process:
            assert process.stdout is not None  # noqa: S101  for the type checker
            for raw_line in process.stdout:
                line = _COLOR.sub("", raw_line.rstrip())
                if line.strip():
                    lines.append(line)
                    self._report(line)
        if process.returncode == -signal.SIGKILL:
            raise BuildError(
                "uv was killed, as the kernel's OOM killer does: is there enough memory?"
            )
        if process.returncode:
            raise BuildError(f"uv failed: {excerpt(lines, process.returncode)}")
        return list(lines)


def find_uv() -> str:
    """The path of uv, from PATH or the directory of this Python; "" if it is not installed."""
    beside = Path(sys.executable).parent / "uv"
    return shutil.which("uv") or (str(beside) if os.access(beside, os.X_OK) else "")


def excerpt(lines: Iterable[str], exit_code: int) -> str:
    """The part of uv's output that says why it failed."""
    said = list(lines)
    first = next((n for n, line in enumerate(said) if _FIRST_OF_ERROR.match(line)), None)
    if first is None:
        shown = said[-SHOWN_LINES:]
    else:
        # the first lines say what failed, the last ones why, such as a compiler's error
        shown = said[first:]
        if len(shown) > FIRST_LINES + SHOWN_LINES:
            shown = [*shown[:FIRST_LINES], "…", *shown[-SHOWN_LINES:]]
    return "\n  ".join([line.rstrip() for line in shown]) or f"exit code {exit_code}"
