"""A new setting of a mount takes two code files, whoever serves the mount: a field with its marks,
and its use. Shown with settings that a copy of the package has for these tests."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from running import ENVIRON, Running, wait_until

ROOT = Path(__file__).parents[2]
EDITS = 10
POOLS = "pools:\n  greenlets: {}\n  threads: {concurrency: threads, threads: 1}\n"
SERVERS = ("/front", "/greenlets", "/threads", "/upstream")
# what these tests add to the package, at the end of the fields of a class, or of a file
MOUNT_FIELD = """
    {name}: str = setting(
        "", "For this test.", reads="text", applies="in place", where="{where}"
    )
"""
APP_FIELD = """
    colour: str = setting("", "For this test.", reads="text", applies="new workers")
"""
USE_IN_RESPONSE = """

def _start_response(self, status, headers, exc_info=None, /):
    if self.mount is not None:
        for key in ("front_stamp", "pool_stamp"):
            value = getattr(self.mount.limits, key)
            if value:
                headers = [*headers, (key.replace("_", "-"), value)]
    return Response.start_response(self, status, headers, exc_info)


Exchange.start_response = _start_response
"""
LAYER = """

def _badge(app, loaded, mount, chain):
    if not mount.limits.badge:
        return app

    def badged(environ, start_response):
        def start(status, headers, *more):
            return start_response(status, [*headers, ("Badge", mount.limits.badge)], *more)

        return app(environ, start)

    return badged


LAYERS += (Layer(_badge),)
"""
USE_AT_LOAD = """

def _load(self, name, target, load=_Imports.load):
    import os

    os.environ["COLOUR"] = target.colour
    return load(self, name, target)


_Imports.load = _load
"""
APP = """
import os
colour = os.environ.get("COLOUR", "")
def app(environ, start_response):
    start_response("200 OK", [])
    return [colour.encode()]
"""


def add_field(file: Path, owner: str, text: str) -> None:
    """Behind the last field of the class."""
    source = file.read_text()
    classes = {each.name: each for each in ast.parse(source).body if isinstance(each, ast.ClassDef)}
    *_, last = (each for each in classes[owner].body if isinstance(each, ast.AnnAssign))
    lines = source.splitlines(keepends=True)
    lines.insert(last.end_lineno or 0, text)
    file.write_text("".join(lines))


def append(file: Path, text: str) -> None:
    file.write_text(file.read_text() + text)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The directory of a copy of the package, to be changed."""
    directory = tmp_path / "package"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "gateway", directory / "gateway", ignore=ignored)
    return directory


def begin(start: Callable[..., Running], folder: Path, package: Path, settings: str) -> Running:
    """One mount by each way, with these settings, and one without them."""
    return start(
        make_mounts(folder, settings),
        POOLS,
        package=package,
        shown=APP,
    )


def make_mounts(folder: Path, settings: str) -> str:
    return f"""\
  /: shown:app
  /front: {{app: 'shown:app', {settings}}}
  /greenlets: {{app: 'shown:app', pool: greenlets, {settings}}}
  /threads: {{app: 'shown:app', pool: threads, {settings}}}
  /upstream: {{upstream: 'unix:{folder}/listen.sock', {settings}}}
"""


def read_fields(gateway: Running, target: str) -> dict[str, list[str]]:
    """The values of each field, by its name in lower case."""
    head, _, _ = gateway.ask(target).partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    assert " 200 " in status
    found: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        found.setdefault(name.lower(), []).append(value)
    return found


def edit(gateway: Running, package: Path, mounts: str) -> tuple[list[str], str]:
    """What the plan says before the table is saved, and how it is served then."""
    new = gateway.folder / "new.yaml"
    new.write_text(f"{gateway.server}mounts:\n{mounts}")
    table = str(gateway.folder / "mounts.yaml")
    plan = subprocess.run(
        [sys.executable, "-m", "gateway", "plan", "-c", table, str(new)],
        env={**ENVIRON, "PYTHONPATH": str(package)},
        cwd=package,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert plan.returncode == 10, plan.stderr
    return plan.stdout.splitlines(), save(gateway, mounts)


def save(gateway: Running, mounts: str) -> str:
    """How the table is served then."""
    before = gateway.control("status")["last_reload"]
    gateway.write_table(mounts)
    wait_until(lambda: gateway.control("status")["last_reload"] != before, "it is served")
    last = gateway.control("status")["last_reload"]
    assert last["exit_code"] == 0, last
    how: str = last["how"]
    return how


@pytest.mark.parametrize("name", ["front_stamp", "pool_stamp"])
def test_a_key_that_changes_the_response_takes_two_files(
    start: Callable[..., Running], tmp_path: Path, package: Path, name: str
) -> None:
    for each, where in (("front_stamp", "front"), ("pool_stamp", "pool")):
        text = MOUNT_FIELD.format(name=each, where=where)
        add_field(package / "gateway/limits.py", "MountLimits", text)
    append(package / "gateway/http/exchange.py", USE_IN_RESPONSE)
    gateway = begin(start, tmp_path, package, f"{name}: one")
    field = name.replace("_", "-")
    assert field not in read_fields(gateway, "/")
    for target in SERVERS:
        assert read_fields(gateway, target)[field] == ["one"], target
    plan, how = edit(gateway, package, make_mounts(tmp_path, f"{name}: two"))
    changes = [f"~ {target}: {name} one -> two" for target in SERVERS]
    assert plan == [*changes, "= in place: no code is loaded again"]
    assert how == "in place"
    for target in SERVERS:
        assert read_fields(gateway, target)[field] == ["two"], target


def test_a_further_layer_is_one_line_and_there_once_after_ten_edits(
    start: Callable[..., Running], tmp_path: Path, package: Path
) -> None:
    text = MOUNT_FIELD.format(name="badge", where="front")
    add_field(package / "gateway/limits.py", "MountLimits", text)
    append(package / "gateway/mounts/chain.py", LAYER)
    gateway = begin(start, tmp_path, package, "badge: start, max_concurrency: 1")
    for number in range(EDITS):
        settings = f"badge: number {number}, max_concurrency: {number + 1}"
        assert save(gateway, make_mounts(tmp_path, settings)) == "in place"
        for target in SERVERS:
            assert read_fields(gateway, target)["badge"] == [f"number {number}"], target
        assert "badge" not in read_fields(gateway, "/")


def test_a_key_that_an_app_is_loaded_with_starts_new_workers(
    start: Callable[..., Running], tmp_path: Path, package: Path
) -> None:
    add_field(package / "gateway/config/model.py", "AppTarget", APP_FIELD)
    append(package / "gateway/mounts/loader.py", USE_AT_LOAD)
    mounts = "  /: {app: 'shown:app', colour: red}\n"
    gateway = start(mounts, package=package, shown=APP)
    assert gateway.ask().endswith(b"red")
    plan, how = edit(gateway, package, mounts.replace("red", "blue"))
    assert plan == [
        "~ /: colour red -> blue",
        "! new workers: shown:app has to be imported again: colour changes",
    ]
    assert how == "new workers"
    assert gateway.ask().endswith(b"blue")
