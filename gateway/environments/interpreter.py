"""Which Python is meant, and what it tells of itself.

Refuses to know what it is wanted for. Source: Python's ``sysconfig``, ``importlib.metadata``.
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
# the distributions that a pool's worker imports, with those that they need themselves
RUNTIME = ("gevent", "greenlet", "zope.event", "zope.interface")
ASK_SECONDS = 30
_VERSION = re.compile(r"3(?:\.[0-9]+){1,2}", re.ASCII)
# runs in any Python that was ever released, so that an old one can be told
_QUESTION = f"""
import json, os, sys
told = {{"version": list(sys.version_info[:3])}}
if sys.version_info >= {OLDEST}:
    import site, sysconfig
    from importlib.metadata import distributions
    told["abi"] = sysconfig.get_config_var("SOABI")
    told["platform"] = sysconfig.get_platform()
    told["base"] = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    # what site would add to the path, without running what lies there
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
    told["has"] = {{}}
    for name in {RUNTIME}:
        for found in distributions(name=name, path=places):
            told["has"].setdefault(name, found.version)
print(json.dumps(told))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """``path`` runs it; ``base`` is the one that it was made from where it is in an environment.

    ``abi`` tells which compiled modules it can load; ``has`` is what it has of ``RUNTIME``, with
    versions.
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
    """Ask the Python at ``path``, isolated: it imports nothing but its standard library. Raises
    BuildError where none runs there, or one too old."""
    try:
        asked = subprocess.run(
            [path, "-I", "-S", "-c", _QUESTION],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ASK_SECONDS,
            check=True,
        )
        told = json.loads(asked.stdout)
        version = tuple(told.pop("version"))
    except subprocess.CalledProcessError as error:
        why = (error.stderr.strip() or f"exit code {error.returncode}").splitlines()[-1]
        raise BuildError(f"{path} is no Python that runs: {why}") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{path} did not tell its version within {ASK_SECONDS} s") from error
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise BuildError(f"{path} is no Python that runs: {why}") from error
    if version < OLDEST:
        raise BuildError(
            f"{path} is Python {'.'.join(map(str, version))}; a pool needs "
            f"{'.'.join(map(str, OLDEST))} or newer"
        )
    return Interpreter(path=path, version=version, **told)


def find(wanted: str, directory: Path) -> Interpreter | None:
    """The Python that ``wanted`` names: a path, relative to ``directory``; a version such as
    ``3.12``; "" for this one. None where there is none of that version. Raises BuildError."""
    if not wanted:
        return inspect(sys.executable)
    if not _VERSION.fullmatch(wanted):
        # not resolved: the link is what tells a Python that it belongs to an environment
        return inspect(os.path.normpath(directory / wanted))
    for candidate in _candidates(wanted):
        try:
            found = inspect(candidate)
        except BuildError:
            continue  # such as a pyenv shim of a version that is not chosen
        if found.shown_version == wanted or found.shown_version.startswith(f"{wanted}."):
            return found
    return None


def _candidates(version: str) -> Iterator[str]:
    """Where a Python of that version may be: this one, the path, pyenv."""
    yield sys.executable
    name = "python" + ".".join(version.split(".")[:2])
    for folder in os.get_exec_path():
        found = shutil.which(name, path=folder)
        if found:
            yield found
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for installed in sorted(pyenv.glob(f"versions/{version}*"), reverse=True):
        yield str(installed / "bin" / "python")
