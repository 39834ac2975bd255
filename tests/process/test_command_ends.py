"""What a command has started ends with its gateway, however that ends and whatever the command does
about signals."""

import os
import pwd
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from running import ENVIRON, SERVER, Running, wait_until

from gateway.supervisor.processes.groups import Groups

# ``tree.py SOCKET LEADER CHILD``: what each makes of SIGTERM, "ignores", "notes" or "ends"
TREE = """
import http.server, pathlib, signal, socketserver, subprocess, sys

where, leader, child = sys.argv[1:]
if child == "ignores":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # also where another program is executed
# nobody reads any more what it writes to its log
note = "exec 2> /dev/null; trap 'echo ended > noted; exit' TERM; echo > begun; "
note += "while :; do sleep 0.05; done"
command = ["sh", "-c", note] if child == "notes" else ["sleep", "300"]
subprocess.Popen(command, cwd=pathlib.Path(__file__).parent)
signal.signal(signal.SIGTERM, signal.SIG_IGN if leader == "ignores" else signal.SIG_DFL)

class Handler(http.server.BaseHTTPRequestHandler):
    def address_string(self):
        return "gateway"
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *said):
        pass

server = socketserver.UnixStreamServer(where, Handler)
signal.alarm(300)
server.serve_forever()
"""
Serve = Callable[..., tuple[Running, int]]
SETTINGS = "  reload_on_edit: false\n  drain_timeout: {0}s\n"
MOUNTS = "  /: good:app\n  /tree: {upstream: 'pool:tree'}\n"


def describe_pool(leader: str, child: str, more: str = "") -> str:
    command = f"/usr/bin/python3 tree.py {{socket}} {leader} {child}"
    return f"pools:\n  tree: {{command: '{command}'{more}}}\n"


def find_members(group: int) -> set[int]:
    """The processes of a group that run."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            words = read(int(entry.name), "stat").rpartition(b")")[2].split()
            if words and int(words[2]) == group and words[0] not in b"ZX":
                found.add(int(entry.name))
    return found


def find_killers(parent: int) -> list[int]:
    """Those children of a process that end its groups."""
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [pid for pid in map(int, text.split()) if b"group_killer.py" in read(pid, "cmdline")]


def read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def is_running(pid: int) -> bool:
    """What nobody has collected is not."""
    return read(pid, "stat").rpartition(b")")[2].split()[:1] not in ([], [b"Z"])


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that any user may look into, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        (path / "tree.py").write_text(TREE)
        yield path


@pytest.fixture
def groups() -> Iterator[set[int]]:
    """Whatever a test has found, none of it stays."""
    found: set[int] = set()
    yield found
    for group in found:
        if find_members(group):
            os.killpg(group, signal.SIGKILL)


@pytest.fixture
def serve(folder: Path, groups: set[int]) -> Iterator[Serve]:
    """Starts a gateway; the group of its command is found once both its processes run."""
    started = []

    def begin(pool: str, grace: float = 0.3) -> tuple[Running, int]:
        gateway = Running(folder, MOUNTS, SETTINGS.format(grace) + pool)
        started.append(gateway)
        group = find_command(gateway)
        groups.add(group)
        wait_until(lambda: len(find_members(group)) >= 2, "the command's own child runs")
        return gateway, group

    yield begin
    for gateway in started:
        gateway.end()


def find_command(gateway: Running) -> int:
    def find() -> Any:
        for generation in gateway.control("status")["generations"]:
            for worker in generation["workers"]:
                if generation["pool"] == "tree" and worker["state"] == "ready":
                    return worker["pid"]
        return 0

    return int(wait_until(find, "the command answers"))


def kill(gateway: Running) -> None:
    gateway.process.kill()
    gateway.process.wait()


# --- a supervisor that is killed ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("leader", "child", "user"),
    [
        ("ignores", "ends", ""),
        ("ends", "ignores", ""),
        ("ignores", "ignores", ""),
        ("ignores", "ignores", ", user: nobody"),
    ],
)
def test_all_that_a_command_has_started_ends_with_a_killed_supervisor(
    serve: Serve, leader: str, child: str, user: str
) -> None:
    if user and os.geteuid():
        pytest.skip("only root may start processes as another user")
    gateway, group = serve(describe_pool(leader, child, user))
    if user:
        owner = Path(f"/proc/{group}").stat().st_uid
        assert owner == pwd.getpwnam("nobody").pw_uid
    killers = find_killers(gateway.process.pid)
    kill(gateway)
    wait_until(lambda: not find_members(group), "the whole group has ended", 10)
    assert len(killers) == 1
    wait_until(lambda: not is_running(killers[0]), "so has what ended it")


def test_what_it_has_started_may_end_in_an_orderly_way(serve: Serve, folder: Path) -> None:
    gateway, group = serve(describe_pool("ends", "notes"), 15)
    wait_until((folder / "begun").exists, "it can note its end")
    kill(gateway)
    wait_until(lambda: not find_members(group), "the whole group has ended")
    assert (folder / "noted").read_text() == "ended\n"


def test_signals_that_all_get_do_not_end_who_is_to_end_the_others(serve: Serve) -> None:
    gateway, group = serve(describe_pool("ignores", "ignores"))
    [killer] = find_killers(gateway.process.pid)
    # as a closed terminal, Ctrl-C and the stop of a service do
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        wait_until(lambda n=number: ignores(killer, n), "it has begun")
        os.kill(killer, number)
    assert os.getsid(killer) == killer
    kill(gateway)
    wait_until(lambda: not find_members(group), "the whole group has ended")


def ignores(pid: int, number: int) -> bool:
    [mask] = [line for line in read(pid, "status").splitlines() if line.startswith(b"SigIgn:")]
    return bool(int(mask.split()[1], 16) & 1 << number - 1)


def test_where_it_is_killed_itself_another_takes_its_place(serve: Serve) -> None:
    gateway, group = serve(describe_pool("ignores", "ignores"))
    [killer] = find_killers(gateway.process.pid)
    os.kill(killer, signal.SIGKILL)
    [other] = wait_until(
        lambda: [k for k in find_killers(gateway.process.pid) if k != killer], "another runs"
    )
    assert "is started again" in gateway.log_text
    kill(gateway)
    wait_until(lambda: not find_members(group), "the whole group has ended")
    wait_until(lambda: not is_running(other), "so has what ended it")


def test_it_has_nothing_of_the_gateways_but_what_it_needs(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENVIRON, "SECRET", "do not tell")
    gateway, _ = serve(describe_pool("ends", "ends"))
    [killer] = find_killers(gateway.process.pid)
    opened = Path(f"/proc/{killer}/fd")
    kinds = sorted(str(each.readlink()).partition(":")[0] for each in opened.iterdir())
    assert kinds == ["/dev/null", "/dev/null", "/memfd", "pipe"]
    assert b"SECRET" not in read(killer, "environ")
    assert Path(f"/proc/{killer}/cwd").readlink() == Path("/")
    assert gateway.end() == 0


# --- a gateway that stops -----------------------------------------------------------------------


@pytest.mark.parametrize(("leader", "child"), [("ends", "ignores"), ("ignores", "ignores")])
def test_nothing_of_it_outlives_a_stop(serve: Serve, leader: str, child: str) -> None:
    gateway, group = serve(describe_pool(leader, child))
    killers = find_killers(gateway.process.pid)
    assert gateway.end() == 0
    assert not find_members(group)
    assert not any(map(is_running, killers))
    assert len(killers) == 1
    assert "Traceback" not in gateway.log_text


def test_a_gateway_without_commands_has_no_process_for_them(folder: Path) -> None:
    gateway = Running(folder, server=SETTINGS.format(1))
    assert find_killers(gateway.process.pid) == []
    assert gateway.end() == 0


def test_a_check_that_is_killed_leaves_nothing(folder: Path, groups: set[int]) -> None:
    held = TREE.replace("server.serve_forever()", "", 1).replace(
        "server = ", "signal.pause()\nserver = "
    )
    (folder / "tree.py").write_text(held)
    (folder / "good.py").write_text("def app(environ, start_response): ...\n")
    table = SERVER.format(folder) + SETTINGS.format(0.3) + describe_pool("ignores", "ignores")
    (folder / "mounts.yaml").write_text(f"{table}mounts:\n{MOUNTS}")
    command = [sys.executable, "-m", "gateway", "check", "--start"]
    with subprocess.Popen(
        [*command, "-c", str(folder / "mounts.yaml")], env=ENVIRON, stderr=subprocess.DEVNULL
    ) as check:
        try:
            group = wait_until(lambda: find_tree(check.pid), "the command runs")
            groups.add(group)
            wait_until(lambda: len(find_members(group)) == 2, "so does its child")
        finally:
            check.kill()
    wait_until(lambda: not find_members(group), "the whole group has ended")


def find_tree(parent: int) -> int:
    children = read(parent, f"task/{parent}/children").split()
    found = [int(pid) for pid in children if b"\0tree.py\0" in read(int(pid), "cmdline")]
    return found[0] if found else 0


# --- which groups -------------------------------------------------------------------------------


def test_a_group_that_was_taken_off_is_left_alone(groups: set[int]) -> None:
    """Its number may be another's by then."""
    kept = Groups()
    processes = [subprocess.Popen(["sleep", "300"], process_group=0) for _ in range(3)]
    groups.update(process.pid for process in processes)
    first, second, third = processes
    for process in processes:
        kept.keep_watch()
        kept.add(process.pid, 0.1)
    kept.remove(second.pid)
    kept.remove(second.pid)  # more than one may say so
    kept.close()
    assert first.wait() < 0
    assert third.wait() < 0
    assert second.poll() is None
    second.kill()
    second.wait()


def test_what_was_one_groups_place_is_the_next_ones(groups: set[int]) -> None:
    kept = Groups()
    processes = [subprocess.Popen(["sleep", "300"], process_group=0) for _ in range(2)]
    groups.update(process.pid for process in processes)
    for process in processes:
        kept.keep_watch()
        kept.add(process.pid, 0.1)
        kept.remove(process.pid)
    kept.add(processes[1].pid, 0.1)
    kept.close()
    assert processes[1].wait() < 0
    assert processes[0].poll() is None
    processes[0].kill()
    processes[0].wait()
