"""What a pool's worker imports that is not the app's: gevent and what it needs.

Owns which packages and versions these are. They lie in a directory of their own, which a worker has
at the end of its ``sys.path``, so the app's own ones win. Refuses to know where that directory is.
"""

import re
import shutil
import sysconfig
from importlib.metadata import PathDistribution, distribution, distributions
from pathlib import Path

from gateway.environments.interpreter import RUNTIME, Interpreter
from gateway.errors import BuildError

# the first versions that have what the gateway uses of them
OLDEST = {"gevent": (24, 2), "greenlet": (2, 0)}
_RELEASE = re.compile(r"[0-9]+(?:\.[0-9]+)*")


def check_versions(python: Interpreter) -> None:
    """Raises BuildError where the environment's own packages are too old for a worker."""
    for name, oldest in OLDEST.items():
        version = python.has.get(name)
        found = _RELEASE.match(version or "")
        if version and found and tuple(map(int, found[0].split("."))) < oldest:
            raise BuildError(
                f"{python.path} has {name} {version}, which is too old for a worker: "
                f"{name} {_shown(oldest)} or newer is needed, or none, and the gateway adds it"
            )


def list_requirements(python: Interpreter) -> list[str]:
    """What to install for a Python that has some of it already: versions that go with these."""
    needed = [f"{name}>={_shown(oldest)}" for name, oldest in OLDEST.items()]
    return needed + [f"{name}=={version}" for name, version in python.has.items()]


def fits_own(python: Interpreter) -> bool:
    """Whether the gateway's own packages will do, as they are."""
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
    """Have the gateway's own packages in ``directory``, and nothing else of its environment."""
    directory.mkdir()
    for place in own_places():
        (directory / place.name).symlink_to(place)


def prune(directory: Path) -> None:
    """Take away what was only installed with the rest, such as the setuptools of old versions:
    whatever lies there can be imported by an app."""
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
