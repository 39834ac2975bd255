"""What an app writes on its worker's control socket costs that worker alone, and is in the log."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import Running, wait_until

from gateway.supervisor.report_lines import read_report

Start = Callable[..., Running]
MOUNT = {"mount": "/", "error": "no", "traceback": ""}
REPORTS: list[dict[str, Any]] = [
    {"event": "loading", "mount": "/"},
    {"event": "noted", "mount": "", "text": "its import has changed the umask"},
    {"event": "loaded", "mounts": []},
    {"event": "loaded", "mounts": [MOUNT, {**MOUNT, "is_loaded": True}]},
    {"event": "prepared", "mounts": [MOUNT]},
    {"event": "found", "paths": ["/a.py"]},
    {"event": "drained", "cut": 2},
    {"event": "ready"},
]
NO_REPORTS: list[Any] = [
    *(None, 1, "ready", [], {}, {"event": None}, {"event": ["ready"]}, {"event": "unheard of"}),
    *({"event": "loading"}, {"event": "loading", "mount": 1}, {"event": "noted", "mount": "/"}),
    *({"event": "loaded"}, {"event": "loaded", "mounts": {}}, {"event": "loaded", "mounts": [1]}),
    *({"event": "loaded", "mounts": [{"mount": "/"}]},),
    *({"event": "prepared", "mounts": [{**MOUNT, "error": 1}]}, {"event": "drained", "cut": "2"}),
    *({"event": "found", "paths": [1]}, {"event": "found", "paths": "/a.py"}),
]


@pytest.mark.parametrize("report", REPORTS, ids=json.dumps)
def test_a_report_is_read(report: dict[str, Any]) -> None:
    assert read_report(json.dumps(report).encode() + b"\n") == report


@pytest.mark.parametrize(
    "line",
    [
        *(json.dumps(report).encode() for report in NO_REPORTS),
        *(b"", b"{", b"\xff\xfe", b"\0" * 10, b"[" * 100_000, b'{"event": "ready"} {'),
    ],
    ids=lambda line: repr(line[:40]),
)
def test_what_is_no_report_is_not_believed(line: bytes) -> None:
    with pytest.raises(ValueError, match="no"):
        read_report(line)


# --- a whole gateway --------------------------------------------------------------------------

# an app finds the socket by its kind: the one Unix socket of its worker that is connected
HOSTILE = """
import array, glob, os, socket

def find():
    for name in map(int, os.listdir("/proc/self/fd")):
        try:
            found = socket.socket(fileno=os.dup(name))
            if found.family == socket.AF_UNIX and found.type == socket.SOCK_STREAM:
                found.getpeername()
                if not found.getsockname():
                    return found
        except OSError:
            pass

def app(environ, start_response):
    start_response("200 OK", [])
    what = environ["QUERY_STRING"]
    if what:
        control = find()
        lines = {"junk": b"junk\\n", "kind": b'{"event": 1}\\n', "name": b'{"event": "x"}\\n',
                 "deep": b"[" * 100000 + b"\\n", "long": b"x" * (25 << 20),
                 "mounts": b'{"event": "loaded", "mounts": [{}]}\\n'}
        control.setblocking(True)
        if what == "files":
            files = array.array("i", [os.open("/dev/null", os.O_RDONLY) for _ in range(50)])
            control.sendmsg([b"junk\\n"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
        else:
            control.sendall(lines[what])
    return [str(os.getpid()).encode()]
"""


def read_pid(answer: bytes) -> int:
    return int(answer.rpartition(b"\r\n")[2]) if b" 200 " in answer[:20] else 0


def ask(gateway: Running, target: str) -> int:
    """The worker that has answered; 0 for none, since it ended meanwhile."""
    try:
        return read_pid(gateway.ask(target))
    except OSError:
        return 0


def count_descriptors(gateway: Running) -> int:
    """Of the supervisor, but for the memory of workers, which it looks at for a while."""
    links = Path(f"/proc/{gateway.process.pid}/fd").iterdir()
    return sum("gateway-inflight" not in str(link.readlink()) for link in links)


@pytest.mark.parametrize("what", ["junk", "kind", "name", "deep", "mounts", "long", "files"])
def test_the_worker_is_replaced_and_the_log_says_why(start: Start, what: str) -> None:
    gateway = start("  /: good:app\n  /h: {app: 'hostile:app', pool: own}\n", hostile=HOSTILE)
    pid = wait_until(lambda: ask(gateway, "/h"), "the pool answers")
    others = gateway.children() - {pid}
    descriptors = count_descriptors(gateway)
    ask(gateway, f"/h?{what}")
    wait_until(lambda: ask(gateway, "/h") not in (0, pid), "another worker answers")
    assert f"worker {pid} sent an invalid report" in gateway.log_text
    assert gateway.control("status")["status"] == "ready"
    assert others < gateway.children()
    wait_until(lambda: count_descriptors(gateway) <= descriptors, "what came with it is closed")
    assert "Traceback" not in gateway.log_text


def test_one_that_dies_in_the_middle_of_a_report_is_replaced(start: Start) -> None:
    gateway = start()
    [pid] = gateway.children()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: gateway.children() - {pid}, "another worker runs")
    assert "sent an invalid report" not in gateway.log_text
