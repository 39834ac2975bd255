"""The end of a worker: what apps have left running does not keep it; exit handlers run."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from running import APP, Running, wait_until

Start = Callable[..., Running]
POOLS = [
    "  /: good:app\n  /a: left:app\n",
    "  /: good:app\n  /a: {app: 'left:app', pool: own}\n",
    "  /: good:app\n  /a: {app: 'left:app', pool: a}\npools: {a: {concurrency: threads}}\n",
]
# what is left, and whether the log is to say so
LEFT = {
    "a loop": ("threading.Thread(target=loop, name='poller').start()", True),
    "a wait": ("threading.Thread(target=threading.Event().wait, name='poller').start()", True),
    "a daemon": ("threading.Thread(target=loop, daemon=True).start()", False),
    "an idle executor": ("pool = ThreadPoolExecutor(); pool.submit(int).result()", False),
    "a busy executor": ("ThreadPoolExecutor(1, 'poller').submit(loop)", True),
    "one that ends": ("threading.Thread(target=time.sleep, args=(0.2,)).start()", False),
    "nothing": ("pass", False),
}
MODULE = """
import atexit, pathlib, threading, time
from concurrent.futures import ThreadPoolExecutor

def loop():
    while True:
        time.sleep(0.01)

LEFT
atexit.register(pathlib.Path(__file__).with_name("ended").touch)
atexit.register(print, "the last words")
"""


def find_worker(gateway: Running) -> int:
    """The pid of the worker of /a."""
    return int(gateway.ask("/a/pid").rpartition(b"\r\n")[2])


PID_APP = APP.replace('environ["gateway.generation"]', 'str(__import__("os").getpid())')


@pytest.mark.parametrize("mounts", POOLS, ids=["front", "own", "threads"])
@pytest.mark.parametrize("left", LEFT)
def test_a_worker_ends_whatever_apps_have_left(start: Start, mounts: str, left: str) -> None:
    code, is_said = LEFT[left]
    # a worker that has to be killed is so after 32 s, which is longer than this test waits
    gateway = start(mounts, left=MODULE.replace("LEFT", code) + PID_APP)
    pid = wait_until(lambda: b" 200 " in gateway.ask("/a") and find_worker(gateway), "it serves")
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "it has ended")
    assert (gateway.folder / "ended").exists()
    wait_until(lambda: "the last words" in gateway.log_text, "its prints are in the log")
    said = "threads that apps have started are still running: poller"
    assert (said in gateway.log_text) == is_said
    assert gateway.end() == 0


def test_an_exit_handler_that_hangs_is_ended_and_named(start: Start) -> None:
    hanging = (
        "import atexit, time\n\ndef never():\n    time.sleep(3600)\n\natexit.register(never)\n"
    )
    gateway = start("  /: left:app\n", left=hanging + PID_APP)
    pid = int(gateway.ask("/pid").rpartition(b"\r\n")[2])
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "it has ended")
    assert "in never" in gateway.log_text or "Timeout" in gateway.log_text
