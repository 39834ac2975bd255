"""Files on a file system that does not answer, as a mount of the network whose server has gone:
what serves keeps serving, and neither a reload, nor the watch of files, nor a stop waits for it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hanging import HangingMount, count_waiting, mounting
from running import ENVIRON, SERVER, WAIT_SECONDS, Running, wait_until

from gateway import file_tasks
from gateway.config.load import MAX_READS, read_table
from gateway.errors import ConfigError
from gateway.file_tasks import FileTask, UnreachableError, run_once, touching
from gateway.supervisor.watching.files import Sight, look_in_thread

Start = Callable[..., Running]
TELLING = """
import os
def app(environ, start_response):
    start_response("200 OK", [])
    return [os.environ.get("KEY", "").encode()]
"""
LATE = "could not be read within 5 s: is the file system that it is on reachable?"
SOON = "  drain_timeout: 1s\n"
GOOD = "  /: 'good:app'\n"
MOUNTS = f"{GOOD}  /a: {{app: 'telling:app', pool: a, env: {{KEY: '${{file:hung/key}}'}}}}\n"
# of which a busy machine takes none for a file that answers
SHORT = 4 * file_tasks.LOOK_SECONDS
FILES = {"key": "wombat\n", "python": "#!/bin/sh\n", "mod.py": TELLING, "mounts.yaml": ""}


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[HangingMount]:
    """At ``hung`` beside the table."""
    with mounting(tmp_path / "hung", dict(FILES)) as mount:
        yield mount


@pytest.fixture
def linked(mount: HangingMount, start: Start, tmp_path: Path) -> Running:
    """A gateway whose table is there."""
    mount.files["mounts.yaml"] = f"{SERVER.format(tmp_path)}{SOON}mounts:\n{GOOD}"
    (tmp_path / "linked.yaml").symlink_to(mount.path / "mounts.yaml")
    return start(GOOD, options=("-c", str(tmp_path / "linked.yaml")))


def told(gateway: Running, target: str) -> str:
    return gateway.ask(target).rpartition(b"\r\n\r\n")[2].decode()


def start_with(start: Start, pool: str = "{}", mounts: str = MOUNTS) -> Running:
    gateway = start(mounts, f"{SOON}pools:\n  a: {pool}\n", telling=TELLING)
    wait_until(lambda: told(gateway, "/a") == "wombat", "the pool serves")
    return gateway


def begin(folder: Path, command: str, table: str = "mounts.yaml") -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "gateway", command, "-c", str(folder / table)],
        env=ENVIRON,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=2 * WAIT_SECONDS)
    finally:
        process.kill()
        process.wait()
    return process.returncode, out, err


def while_running(process: "subprocess.Popen[str]") -> Iterator[None]:
    """Again and again until it ends, which it has to."""
    deadline = time.monotonic() + WAIT_SECONDS
    while process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
            pytest.fail("it never ended")
        yield
        time.sleep(0.05)


# --- reloads and stops --------------------------------------------------------------------------


def test_a_reload_that_meets_one_fails_and_what_serves_keeps_serving(
    mount: HangingMount, start: Start
) -> None:
    gateway = start_with(start)
    before = gateway.children()
    mount.hang()
    asking = begin(gateway.folder, "reload")
    for _ in while_running(asking):
        assert gateway.control("status", patience_seconds=WAIT_SECONDS)["status"] == "ready"
        assert told(gateway, "/a") == "wombat"
    place = f"{gateway.folder}/mounts.yaml:11:48: mounts./a.env.KEY"
    assert finish(asking) == (2, "", f"{place}: {LATE}\n")
    assert gateway.control("status")["last_reload"]["messages"] == [f"{place}: {LATE}"]
    assert gateway.children() == before
    # a table that does without it is served while a thread still waits
    gateway.write_table(GOOD)
    wait_until(lambda: len(gateway.control("status")["mounts"]) == 1, "the edit is served")
    assert count_waiting(gateway.process.pid)
    assert gateway.end() == 0


def test_a_stop_does_not_wait_for_a_reload_that_waits_for_a_file(
    mount: HangingMount, start: Start
) -> None:
    gateway = start_with(start)
    mount.hang()
    asking = begin(gateway.folder, "reload")
    wait_until(lambda: count_waiting(gateway.process.pid) > 1, "it reads, beside the watch")
    assert gateway.end() == 0
    assert finish(asking) == (1, "", "gateway: the gateway stopped before the reload finished\n")


# --- the watch of files -------------------------------------------------------------------------


def test_other_files_are_watched_meanwhile_and_all_of_them_once_it_answers(
    mount: HangingMount, start: Start
) -> None:
    (mount.path.parent / "b.env").write_text("KEY=one\n")
    mounts = f"{MOUNTS}  /b: {{app: 'telling:app', pool: b}}\n"
    gateway = start_with(start, "{}\n  b: {env_file: b.env}", mounts)
    mount.hang()
    wait_until(lambda: count_waiting(gateway.process.pid), "it is looked at")
    gateway.write("b.env", "KEY=two\n")
    said = wait_until(lambda: gateway.control("status")["last_reload"], "the edit is noticed")
    assert said["messages"][0].endswith(f"mounts./a.env.KEY: {LATE}")
    # it waits for the folder, and the reload did for the table's secret
    assert count_waiting(gateway.process.pid) == 2
    mount.files["key"] = "quokka\n"
    mount.answer()
    wait_until(lambda: told(gateway, "/a") == "quokka", "the new secret is served")
    wait_until(lambda: told(gateway, "/b") == "two", "and so is the other file")
    assert count_waiting(gateway.process.pid) == 0


def test_a_table_that_hangs_is_waited_for_by_one_thread(
    mount: HangingMount, linked: Running
) -> None:
    mount.hang()
    pid = linked.process.pid
    wait_until(lambda: count_waiting(pid), "it is looked at")
    command = begin(linked.folder, "reload", "linked.yaml")
    for _ in while_running(command):
        assert linked.control("status", patience_seconds=WAIT_SECONDS)["status"] == "ready"
        assert count_waiting(pid) == 1
    assert finish(command) == (2, "", f"{linked.folder}/linked.yaml: {LATE}\n")
    mount.files["mounts.yaml"] += "  /more: 'good:app'\n"
    mount.answer()
    wait_until(lambda: len(linked.control("status")["mounts"]) == 2, "what was saved is served")
    mount.hang()
    assert linked.end() == 0


def test_a_folder_that_does_not_answer_hides_no_other(
    mount: HangingMount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_tasks, "MAX_SECONDS", SHORT)
    (tmp_path / "here").touch()
    here, key, python = (str(tmp_path / name) for name in ("here", "hung/key", "hung/python"))

    async def look_often() -> None:
        sight = Sight()
        assert (await sight.look([key, here, python])).keys() == {key, here, python}
        mount.hang()
        for _ in range(3):
            assert (await sight.look([key, here, python])).keys() == {here}
            assert await look_in_thread(python) is None
            assert await look_in_thread(here) is not None
        assert count_waiting(os.getpid()) == 2
        mount.answer()
        while len(await sight.look([key, here, python])) < 3:
            await asyncio.sleep(0.01)
        assert await look_in_thread(python) is not None

    asyncio.run(look_often())


# --- workers ------------------------------------------------------------------------------------


def test_a_worker_whose_directory_hangs_is_replaced_once_it_answers(
    mount: HangingMount, start: Start
) -> None:
    mounts = MOUNTS.replace("${file:hung/key}", "wombat").replace("telling:app", "mod:app")
    gateway = start_with(start, "{directory: hung}", mounts)
    mount.hang()
    [worker] = [
        each["workers"][0]["pid"]
        for each in gateway.control("status")["generations"]
        if each["pool"] == "a"
    ]
    os.kill(worker, signal.SIGKILL)
    why = "hung does not answer: is the file system that it is on reachable?"
    wait_until(lambda: why in gateway.log_text, "it cannot be replaced")
    assert b" 200 " in gateway.ask("/")[:15]
    assert gateway.control("status", patience_seconds=WAIT_SECONDS)["status"] == "ready"
    mount.answer()
    wait_until(lambda: b" 200 " in gateway.ask("/a")[:15], "it is replaced")
    mount.hang()
    assert gateway.end() == 0


# --- starts and commands ------------------------------------------------------------------------


def test_who_reads_the_table_says_what_was_waited_for(mount: HangingMount, tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(TELLING)
    mounts = "  /: {app: 'good:app', env: {A: '${file:hung/key}'}}\n"
    (tmp_path / "mounts.yaml").write_text(f"{SERVER.format(tmp_path)}mounts:\n{mounts}")
    assert finish(begin(tmp_path, "routes"))[::2] == (0, "")
    mount.hang()
    # all at a time
    commands = {name: begin(tmp_path, name) for name in ("serve", "check", "routes", "plan")}
    said = {name: finish(command) for name, command in commands.items()}
    for name in ("serve", "check", "routes"):
        assert said[name] == (2, "", f"{tmp_path}/mounts.yaml:7:33: mounts./.env.A: {LATE}\n")
    # it has to know of the table only where its gateway is
    code, _, err = said["plan"]
    assert code == 1
    assert err.startswith(f"gateway: no gateway answers at {tmp_path}/control.sock: ")


def test_a_gateway_is_stopped_by_a_table_that_names_a_file_that_hangs(
    mount: HangingMount, start: Start
) -> None:
    gateway = start_with(start)
    mount.hang()
    assert finish(begin(gateway.folder, "stop")) == (0, "stopped\n", "")
    assert gateway.process.wait(WAIT_SECONDS) == 0


DOORS = {
    "mounts./s.static": ("", "/s: {static: hung}"),
    "mounts./a.env.A": ("", "/a: {app: 'good:app', env: {A: '${file:hung/key}'}}"),
    "mounts./s.cache": ("", "/s: {static: here, cache: '${file:hung/key}'}"),
    "pools.a.env_file": ("env_file: hung/key", "/a: {app: 'good:app', pool: a}"),
    "pools.a.directory": ("directory: hung", "/a: {app: 'mod:app', pool: a}"),
    "pools.a.venv": ("venv: hung", "/a: {app: 'good:app', pool: a}"),
    "pools.a.python": ("python: hung/python", "/a: {app: 'good:app', pool: a}"),
    "pools.a.requirements": ("requirements: hung/key", "/a: {app: 'good:app', pool: a}"),
    "mounts./a": ("", "/a: 'linked.mod:app'"),
}


@pytest.mark.parametrize("place", DOORS)
def test_each_file_that_the_table_names_is_waited_for_in_the_same_way(
    mount: HangingMount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    pool, line = DOORS[place]
    (tmp_path / "good.py").touch()
    (tmp_path / "here").mkdir()
    (tmp_path / "linked").symlink_to("hung")
    table = tmp_path / "mounts.yaml"
    table.write_text(f"pools:\n  a: {{{pool}}}\nmounts:\n  {line}\n")
    mount.files["key"] = "5s"
    if "venv" not in pool:  # there is none
        assert read_table(table).mounts
    mount.hang()
    monkeypatch.setattr(file_tasks, "MAX_SECONDS", SHORT)
    with pytest.raises(ConfigError, match=f": {place}: could not be read within 1 s: is the "):
        read_table(table)


def test_readings_that_wait_are_bounded(
    mount: HangingMount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = mount.path / "mounts.yaml"
    mount.files["mounts.yaml"] = (
        "mounts:\n  /: {redirect: 'https://a.example', max_body: '${file:key}'}\n"
    )
    mount.files["key"] = "1MB"
    assert read_table(table).mounts
    mount.hang()
    monkeypatch.setattr(file_tasks, "MAX_SECONDS", SHORT)
    with ThreadPoolExecutor(MAX_READS) as others:
        for late in [others.submit(read_table, table) for _ in range(MAX_READS)]:
            with pytest.raises(ConfigError, match="could not be read within"):
                late.result()
    with pytest.raises(ConfigError, match=f"{MAX_READS} readings of the table still wait for"):
        read_table(table)
    assert count_waiting(os.getpid()) == MAX_READS
    mount.answer()
    wait_until(lambda: count_waiting(os.getpid()) == 0, "all have their answer")
    assert wait_until(lambda: read_or_none(table), "it is read")


def read_or_none(table: Path) -> object:
    try:
        return read_table(table)
    except ConfigError:
        return None


# --- work in a thread of its own ----------------------------------------------------------------


def test_what_touches_no_file_may_take_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_tasks, "MAX_SECONDS", 0.0)

    def work() -> str:
        with touching(lambda: "a file"):
            pass
        time.sleep(3 * file_tasks.LOOK_SECONDS)
        return "done"

    assert FileTask(work).wait() == asyncio.run(FileTask(work).finish()) == "done"


def test_many_files_may_take_longer_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_tasks, "MAX_SECONDS", 3 * file_tasks.LOOK_SECONDS)

    def work() -> str:
        for _ in range(5):
            with touching(lambda: "a file"):
                time.sleep(1.1 * file_tasks.LOOK_SECONDS)
        return "done"

    assert FileTask(work).wait() == "done"


def test_what_it_raises_is_raised() -> None:
    def work() -> None:
        raise KeyError("this")

    for wait in (FileTask(work).wait, lambda: asyncio.run(FileTask(work).finish())):
        with pytest.raises(KeyError, match="this"):
            wait()


def test_what_is_asked_again_waits_for_the_same(mount: HangingMount) -> None:
    path = mount.path / "key"
    assert run_once("again", path.exists).wait_briefly(otherwise=False)
    mount.hang()
    first = run_once("again", path.exists)
    assert not first.wait_briefly(otherwise=False)
    assert run_once("again", path.exists) is first
    began = time.monotonic()
    for _ in range(100):  # what is known to hang is not waited for again
        assert not first.wait_briefly(otherwise=False)
    assert time.monotonic() - began < 100 * file_tasks.BRIEF_SECONDS
    assert run_once("other", bool) is not first
    mount.answer()
    assert first.wait()
    assert run_once("again", path.exists) is not first


def test_the_place_is_named(mount: HangingMount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_tasks, "MAX_SECONDS", 0.0)
    mount.hang()

    def work() -> bool:
        with touching(lambda: "the key"):
            return (mount.path / "key").exists()

    with pytest.raises(UnreachableError, match="the key: could not be read within 0 s: ") as late:
        FileTask(work).wait()
    assert late.value.place == "the key"
