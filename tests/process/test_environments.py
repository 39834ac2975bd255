"""Environments from requirements, of wheels made here: no package index is asked."""

import asyncio
import contextlib
import fcntl
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from running import wait_until

from gateway.environments import cache as cache_module
from gateway.environments import client, installer
from gateway.environments.__main__ import NICENESS
from gateway.environments.cache import Cache, Environment
from gateway.environments.content import digest, list_files
from gateway.environments.installer import excerpt, find_uv
from gateway.environments.interpreter import Interpreter, find, inspect
from gateway.environments.runtime import check_versions, fits_own, list_requirements
from gateway.errors import BuildError


def make_wheel(folder: Path, name: str, version: str, *requires: str) -> Path:
    """A wheel of one module that tells its version."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{each},,\n" for each in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(file, text)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the requirements are: they have ``peak`` and ``hill`` to choose from."""
    for version in ("1.0", "2.0"):
        make_wheel(tmp_path / "wheels", "peak", version)
    make_wheel(tmp_path / "wheels", "hill", "1.0", "peak<2")
    return tmp_path


@pytest.fixture
def uv(monkeypatch: pytest.MonkeyPatch) -> str:
    return find_uv() or pytest.skip("uv is not installed: pip install uv")


class Builder:
    """Builds in ``folder``; ``said`` is what it told meanwhile."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.cache = Cache(folder / "environments", self.said.append)

    def require(self, *lines: str, name: str = "requirements.txt") -> None:
        head = f"--no-index\n--find-links {self.folder}/wheels\n"
        (self.folder / name).write_text(head + "\n".join(lines) + "\n")

    def build(self, requirements: str = "requirements.txt") -> Environment:
        self.said.clear()
        return self.cache.find_or_build("", requirements, self.folder)

    @property
    def built(self) -> int:
        return sum(line.startswith("building ") for line in self.said)


@pytest.fixture
def builder(folder: Path) -> Builder:
    return Builder(folder)


def version_in(environment: Environment, module: str = "peak") -> str:
    asked = subprocess.run(
        [environment.python, "-c", f"import {module}; print({module}.version)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return asked.stdout.strip()


# --- built once, by content ---------------------------------------------------------------------


def test_what_is_required_is_there_and_built_once(builder: Builder) -> None:
    builder.require("hill")
    first = builder.build()
    assert builder.built == 1
    assert version_in(first) == "1.0"
    assert Path(first.python).is_relative_to(builder.folder / "environments" / first.uses[0])
    assert builder.build() == first
    assert not builder.said


def test_other_content_is_another_environment(builder: Builder) -> None:
    builder.require("peak==1.0")
    first = builder.build()
    builder.require("peak==2.0")
    second = builder.build()
    assert (version_in(first), version_in(second)) == ("1.0", "2.0")
    builder.require("peak==1.0")
    assert builder.build() == first
    assert not builder.built


def test_what_a_file_includes_counts_as_its_content(folder: Path) -> None:
    (folder / "more").mkdir()
    (folder / "requirements.txt").write_text("-r more/base.txt  # all\n--constraint=pins.txt\nx\n")
    (folder / "more/base.txt").write_text("-rdeep.txt\n-r ../requirements.txt\n-r https://x/y\n")
    (folder / "more/deep.txt").write_text("hill\n")
    (folder / "pins.txt").write_text("peak==1.0\n")
    names = ["requirements.txt", "more/base.txt", "pins.txt", "more/deep.txt"]
    assert list_files(folder / "requirements.txt") == [folder / name for name in names]
    seen = {digest(folder / "requirements.txt")}
    for name in names:
        with open(folder / name, "a") as file:
            file.write("# another\n")
        seen.add(digest(folder / "requirements.txt"))
    assert len(seen) == 5


def test_one_that_was_left_half_built_is_built_anew(builder: Builder) -> None:
    builder.require("peak")
    environment = builder.build()
    directory = builder.folder / "environments" / environment.uses[0]
    (directory / cache_module.MARKER).unlink()
    (directory / "bin" / "python").unlink()
    assert version_in(builder.build()) == "2.0"
    assert builder.built == 1


def test_one_whose_python_has_gone_is_built_anew(builder: Builder) -> None:
    builder.require("peak")
    environment = builder.build()
    python = Path(environment.python)
    python.unlink()
    python.symlink_to("/nonexistent/python")
    assert version_in(builder.build()) == "2.0"


def test_a_pyproject_is_its_dependencies(builder: Builder) -> None:
    (builder.folder / "pyproject.toml").write_text(
        '[project]\nname = "shop"\nversion = "1"\ndependencies = ["hill", "peak>=1"]\n'
        f'[tool.uv]\nno-index = true\nfind-links = ["{builder.folder}/wheels"]\n'
    )
    assert version_in(builder.build("pyproject.toml")) == "1.0"


def test_a_uv_lock_is_installed_as_it_is_locked(uv: str, builder: Builder) -> None:
    project = '[project]\nname = "shop"\nversion = "1"\nrequires-python = ">=3.9"\n'
    text = f'{project}dependencies = ["peak%s"]\n[tool.uv]\nno-index = true\n'
    text += f'find-links = ["{builder.folder}/wheels"]\n'
    (builder.folder / "pyproject.toml").write_text(text % "<2")
    subprocess.run([uv, "lock", "--quiet"], cwd=builder.folder, check=True)
    assert version_in(builder.build("uv.lock")) == "1.0"
    assert not (builder.folder / ".venv").exists()


def test_a_pylock_is_installed_as_it_is_locked(uv: str, builder: Builder) -> None:
    wheel = builder.folder / "wheels/peak-1.0-py3-none-any.whl"
    (builder.folder / "pylock.shop.toml").write_text(
        'lock-version = "1.0"\ncreated-by = "a test"\n[[packages]]\nname = "peak"\n'
        'version = "1.0"\n[[packages.wheels]]\nname = "peak-1.0-py3-none-any.whl"\n'
        f'path = "wheels/{wheel.name}"\n'
        f'hashes = {{sha256 = "{sha256(wheel.read_bytes()).hexdigest()}"}}\n'
    )
    assert version_in(builder.build("pylock.shop.toml")) == "1.0"


# --- failures -----------------------------------------------------------------------------------


def test_a_failing_build_tells_the_installers_own_reason(builder: Builder) -> None:
    builder.require("hill", "peak==2.0")
    with pytest.raises(BuildError) as refused:
        builder.build()
    message = str(refused.value)
    assert message.startswith("uv failed: ")
    assert "hill" in message
    assert "peak" in message
    assert len(message.splitlines()) <= installer.SHOWN_LINES
    with pytest.raises(BuildError):
        builder.build()  # nothing of it is taken for an environment
    builder.require("hill", "peak==1.0")
    assert version_in(builder.build()) == "1.0"


def test_a_build_that_is_killed_may_have_run_out_of_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = folder / "uv"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(installer, "find_uv", lambda: str(killed))
    builder = Builder(folder)
    builder.require("peak")
    with pytest.raises(BuildError, match="was killed, as the kernel's OOM killer does"):
        builder.build()


def test_files_that_cannot_be_read_are_told(builder: Builder) -> None:
    with pytest.raises(BuildError, match=r"/missing\.txt: No such file or directory"):
        builder.build("missing.txt")
    builder.require("-r absent.txt")
    with pytest.raises(BuildError, match=r"/absent\.txt: No such file or directory"):
        builder.build()
    with pytest.raises(BuildError, match="write one that others can read, with `poetry export"):
        builder.build("poetry.lock")


def test_without_uv_nothing_is_built_and_the_reason_says_how_to_install_it(
    builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder.require("peak")
    with monkeypatch.context() as patch:
        patch.setattr(installer, "find_uv", lambda: "")
        cache = Cache(builder.folder / "environments")
    advice = re.escape(f"is not installed: {sys.executable} -m pip install uv")
    with pytest.raises(BuildError, match=advice):
        cache.find_or_build("", "requirements.txt", builder.folder)
    with pytest.raises(BuildError, match=rf"found no Python 3\.77, and uv.*{advice}"):
        cache.find_or_build("3.77", "", builder.folder)
    # what the gateway's own Python has needs none
    assert cache.find_or_build("", "", builder.folder).python == sys.executable
    assert version_in(builder.build()) == "2.0"


def test_a_version_that_exists_nowhere_is_told(uv: str, builder: Builder) -> None:
    with pytest.raises(
        BuildError, match=r"found no Python 3\.77, and uv failed: error: No download"
    ):
        builder.cache.find_or_build("3.77", "", builder.folder)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match=r"environments are kept there \(server\.environments\)"):
        Cache(tmp_path / "file" / "environments")


def test_an_excerpt_begins_where_the_fault_does() -> None:
    said = ["Resolved 3 packages", "error: Failed", "  cause: no space"]
    assert excerpt(said, 1) == "error: Failed\n    cause: no space"
    assert excerpt([f"line {n}" for n in range(30)], 1).count("\n") == installer.SHOWN_LINES - 1
    assert excerpt([], 3) == "exit code 3"


def test_an_excerpt_ends_with_the_reason() -> None:
    copied = [f"copying {n}" for n in range(100)]
    lines = excerpt(["resolved", "error: Failed to build", *copied, "no gcc"], 1).splitlines()
    assert (lines[0], lines[-1]) == ("error: Failed to build", "  no gcc")
    assert len(lines) == installer.FIRST_LINES + 1 + installer.SHOWN_LINES
    assert excerpt(["error: a", *copied[:10], "b"], 1).count("copying") == 10


# --- pythons ------------------------------------------------------------------------------------


def test_a_python_is_named_by_path_or_version_or_not_at_all(tmp_path: Path) -> None:
    version = ".".join(map(str, sys.version_info[:2]))
    exact = ".".join(map(str, sys.version_info[:3]))
    link = tmp_path / "python"
    link.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    link.chmod(0o755)
    for wanted in ("", version, exact, "python", str(link)):
        found = find(wanted, tmp_path)
        assert found is not None
        assert found.shown_version == exact
    assert find("3.77", tmp_path) is None


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo '{\"version\": [3, 8, 20]}'", "is Python 3.8.20; a pool needs 3.9 or newer"),
        ("echo hello", "is not a Python that runs: "),
        ("echo 'no such luck' >&2; exit 3", "is not a Python that runs: no such luck"),
    ],
)
def test_what_cannot_run_a_worker_is_told(tmp_path: Path, script: str, message: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    with pytest.raises(BuildError) as refused:
        inspect(str(python))
    assert f"{python} {message}" in str(refused.value)


def test_a_path_where_nothing_is_is_told(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"/python is not a Python that runs: No such file"):
        inspect(str(tmp_path / "python"))


# --- what a worker needs ------------------------------------------------------------------------


def with_packages(**has: str) -> Interpreter:
    own = inspect(sys.executable)
    return Interpreter(
        path="python", base="", version=own.version, abi=own.abi, platform="", has=has
    )


def test_an_apps_own_packages_have_to_be_new_enough() -> None:
    for version in ("24.2", "24.2.1", "26.9.0", "24.10.1rc1"):
        check_versions(with_packages(gevent=version))
    with pytest.raises(BuildError, match=r"python has gevent 23\.9\.1, which is too old"):
        check_versions(with_packages(gevent="23.9.1"))
    with pytest.raises(BuildError, match=r"greenlet 1\.1\.3.*greenlet 2\.0 or newer is needed"):
        check_versions(with_packages(greenlet="1.1.3"))


def test_what_is_added_goes_with_the_apps_own() -> None:
    own = inspect(sys.executable).has
    assert fits_own(with_packages())
    assert fits_own(with_packages(greenlet=own["greenlet"]))
    pinned = with_packages(greenlet="3.0.3")
    assert not fits_own(pinned)
    assert "greenlet==3.0.3" in list_requirements(pinned)


def test_the_gateways_own_packages_serve_its_own_python(builder: Builder) -> None:
    builder.require("peak")
    environment = builder.build()
    runtime = Path(environment.runtime)
    assert runtime.name in environment.uses
    # without a build, and without all else that lies beside them
    assert (runtime / "gevent").is_symlink()
    assert not (runtime / "yaml").exists()
    asked = subprocess.run(
        [
            *(environment.python, "-c"),
            "import sys; sys.path.append(sys.argv[1]); import gevent; print('fine')",
            environment.runtime,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout == "fine\n"


def test_a_python_that_has_all_is_used_as_it_is(builder: Builder) -> None:
    found = builder.cache.find_or_build("", "", builder.folder)
    assert (found.python, found.runtime, found.uses) == (sys.executable, "", ())


# --- several at a time, and the end of them -----------------------------------------------------


def find_or_build(folder: Path, said: list[str], **more: Any) -> Any:
    options: dict[str, Any] = {"python": "", "requirements": "requirements.txt", **more}
    return client.find_or_build(
        root=folder / "environments",
        directory=folder,
        surroundings={},
        **{
            "on_progress": said.append,
            "timeout_seconds": 60.0,
            "turn": lambda _: contextlib.nullcontext(),
            **options,
        },
    )


def test_who_wants_the_same_waits_for_who_builds_it(builder: Builder) -> None:
    builder.require("hill")
    said: list[str] = []

    async def ask() -> list[Environment]:
        return await asyncio.gather(*(find_or_build(builder.folder, said) for _ in range(3)))

    found = asyncio.run(ask())
    assert found[0] == found[1] == found[2]
    assert sum(line.startswith("building ") for line in said) == 1
    assert sum(line.startswith("waiting ") for line in said) >= 1


def test_what_is_built_waits_for_its_turn_and_what_is_there_does_not(builder: Builder) -> None:
    builder.require("peak")
    asked: list[int] = []

    @contextlib.asynccontextmanager
    async def turn(pid: int) -> AsyncIterator[None]:
        asked.append(pid)
        assert not list(builder.folder.glob("environments/env-*"))
        yield
        assert list(builder.folder.glob("environments/env-*/complete"))

    for _ in range(2):
        asyncio.run(find_or_build(builder.folder, [], turn=turn)).let_go()
    assert len(asked) == 1


def test_the_time_of_a_build_begins_with_its_turn_and_it_gives_way_to_others(
    builder: Builder,
) -> None:
    builder.require("peak")
    patience, niceness = 15.0, []

    @contextlib.asynccontextmanager
    async def turn(pid: int) -> AsyncIterator[None]:
        await asyncio.sleep(patience + 1)
        yield

    def note(line: str) -> None:
        if "building" in line:
            [pid] = (int(p) for p in children(os.getpid()))
            niceness.append(os.getpriority(os.PRIO_PROCESS, pid))

    asking = find_or_build(
        builder.folder, [], turn=turn, timeout_seconds=patience, on_progress=note
    )
    asyncio.run(asking).let_go()
    assert niceness == [os.getpriority(os.PRIO_PROCESS, 0) + NICENESS]


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_failure_reaches_who_asked(builder: Builder) -> None:
    builder.require("peak==3.0")
    with pytest.raises(BuildError, match="failed: "):
        asyncio.run(find_or_build(builder.folder, []))


def test_the_outcome_counts_even_where_another_reaps_the_process(builder: Builder) -> None:
    """A supervisor waits for every child, so its exit code may be lost."""
    builder.require("peak")

    async def ask() -> Environment:
        asking = asyncio.create_task(find_or_build(builder.folder, []))
        while not asking.done():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
            await asyncio.sleep(0.001)
        return await asking

    assert version_in(asyncio.run(ask())) == "2.0"


def test_a_build_that_takes_too_long_is_ended_with_all_it_started(folder: Path) -> None:
    python = folder / "slow"
    python.write_text(f"#!/bin/sh\necho $$ > {folder}/pid\nexec sleep 600\n")
    python.chmod(0o755)

    async def ask() -> None:
        began = asyncio.create_task(find_or_build(folder, [], python="slow", timeout_seconds=3.0))
        while not (folder / "pid").exists():
            await asyncio.sleep(0.01)
        await began

    with pytest.raises(BuildError, match=r"was not built within 3 s \(server\.build_timeout\)"):
        asyncio.run(ask())
    pid = int((folder / "pid").read_text())
    wait_until(lambda: not is_running(pid), "it has ended")


def is_running(pid: int) -> bool:
    """A zombie is not: who reaps an orphan depends on the machine."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def let_go(cache: Cache) -> None:
    while cache.held:
        os.close(cache.held.pop())


def test_what_nobody_uses_is_collected(builder: Builder) -> None:
    builder.require("peak==1.0")
    old = builder.build()
    let_go(builder.cache)
    builder.require("peak==2.0")
    new = builder.build()
    assert builder.cache.collect() == [old.uses[0]]  # they share what a worker needs
    assert not Path(old.python).exists()
    assert builder.build() == new
    assert not builder.built
    builder.require("peak==1.0")
    assert version_in(builder.build()) == "1.0"
    assert builder.built == 1
    let_go(builder.cache)
    assert set(builder.cache.collect()) == {*old.uses, *new.uses}


def test_what_another_uses_is_not_collected(builder: Builder) -> None:
    builder.require("peak")
    builder.build()
    another = Builder(builder.folder)
    environment = another.build()
    let_go(builder.cache)
    assert builder.cache.collect() == []
    assert version_in(environment) == "2.0"
    let_go(another.cache)
    assert set(builder.cache.collect()) == set(environment.uses)


def test_one_that_is_broken_is_built_anew_beside_its_users(builder: Builder) -> None:
    builder.require("peak")
    environment = builder.build()
    Path(environment.python).unlink()
    another = Builder(builder.folder)
    assert version_in(another.build()) == "2.0"
    assert another.built == 1
    let_go(builder.cache)  # its lock is on what was thrown away
    assert builder.cache.collect() == []


def test_what_is_being_built_is_not_collected(builder: Builder) -> None:
    builder.require("peak")
    environment = builder.build()
    let_go(builder.cache)
    name = environment.uses[0]
    with open(builder.folder / "environments" / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert name not in builder.cache.collect()
    assert name in builder.cache.collect()


def test_collecting_touches_nothing_else(builder: Builder) -> None:
    root = builder.folder / "environments"
    (root / "mine").mkdir()
    (root / "mine.lock").touch()
    assert builder.cache.collect() == []
    assert (root / "mine.lock").exists()
    assert (root / "mine").exists()


def test_an_environment_is_held_until_it_is_let_go(builder: Builder) -> None:
    builder.require("peak")
    root = builder.folder / "environments"
    environment = asyncio.run(find_or_build(builder.folder, []))
    assert len(environment.held) == 2
    assert asyncio.run(client.collect(root, {})) == []
    environment.let_go()
    assert set(asyncio.run(client.collect(root, {}))) == set(environment.uses)
