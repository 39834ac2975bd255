"""What is kept for a greenlet in a process whose threads are greenlets."""

import subprocess
import sys
from pathlib import Path

PATCHED = """
from gevent import monkey
monkey.patch_all()
import gc, gevent, threading, time, weakref
from gevent import get_hub
from gateway.http.wire.greenlets import GreenletPool
class Kept: pass
class Job:
    def run(self, runner, now):
        kept.thing = Kept()
        alive.add(kept.thing)
        names.add(threading.current_thread().name)
        time.sleep(0.01)
        return time.monotonic()
kept, alive, names, pool = threading.local(), weakref.WeakSet(), set(), GreenletPool()
timer = get_hub().loop.timer(0)
timer.start(lambda: [pool.submit(Job()) for _ in range(20)])
while len(pool._parked) < 20: time.sleep(0.001)
print(len(alive), len(names), threading.active_count() - 1)
get_hub().loop.run_callback(pool.sweep, time.monotonic() + 1000)
gevent.idle()
print(len(alive), len(pool._parked), threading.active_count() - 1)
"""


def test_thread_locals_of_a_patched_process_go_too() -> None:
    """With what ``threading`` notes of each greenlet that asked which thread it is."""
    told = subprocess.run(
        [sys.executable, "-c", PATCHED],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert told.stdout.split("\n")[:2] == ["20 20 20", "0 0 0"]
    assert told.stderr == ""
