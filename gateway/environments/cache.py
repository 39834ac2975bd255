"""A cache of environments, keyed by what they are made from: each is built once, and removed when
it is no longer used.

Owns their directory, which several gateways may share. An environment cannot be moved, so it is
built in its final place, under a lock, and is complete once its marker exists. Its users hold a
shared lock on the marker; environments without one are removed. Source: flock(2), Python's
``venv``.
"""

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO

from gateway.environments.content import digest
from gateway.environments.installer import Installer
from gateway.environments.interpreter import RUNTIME, Interpreter, find, inspect
from gateway.environments.runtime import (
    OLDEST,
    check_versions,
    fits_own,
    link_own,
    list_requirements,
    own_places,
    prune,
)
from gateway.errors import BuildError

MARKER = "complete"
# part of the keys: environments of another layout are not reused
LAYOUT = 1
OURS = re.compile(r"(?:env|runtime)-[0-9.]+-[0-9a-f]{16}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """``python`` is its interpreter; ``runtime`` a directory that workers append to ``sys.path``,
    "" for none; ``uses`` are the names of the directories that it consists of."""

    python: str
    version: str
    runtime: str
    uses: tuple[str, ...]


class Cache:
    """The environments below ``root``, a directory of one user. ``held`` are descriptors with
    shared locks on the environments found so far; while they are open, these are not removed.
    ``wait_for_turn`` is called once, before the first build or download."""

    def __init__(
        self,
        root: Path,
        report: Callable[[str], object] = str,
        wait_for_turn: Callable[[], object] = bool,
    ) -> None:
        try:
            root.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError), open(root / ".gitignore", "x") as file:
                file.write("*\n")
        except OSError as error:
            raise BuildError(
                f"{root}: {error.strerror}: environments are kept there (server.environments)"
            ) from error
        self._root = root
        self._report = report
        self._wait_for_turn = wait_for_turn
        self._has_turn = False
        self.held: list[int] = []
        self._installer = Installer(root, report)

    def find_or_build(
        self, wanted: str, requirements: str, directory: Path, *, for_workers: bool = True
    ) -> Environment:
        """The environment of the Python ``wanted`` with ``requirements`` ("" for none); both paths
        are relative to ``directory``. Raises BuildError."""
        python = find(wanted, directory) or self._fetch_python(wanted)
        uses: list[str] = []
        if requirements:
            environment = self._build_environment(python, directory / requirements)
            python = inspect(str(environment / "bin" / "python"))
            uses.append(environment.name)
        if for_workers:
            check_versions(python)
        runtime = ""
        if for_workers and any(name not in python.has for name in RUNTIME):
            packages = self._build_runtime(python)
            runtime = str(packages)
            uses.append(packages.name)
        return Environment(
            python=python.path, version=python.shown_version, runtime=runtime, uses=tuple(uses)
        )

    def _fetch_python(self, wanted: str) -> Interpreter:
        self._take_turn()
        return self._installer.fetch_python(wanted)

    def _take_turn(self) -> None:
        if not self._has_turn:
            self._has_turn = True
            self._wait_for_turn()

    def _build_environment(self, python: Interpreter, requirements: Path) -> Path:
        key = _key(python.base, python.shown_version, python.platform, digest(requirements))
        environment = self._root / f"env-{python.shown_version}-{key}"

        def build() -> None:
            self._report(f"building Python {python.shown_version} with {requirements.name}")
            self._installer.build(python, requirements, environment)

        self._build_once(environment, build)
        return environment

    def _build_runtime(self, python: Interpreter) -> Path:
        """The packages that a worker needs and ``python`` lacks, in versions compatible with those
        that it has."""
        is_own = fits_own(python)
        needed = [str(place) for place in own_places()] if is_own else list_requirements(python)
        name = ".".join(map(str, python.version[:2]))
        key = _key(python.abi, python.platform, *needed)
        runtime = self._root / f"runtime-{name}-{key}"

        def build() -> None:
            if is_own:
                link_own(runtime)
                return
            self._report(f"installing what a worker on Python {name} needs: {', '.join(OLDEST)}")
            self._installer.install_apart(python, needed, runtime)
            prune(runtime)

        self._build_once(runtime, build)
        return runtime

    def _build_once(self, directory: Path, build: Callable[[], None]) -> None:
        """Build it if it is not complete, and hold it. Other processes wait for a build; an
        incomplete environment is removed first."""
        if not _is_complete(directory):
            self._take_turn()  # before the lock, which others with a turn may wait for
        with self._lock(directory.name):
            try:
                if not _is_complete(directory):
                    shutil.rmtree(directory, ignore_errors=True)
                    build()
                    (directory / MARKER).touch()
                self.held.append(os.open(directory / MARKER, os.O_RDONLY | os.O_CLOEXEC))
                fcntl.flock(self.held[-1], fcntl.LOCK_SH)
            except OSError as error:
                raise BuildError(f"{directory}: {error.strerror or error}") from error

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        path = self._root / f"{name}.lock"
        while True:
            with _open_lock(path) as file:
                if not _try_lock(file):
                    self._report(f"waiting for another process to build {name}")
                    fcntl.flock(file, fcntl.LOCK_EX)
                # otherwise it was removed, and the next process would lock another file
                if _is_at(file, path):
                    yield
                    return

    def collect(self) -> list[str]:
        """Remove environments that are neither held nor being built; returns their names."""
        removed = []
        for path in self._root.glob("*.lock"):
            directory = path.with_suffix("")
            if not OURS.fullmatch(directory.name):
                continue
            with _open_lock(path) as file:
                if _try_lock(file) and _is_at(file, path) and _is_free(directory):
                    (directory / MARKER).unlink(
                        missing_ok=True
                    )  # a partly removed environment is not complete
                    shutil.rmtree(directory, ignore_errors=True)
                    path.unlink(missing_ok=True)
                    removed.append(directory.name)
        return removed


def _key(*parts: str) -> str:
    return sha256("\0".join((str(LAYOUT), *parts)).encode()).hexdigest()[:16]


def _is_complete(directory: Path) -> bool:
    """Whether it can be used: its Python may be missing in a new version of the image."""
    is_alive = directory.name.startswith("runtime") or os.access(directory / "bin/python", os.X_OK)
    return is_alive and (directory / MARKER).exists()


def _is_free(directory: Path) -> bool:
    """Whether no process holds it. The caller has its lock, so none can start to."""
    try:
        with open(
            directory / MARKER, "r+"
        ) as marker:  # NFS requires write access for exclusive locks
            return _try_lock(marker)
    except FileNotFoundError:
        return True  # incomplete


def _open_lock(path: Path) -> IO[str]:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "w")


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
