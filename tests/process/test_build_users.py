"""What a pool's user can write runs as that user: building, back ends, ``.pth`` files, Pythons that
are asked what they are. All of it takes a gateway that runs as root."""

import asyncio
import contextlib
import json
import os
import pwd
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import running
from running import Running, wait_until
from test_environments import make_wheel

from gateway.config.values.processes import usable_cores
from gateway.environments import client
from gateway.environments.cache import Cache
from gateway.environments.client import MAX_LINE_BYTES
from gateway.environments.homes import find_homes, open_home
from gateway.errors import BuildError
from gateway.supervisor.processes.start_gate import MIN_LOADS

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts workers of others")

# building takes its time on a busy machine
BUILD_SECONDS = 180
NOBODY = pwd.getpwnam("nobody")
OTHER = pwd.getpwnam("www-data")
APP = """
import os, sys
def app(environ, start_response):
    start_response("200 OK", [])
    return [f"{os.geteuid()} {sys.executable}".encode()]
"""
# who it is, and what it sees: a line for each time that it runs
NOTE = (
    "import os; open({path!r}, 'a').write(str(os.geteuid()) + os.environ.get('SECRET', '') + '\\n')"
)
BACKEND = """
import os, zipfile
{note}
def build_wheel(directory, settings=None, metadata=None):
    info = "local-1.0.dist-info"
    files = {{
        "local.py": "",
        info + "/METADATA": "Metadata-Version: 2.1\\nName: local\\nVersion: 1.0\\n",
        info + "/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }}
    files[info + "/RECORD"] = "".join(f"{{each}},,\\n" for each in [*files, info + "/RECORD"])
    name = "local-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
    return name
"""
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "local"
version = "1.0"
"""


@pytest.fixture
def site() -> Iterator[Path]:
    """A directory that any user may look into; ``seen`` in it may be written by all."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "seen").mkdir()
        (folder / "seen").chmod(0o777)
        yield folder


@pytest.fixture
def serve(
    request: pytest.FixtureRequest, site: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Running]]:
    """A gateway with one mount, ``/p``, in a pool of nobody's with further settings."""
    monkeypatch.setitem(running.ENVIRON, "SECRET", " wombat")
    started: list[Running] = []

    def serve(pool: str) -> Running:
        mounts = '  /: good:app\n  /p: {app: "who:app", pool: p}\n'
        pools = f"  environments: {site}/environments\npools:\n  p: {{user: nobody, {pool}}}\n"
        started.append(Running(site, mounts, pools, who=APP))
        request.addfinalizer(started[-1].end)
        return started[-1]

    yield serve
    for each in started:
        each.end()


def ask(gateway: Running) -> tuple[int, str]:
    """Who the pool's worker is, and which Python."""
    answer = wait_until(lambda: _answer(gateway), "the pool serves", BUILD_SECONDS)
    user, _, python = answer.rpartition(b"\r\n")[2].decode().partition(" ")
    return int(user), python


def _answer(gateway: Running) -> bytes:
    try:
        answer = gateway.ask("/p")
    except TimeoutError:
        return b""  # it is still being built
    return answer if b" 200 " in answer.partition(b"\r\n")[0] else b""


def seen(site: Path, name: str) -> set[str]:
    return set((site / "seen" / name).read_text().splitlines())


def own(path: Path) -> None:
    """Give it, and all in it, to nobody."""
    for each in (path, *path.rglob("*")):
        os.chown(each, NOBODY.pw_uid, NOBODY.pw_gid, follow_symlinks=False)


def write_python(path: Path, note: Path) -> None:
    """A program that is nobody's, and notes who runs it before it is a Python."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\necho "$(id -u)$SECRET" >> {note}\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)


# --- what ran as root -----------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["python", "venv"])
def test_a_python_that_is_the_users_is_asked_as_the_user(
    site: Path, serve: Callable[[str], Running], key: str
) -> None:
    write_python(site / "theirs/bin/python", site / "seen/python")
    own(site / "theirs")
    value = "theirs" if key == "venv" else "theirs/bin/python"
    assert ask(serve(f"{key}: {value}"))[0] == NOBODY.pw_uid
    assert seen(site, "python") == {"65534"}


def test_a_python_is_asked_without_running_what_its_packages_bring(
    site: Path, serve: Callable[[str], Running]
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", site / "theirs"], check=True)
    packages = next((site / "theirs/lib").glob("python*/site-packages"))
    # while a worker starts they are, which has "boot.py" among its arguments
    asks = "import sys; 'boot.py' in str(sys.orig_argv) or "
    note = NOTE.format(path=str(site / "seen/pth")).partition("; ")[2]
    (packages / "noting.pth").write_text(
        f"{asks}__import__('os') and exec({f'import os; {note}'!r})\n"
    )
    own(site / "theirs")
    assert ask(serve("venv: theirs"))[0] == NOBODY.pw_uid
    assert not (site / "seen/pth").exists()


def test_a_back_end_and_pth_files_run_as_the_user(
    site: Path, serve: Callable[[str], Running]
) -> None:
    (site / "local").mkdir()
    note = NOTE.format(path=str(site / "seen/backend"))
    (site / "local/backend.py").write_text(BACKEND.format(note=note))
    (site / "local/pyproject.toml").write_text(PYPROJECT)
    own(site / "local")
    wheel = make_wheel(site / "wheels", "peak", "1.0")
    with zipfile.ZipFile(wheel, "a") as file:
        file.writestr("peak.pth", NOTE.format(path=str(site / "seen/pth")) + "\n")
    text = f"--no-index\n--find-links {site}/wheels\npeak\n{site}/local\n"
    (site / "requirements.txt").write_text(text)
    user, python_of_pool = ask(serve("requirements: requirements.txt"))
    assert user == NOBODY.pw_uid
    assert seen(site, "backend") == {"65534"}
    assert seen(site, "pth") == {"65534"}
    home = site / "environments/user-65534"
    assert Path(python_of_pool).is_relative_to(home)
    assert (home.stat().st_uid, stat.S_IMODE(home.stat().st_mode)) == (NOBODY.pw_uid, 0o700)
    assert {path.lstat().st_uid for path in home.rglob("*")} == {NOBODY.pw_uid}


def test_check_loads_apps_as_their_workers_would(site: Path) -> None:
    app = "import os\nopen(f'seen/{os.geteuid()}', 'w').close()\n" + running.APP
    for name in ("front", "pooled", "apart"):
        (site / f"{name}.py").write_text(app.replace("seen/", f"{site}/seen/{name}-"))
    (site / "mounts.yaml").write_text(
        "server: {user: nobody}\npools:\n  p: {}\n  q: {user: www-data}\nmounts:\n"
        '  /: "front:app"\n  /p: {app: "pooled:app", pool: p}\n  /q: {app: "apart:app", pool: q}\n'
    )
    command = [sys.executable, "-m", "gateway", "check", "-c", str(site / "mounts.yaml")]
    ran = subprocess.run(command, env=running.ENVIRON, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert {path.name for path in (site / "seen").iterdir()} == {
        f"front-{NOBODY.pw_uid}",
        f"pooled-{NOBODY.pw_uid}",
        f"apart-{OTHER.pw_uid}",
    }


# --- a directory for each user --------------------------------------------------------------------


def test_each_user_has_a_directory_that_no_other_can_read_or_change(site: Path) -> None:
    root = site / "environments"
    for user in (NOBODY, OTHER):
        home = open_home(root, user.pw_uid, user.pw_gid)
        assert home == root / f"user-{user.pw_uid}"
        assert open_home(root, user.pw_uid, user.pw_gid) == home
        status = home.stat()
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (user.pw_uid, 0o700)
    assert root.stat().st_uid == 0
    assert open_home(root, -1, -1) == open_home(root, 0, 0) == root
    assert next(path for path, _, _ in find_homes(root)) == root
    assert {user for _, user, _ in find_homes(root)} == {-1, NOBODY.pw_uid, OTHER.pw_uid}


def test_a_place_that_a_third_user_can_change_is_refused(site: Path) -> None:
    (site / "data").mkdir()
    root = site / "data/environments"
    os.chown(site / "data", OTHER.pw_uid, 0)
    with pytest.raises(BuildError, match="/data belongs to www-data, who could change what runs"):
        open_home(root, NOBODY.pw_uid, NOBODY.pw_gid)
    assert open_home(root, OTHER.pw_uid, OTHER.pw_gid).is_dir()  # it harms itself at most
    os.chown(site / "data", 0, OTHER.pw_gid)
    (site / "data").chmod(0o775)
    with pytest.raises(BuildError, match="/data can be written by others"):
        open_home(root, NOBODY.pw_uid, NOBODY.pw_gid)
    (site / "data").chmod(0o755)
    assert open_home(root, NOBODY.pw_uid, NOBODY.pw_gid).is_dir()


def test_what_another_has_put_there_is_not_taken(site: Path) -> None:
    root, elsewhere = site / "environments", site / "elsewhere"
    elsewhere.mkdir()
    root.symlink_to(elsewhere)
    with pytest.raises(BuildError, match="environments are kept there"):
        open_home(root, NOBODY.pw_uid, NOBODY.pw_gid)
    root.unlink()
    root.mkdir()
    os.chown(root, OTHER.pw_uid, OTHER.pw_gid)
    with pytest.raises(BuildError, match="it belongs to www-data"):
        open_home(root, NOBODY.pw_uid, NOBODY.pw_gid)
    os.chown(root, 0, 0)
    (root / "user-65534").symlink_to(elsewhere)
    with pytest.raises(BuildError, match="environments are kept there"):
        open_home(root, NOBODY.pw_uid, NOBODY.pw_gid)
    (root / "user-65534").unlink()
    (root / "user-65534").mkdir()
    os.chown(root / "user-65534", OTHER.pw_uid, OTHER.pw_gid)
    with pytest.raises(BuildError, match="user-65534: it belongs to www-data: remove it"):
        open_home(root, NOBODY.pw_uid, NOBODY.pw_gid)
    assert find_homes(root) == [(root, -1, -1)]
    assert list(elsewhere.iterdir()) == []
    os.chown(root / "user-65534", NOBODY.pw_uid, NOBODY.pw_gid)
    assert open_home(root, NOBODY.pw_uid, NOBODY.pw_gid).is_dir()


def test_a_directory_that_others_may_write_to_is_closed_to_them(site: Path) -> None:
    root = site / "environments"
    root.mkdir()
    root.chmod(0o777)
    open_home(root, NOBODY.pw_uid, NOBODY.pw_gid)
    assert stat.S_IMODE(root.stat().st_mode) == 0o755
    root.chmod(0o700)
    open_home(root, NOBODY.pw_uid, NOBODY.pw_gid)
    assert stat.S_IMODE(root.stat().st_mode) == 0o701


# --- collecting -----------------------------------------------------------------------------------

NAME = "env-3.11.7-0123456789abcdef"


def collect(root: Path) -> list[str]:
    return asyncio.run(client.collect(root, {"env": {}}))


@pytest.mark.parametrize("what", ["environment", "lock", "within"])
def test_collecting_in_a_users_directory_takes_nothing_that_is_not_the_users(
    site: Path, what: str
) -> None:
    root = site / "environments"
    home = open_home(root, NOBODY.pw_uid, NOBODY.pw_gid)
    elsewhere = site / "elsewhere"
    elsewhere.mkdir()
    for name in ("complete", "file"):
        (elsewhere / name).write_text("precious")
        (elsewhere / name).chmod(0o666)
    if what == "environment":
        (home / NAME).symlink_to(elsewhere)
    else:
        (home / NAME).mkdir()
        (home / NAME / "link").symlink_to(elsewhere)
    if what == "lock":
        (home / f"{NAME}.lock").symlink_to(elsewhere / "file")
    else:
        (home / f"{NAME}.lock").touch()
    own(home)
    collect(root)
    assert {path.name: path.read_text() for path in elsewhere.iterdir()} == {
        "complete": "precious",
        "file": "precious",
    }


def test_what_is_a_users_is_collected_as_the_user(site: Path) -> None:
    root = site / "environments"
    home = open_home(root, NOBODY.pw_uid, NOBODY.pw_gid)
    for folder in (root, home):
        (folder / NAME).mkdir()
        (folder / NAME / "file").touch()
        (folder / f"{NAME}.lock").touch()
    own(home)
    assert collect(root) == [NAME, NAME]
    assert not (root / NAME).exists()
    assert not (home / NAME).exists()


def test_a_lock_is_not_opened_through_a_link(site: Path) -> None:
    root = site / "environments"
    cache = Cache(root)
    (site / "file").write_text("precious")
    (root / f"{NAME}.lock").symlink_to(site / "file")
    with pytest.raises(OSError, match="symbolic links"):
        cache.collect()
    assert (site / "file").read_text() == "precious"


# --- several at a time ---------------------------------------------------------------------------

BUSY = """
import time
_build = build_wheel
def note(what):
    with open({path!r}, "a") as file:
        file.write(what + "\\n")
def build_wheel(*arguments):
    note("begin")
    began = time.thread_time()
    while time.thread_time() < began + 0.3:
        pass
    note("end")
    return _build(*arguments)
"""


def test_as_many_are_built_at_a_time_as_there_are_cores(site: Path) -> None:
    limit = max(MIN_LOADS, usable_cores())
    count = 3 * limit
    mounts = pools = ""
    for number in range(count):
        folder = site / f"local{number}"
        folder.mkdir()
        backend = BACKEND.format(note="") + BUSY.format(path=str(site / "seen/builds"))
        (folder / "backend.py").write_text(backend)
        (folder / "pyproject.toml").write_text(PYPROJECT)
        (site / f"r{number}.txt").write_text(f"{folder}\n")
        mounts += f'  /p{number}: {{app: "good:app", pool: p{number}}}\n'
        pools += f"  p{number}: {{requirements: r{number}.txt}}\n"
    gateway = Running(site, mounts, f"  environments: {site}/environments\npools:\n{pools}")
    try:
        for number in range(count):
            wait_until(
                lambda path=f"/p{number}": b" 200 " in gateway.ask(path)[:20],
                "the pool serves",
                BUILD_SECONDS,
            )
    finally:
        gateway.end()
    building = most = 0
    for what in (site / "seen/builds").read_text().split():
        building += 1 if what == "begin" else -1
        most = max(most, building)
    assert most <= limit + 1  # one may just have waited for something


# --- what is reported -----------------------------------------------------------------------------

GOOD = {"python": sys.executable, "version": "3.11.7", "runtime": "", "uses": [NAME]}
REPORTS = [
    json.dumps({"environment": {**GOOD, "python": 7}}),
    json.dumps({"environment": {**GOOD, "uses": [[]]}}),
    json.dumps({"environment": {**GOOD, "python": "a\0b"}}),
    json.dumps({"environment": [1]}),
    json.dumps({"else": 1}),
    "[" * 100_000,
    "{}",
    "7",
    "x" * (MAX_LINE_BYTES * 2),
    "Traceback (most recent call last):",
    "\N{PILE OF POO}",
]


def report(
    text: str, monkeypatch: pytest.MonkeyPatch, site: Path, turns: list[int] | None = None
) -> client.HeldEnvironment:
    """What is made of a process that writes ``text`` where reports are expected; ``turns`` gets its
    id each time that it is let build."""
    (site / "text").write_text(text + "\n")
    said = f"import sys; sys.stdin.readline(); print(open({str(site / 'text')!r}).read())"
    monkeypatch.setattr(client, "_START", said)

    def turn(pid: int) -> contextlib.nullcontext[None]:
        if turns is not None:
            turns.append(pid)
        return contextlib.nullcontext()

    return asyncio.run(
        client.find_or_build(
            root=site,
            python="",
            requirements="",
            directory=site,
            surroundings={},
            turn=turn,
            on_progress=lambda _: None,
            timeout_seconds=30,
        )
    )


@pytest.mark.parametrize("text", REPORTS, ids=range(len(REPORTS)))
def test_a_report_that_makes_no_sense_is_a_failed_build(
    text: str, monkeypatch: pytest.MonkeyPatch, site: Path
) -> None:
    with pytest.raises(BuildError, match="the process that builds environments"):
        report(text, monkeypatch, site)


def test_a_report_that_makes_sense_is_taken(monkeypatch: pytest.MonkeyPatch, site: Path) -> None:
    found = report(json.dumps({"environment": GOOD}), monkeypatch, site)
    assert (found.python, found.uses, found.held) == (sys.executable, (NAME,), ())


def test_who_asks_for_its_turn_again_and_again_gets_it_once(
    monkeypatch: pytest.MonkeyPatch, site: Path
) -> None:
    turns: list[int] = []
    text = 3 * '{"waits": true}\n' + json.dumps({"environment": GOOD})
    report(text, monkeypatch, site, turns)
    assert len(turns) == 1


def test_no_control_characters_are_taken_over(monkeypatch: pytest.MonkeyPatch, site: Path) -> None:
    with pytest.raises(BuildError) as refused:
        report(json.dumps({"error": "a\x1b]0;x\x07\x9bb\nc\u00e9"}), monkeypatch, site)
    assert str(refused.value) == "a?]0;x??b\nc\u00e9"
