"""Finds a Python interpreter and inspects it. Source: Python's ``sysconfig`` and
``importlib.metadata``.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import BuildError

OLDEST = (3, 9)
# the distributions that a pool's worker imports, with their own requirements
RUNTIME = ("gevent", "greenlet", "zope.event", "zope.interface")
ASK_SECONDS = 30
_VERSION = re.compile(r"3(?:\.[0-9]+){1,2}", re.ASCII)
# runs in any Python, so that one that is too old can be reported
_QUESTION = f"""
import json, os, sys
report = {{"version": list(sys.version_info[:3])}}
if sys.version_info >= {OLDEST}:
    import site, sysconfig
    from importlib.metadata import distributions
    report["abi"] = sysconfig.get_config_var("SOABI")
    report["platform"] = sysconfig.get_platform()
    report["base"] = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    # the directories that site would add to the path, without running their .pth files
    places = site.getsitepackages([sys.base_prefix, sys.base_exec_prefix])
    home = os.path.dirname(os.path.dirname(os.path.abspath(sys.executable)))
    try:
        with open(os.path.join(home, "pyvenv.cfg"), errors="replace") as file:
            settings = dict(line.lower().replace(" ", "").strip().split("=", 1)
                            for line in file if "=" in line)
    except OSError:
        pass
    else:
        if settings.get("include-system-site-packages") != "true":
            places = []
        for lib in ("lib64", "lib"):
            name = "python%d.%d" % sys.version_info[:2]
            places.insert(0, os.path.join(home, lib, name, "site-packages"))
    report["has"] = {{}}
    for name in {RUNTIME}:
        for found in distributions(name=name, path=places):
            report["has"].setdefault(name, found.version)
print(json.dumps(report))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """``path`` is its executable; ``base`` that of the Python that a virtual environment is made
    from.

    ``abi`` identifies the compiled modules that it can load; ``has`` maps the distributions of
    ``RUNTIME`` that it has to their versions.
    """

    path: str
    base: str
    version: tuple[int, int, int]
    abi: str
    platform: str
    has: dict[str, str]

    @property
    def shown_version(self) -> str:
        return ".".join(map(str, self.version))


def inspect(path: str) -> Interpreter:
    """Run the Python at ``path`` with only its standard library. Raises BuildError if it does not
    run, or is too old."""
    try:
        process = subprocess.run(
            [path, "-I", "-S", "-c", _QUESTION],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ASK_SECONDS,
            check=True,
        )
        report = json.loads(process.stdout)
        version = tuple(report.pop("version"))
    except subprocess.CalledProcessError as error:
        why = (error.stderr.strip() or f"exit code {error.returncode}").splitlines()[-1]
        raise BuildError(f"{path} is not a Python that runs: {why}") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{path} did not report its version within {ASK_SECONDS} s") from error
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise BuildError(f"{path} is not a Python that runs: {why}") from error
    if version < OLDEST:
        raise BuildError(
            f"{path} is Python {'.'.join(map(str, version))}; a pool needs "
            f"{'.'.join(map(str, OLDEST))} or newer"
        )
    return Interpreter(path=path, version=version, **report)


def find(wanted: str, directory: Path) -> Interpreter | None:
    """The Python that ``wanted`` names: a path relative to ``directory``, a version such as
    ``3.12``, or "" for this one. None if no such version is found. Raises BuildError."""
    if not wanted:
        return inspect(sys.executable)
    if not _VERSION.fullmatch(wanted):
        # not resolved: a Python finds its virtual environment by the path of the link
        return inspect(os.path.normpath(directory / wanted))
    for candidate in _candidates(wanted):
        try:
            found = inspect(candidate)
        except BuildError:
            continue  # such as a pyenv shim of a version that is not selected
        if found.shown_version == wanted or found.shown_version.startswith(f"{wanted}."):
            return found
    return None


def _candidates(version: str) -> Iterator[str]:
    """Paths that may be a Python of that version: this one, PATH, pyenv."""
    yield sys.executable
    name = "python" + ".".join(version.split(".")[:2])
    for folder in os.get_exec_path():
        found = shutil.which(name, path=folder)
        if found:
            yield found
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for installed in sorted(pyenv.glob(f"versions/{version}*"), reverse=True):
        yield str(installed / "bin" / "python")
