"""What processes that apps start hold of their worker: no socket, and nothing of its secrets."""

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from running import Running, wait_until

Start = Callable[..., Running]
WAYS = {
    "a shell": "os.system(f'exec sleep 3600 & echo $! > {PID}')",
    "subprocess": "note(subprocess.Popen(['sleep', '3600'], close_fds=False).pid)",
    "fork and exec": "note(os.fork() or os.execvp('sleep', ['sleep', '3600']))",
    "fork": "note(os.fork() or signal.pause())",
    "multiprocessing": "start('fork')",
    "multiprocessing spawn": "start('spawn')",
}
MODULE = """
import multiprocessing, os, signal, subprocess, sys, time

PID = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pid")

def note(pid):
    with open(PID, "w") as file:
        file.write(f"{pid}\\n")

def start(how):
    process = multiprocessing.get_context(how).Process(target=time.sleep, args=(3600,))
    process.start()
    note(process.pid)

def run():
    WAY

IMPORTED
def app(environ, start_response):
    if environ["PATH_INFO"] == "/run":
        run()
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]
"""


def find_open(pid: int) -> set[str]:
    """What a process has open, by descriptor and what it is."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(link.readlink()))
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("when", ["imported", "asked"])
@pytest.mark.parametrize("threads", ["", "concurrency: threads"])
def test_a_child_holds_nothing_of_its_worker(
    start: Start, way: str, when: str, threads: str
) -> None:
    if way == "multiprocessing spawn" and when == "imported":
        pytest.skip("it imports its parent's module, which would start another one")
    code = MODULE.replace("WAY", WAYS[way])
    code = code.replace("IMPORTED", "run()" if when == "imported" else "")
    pool = f"pools:\n  p: {{{threads}}}\n"
    gateway = start("  /: {app: 'starter:app', pool: p}\n", pool, starter=code)
    worker = int(gateway.ask("/").rpartition(b"\r\n")[2])
    if when == "asked":
        assert b" 200 " in gateway.ask("/run")
    path = gateway.folder / "pid"
    child = int(wait_until(lambda: path.exists() and path.read_text().strip(), "it runs"))
    try:
        is_program = way in ("a shell", "subprocess", "fork and exec")
        wait_until(lambda: not is_program or is_sleep(child), "its program runs")
        # a child that is no program has a copy of all memory anyway
        kinds = ("socket:", "/memfd:") if is_program else ("socket:",)

        def find_shared() -> list[str]:
            shared = find_open(child) & find_open(worker)
            return [each for each in shared if each.startswith(kinds)]

        # its parent may go on before it does
        wait_until(lambda: not find_shared(), "it has let go")
        assert not [each for each in find_open(child) | find_open(worker) if is_order(each)]
        assert gateway.end() == 0
        assert Path(f"/proc/{child}").exists()
    finally:
        os.kill(child, signal.SIGKILL)


def is_sleep(pid: int) -> bool:
    return Path(f"/proc/{pid}/comm").read_text() == "sleep\n"


def is_order(link: str) -> bool:
    """Whether it is what a worker gets its configuration from."""
    return "gateway-config" in link
