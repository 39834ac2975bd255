"""Two gateways with one directory of environments: neither takes away what the other uses."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running import Running, wait_until
from test_environments import is_running, make_wheel

APP = """
def app(environ, start_response):
    start_response("200 OK", [])
    if environ["QUERY_STRING"]:
        from importlib.metadata import version  # not before it is asked for
        return [version("peak").encode()]
    return [environ["gateway.generation"].encode()]
"""
MOUNTS = '  /: good:app\n  /lazy: {app: "lazy:app", pool: p}\n'

# on a busy machine
BUILD_SECONDS = 180

StartWith = Callable[..., Running]


@pytest.fixture
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StartWith]:
    """``shared(name, version)`` is a gateway whose pool needs that version of ``peak``."""
    for version in ("1.0", "2.0", "3.0"):
        make_wheel(tmp_path / "wheels", "peak", version)
    started: list[Running] = []

    def start(name: str, version: str) -> Running:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        require(folder, version)
        server = f"  environments: {tmp_path}/environments\n  keep_previous: 0s\n"
        pools = "pools:\n  p: {requirements: requirements.txt}\n"
        started.append(Running(folder, MOUNTS, server + pools, lazy=APP))
        request.addfinalizer(started[-1].end)
        wait_until(lambda: serves(started[-1]), "the pool serves", BUILD_SECONDS)
        return started[-1]

    yield start
    for gateway in started:
        gateway.end()


def serves(gateway: Running) -> bool:
    try:
        return b" 200 " in gateway.ask("/lazy")[:20]
    except TimeoutError:
        return False  # it is still being built


def require(folder: Path, version: str) -> None:
    lines = f"--no-index\n--find-links {folder.parent}/wheels\npeak=={version}\n"
    (folder / "requirements.txt").write_text(lines)


def environments(gateway: Running) -> set[str]:
    return {path.name for path in (gateway.folder.parent / "environments").glob("env-*[!k]")}


def version_of(gateway: Running) -> str:
    return gateway.ask("/lazy?version").rpartition(b"\r\n")[2].decode()


def reload(gateway: Running) -> None:
    answer = gateway.control("reload")
    assert answer["exit_code"] == 0, answer


def test_a_reload_leaves_what_another_gateway_uses(shared: StartWith) -> None:
    one, two = shared("one", "1.0"), shared("two", "2.0")
    used = environments(one)
    assert len(used) == 2
    reload(two)
    reload(two)
    assert version_of(one) == "1.0"
    reload(one)
    assert (version_of(one), version_of(two)) == ("1.0", "2.0")
    assert environments(one) == used


def test_what_nobody_uses_any_more_is_taken_by_whoever_collects(shared: StartWith) -> None:
    one, two = shared("one", "1.0"), shared("two", "2.0")
    require(one.folder, "3.0")
    reload(one)
    assert version_of(one) == "3.0"
    assert one.end() == 0  # and with it what it used goes
    wait_until(lambda: reload(two) or len(environments(two)) == 1, "it was collected")
    assert version_of(two) == "2.0"
    again = shared("one", "1.0")
    assert (version_of(again), version_of(two)) == ("1.0", "2.0")


def test_a_gateway_that_was_killed_holds_nothing(shared: StartWith) -> None:
    one, two = shared("one", "1.0"), shared("two", "2.0")
    workers = one.children()
    os.kill(one.process.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(is_running, workers)), "its workers have ended")
    wait_until(lambda: reload(two) or len(environments(two)) == 1, "it was collected")
    assert version_of(two) == "2.0"
    again = shared("one", "1.0")
    reload(two)
    assert (version_of(again), version_of(two)) == ("1.0", "2.0")


def test_two_that_use_the_same_share_it_until_both_have_left(shared: StartWith) -> None:
    one, two = shared("one", "1.0"), shared("two", "1.0")
    assert len(environments(one)) == 1
    require(one.folder, "3.0")
    reload(one)
    reload(one)
    assert len(environments(one)) == 2
    assert (version_of(one), version_of(two)) == ("3.0", "1.0")
