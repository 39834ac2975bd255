"""The packages that a pool's worker needs in addition to the app's: gevent and its requirements.

Owns these packages and their versions. They are in a directory that the worker appends to
``sys.path``, so the app's own versions take precedence.
"""

import re
import shutil
import sysconfig
from importlib.metadata import PathDistribution, distribution, distributions
from pathlib import Path

from gateway.environments.interpreter import RUNTIME, Interpreter
from gateway.errors import BuildError

# the oldest versions with all features that the gateway uses
OLDEST = {"gevent": (24, 2), "greenlet": (2, 0)}
_RELEASE = re.compile(r"[0-9]+(?:\.[0-9]+)*")


def check_versions(python: Interpreter) -> None:
    """Raises BuildError if packages of the environment are too old for a worker."""
    for name, oldest in OLDEST.items():
        version = python.has.get(name)
        found = _RELEASE.match(version or "")
        if version and found and tuple(map(int, found[0].split("."))) < oldest:
            raise BuildError(
                f"{python.path} has {name} {version}, which is too old for a worker: "
                f"{name} {_shown(oldest)} or newer is needed, or none, and the gateway adds it"
            )


def list_requirements(python: Interpreter) -> list[str]:
    """Requirements that are compatible with what this Python already has."""
    needed = [f"{name}>={_shown(oldest)}" for name, oldest in OLDEST.items()]
    return needed + [f"{name}=={version}" for name, version in python.has.items()]


def fits_own(python: Interpreter) -> bool:
    """Whether the gateway's own packages can be used."""
    own = {name: distribution(name).version for name in RUNTIME}
    is_same = python.abi == sysconfig.get_config_var("SOABI")
    return is_same and python.has.items() <= own.items()


def own_places() -> list[Path]:
    """The gateway's own packages: their directories and modules, and those of their metadata."""
    places: dict[Path, None] = {}
    for name in RUNTIME:
        found = distribution(name)
        for file in found.files or ():
            if not file.parts[0].startswith((".", "__pycache__")):
                places[Path(str(found.locate_file(file.parts[0])))] = None
    return list(places)


def link_own(directory: Path) -> None:
    """Create ``directory`` with links to these packages, and to nothing else."""
    directory.mkdir()
    for place in own_places():
        (directory / place.name).symlink_to(place)


def prune(directory: Path) -> None:
    """Remove other packages that were installed, too, such as old versions' setuptools: apps could
    import them."""
    kept = {_normal(name) for name in RUNTIME}
    unwanted = [d for d in distributions(path=[str(directory)]) if _normal(d.name) not in kept]
    for each in unwanted:
        if isinstance(each, PathDistribution):
            for top in {file.parts[0] for file in each.files or ()} - {"..", "bin"}:
                _remove(directory / top)
    for beside in ("bin", "include", ".lock"):
        _remove(directory / beside)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _shown(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _normal(name: str) -> str:
    # as packaging's canonical names
    return re.sub(r"[-_.]+", "-", name).lower()
