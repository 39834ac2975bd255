"""What an app writes on its worker's control socket costs that worker alone, and is in the log."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from running import Running, wait_until

from gateway.config.model import Config, Mount, RedirectTarget, ServerSettings, Where
from gateway.limits import MountLimits
from gateway.supervisor.processes.expected import ANSWERS, Expected
from gateway.supervisor.processes.report_lines import read_report

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


# --- in which order ---------------------------------------------------------------------------

CONFIG = Config(
    "mounts.yaml",
    Path("/nowhere"),
    ServerSettings(),
    (Mount("/", None, "", RedirectTarget(location="/new"), MountLimits(), Where(1, 1)),),
)
OTHER = replace(CONFIG, mounts=(replace(CONFIG.mounts[0], name="/other"),))
# "< word" is an order that it is given, all else an event that it reports
LOADED = ["loading", "noted", "loading", "loaded"]
SERVES = [*LOADED, "< accept", "ready"]
LEGAL = {
    "a life": [*SERVES, "< pause", "paused", "settled", "< accept", "ready", "< retire", "retired"],
    "an edit in place": [*SERVES, "< prepare", "prepared", "< apply", "applied", "noted"],
    "what others have loaded": [*SERVES, "< find", "found"],
    "a drain": [*SERVES, "drained", "settled"],
    # it is told to end while it loads: SIGTERM is obeyed once it has
    "an end while it loads": [*LOADED, "settled"],
    "orders that cross": [*LOADED, "< accept", "< pause", "< accept", "ready", "paused", "ready"],
    "an edit in place that a drain overtakes": [*SERVES, "< prepare", "prepared", "< apply"],
    "an answer on its way as it was told to retire": [*SERVES, "< find", "< retire", "found"],
    "orders that it does not answer": [*SERVES, "< quarantine", "< serve", "< put_off", "noted"],
}
ILLEGAL = {
    "an early ready": ["loading", "ready"],
    "ready before it was asked to be": [*LOADED, "ready"],
    "ready twice": [*SERVES, "ready"],
    "loaded twice": [*LOADED, "loaded"],
    "loading what it has loaded": [*LOADED, "loading"],
    "an early drain": ["loading", "drained"],
    "an early settled": ["loading", "settled"],
    **{f"{event} unasked": [*SERVES, event] for event in ANSWERS},
    "an answer to another order": [*SERVES, "< find", "prepared"],
    "one answer too many": [*SERVES, "< prepare", "prepared", "prepared"],
    "a ready of one that was paused": [*SERVES, "< pause", "paused", "ready"],
}


def hear(conversation: list[str]) -> None:
    expected = Expected(CONFIG)
    for line in conversation:
        if line.startswith("< "):
            expected.note_order(line[2:], CONFIG if line == "< prepare" else None)
        else:
            report: dict[str, Any] = {"event": line}
            report |= {"mount": "/"} if line in ("loading", "noted") else {}
            report |= {"mounts": [MOUNT]} if line in ("loaded", "prepared") else {}
            expected.take(report)


@pytest.mark.parametrize("conversation", LEGAL.values(), ids=LEGAL)
def test_what_a_worker_says_by_itself_is_expected(conversation: list[str]) -> None:
    hear(conversation)


@pytest.mark.parametrize("conversation", ILLEGAL.values(), ids=ILLEGAL)
def test_what_it_would_not_say_is_not(conversation: list[str]) -> None:
    hear(conversation[:-1])
    with pytest.raises(ValueError, match=r"which nobody has asked for|which it may send"):
        hear(conversation)


@pytest.mark.parametrize("event", ["loading", "noted", "loaded", "prepared"])
def test_it_names_no_mounts_but_its_own(event: str) -> None:
    """That it has now, or had before an edit in place: it may speak of one that has gone."""
    report = {"event": event, "mount": "/other", "mounts": [{**MOUNT, "mount": "/other"}]}
    expected = Expected(CONFIG)
    expected.note_order("prepare", CONFIG)
    with pytest.raises(ValueError, match="of a mount that it does not have"):
        expected.take(report)
    expected = Expected(CONFIG)
    expected.note_order("prepare", OTHER)
    expected.take(report)
    expected.take({"event": "noted", "mount": "/"})
    expected.take({"event": "noted", "mount": ""})


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
                 "mounts": b'{"event": "loaded", "mounts": [{}]}\\n',
                 "loaded": b'{"event": "loaded", "mounts": []}\\n',
                 "loading": b'{"event": "loading", "mount": ""}\\n',
                 "prepared": b'{"event": "prepared", "mounts": []}\\n',
                 "found": b'{"event": "found", "paths": []}\\n',
                 "other": b'{"event": "noted", "mount": "/", "text": "not its own"}\\n'}
        for name in ("ready", "applied", "paused", "retired"):
            lines[name] = b'{"event": "%s"}\\n' % name.encode()
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


JUNK = ["junk", "kind", "name", "deep", "mounts", "long", "files"]
UNASKED = ["loaded", "loading", "prepared", "found", "ready", "applied", "paused", "retired"]


@pytest.mark.parametrize("what", [*JUNK, *UNASKED, "other"])
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


EARLY = (
    HOSTILE
    + """
import pathlib
once = pathlib.Path(__file__).with_name("once")
if once.exists():
    line = once.read_bytes()
    once.unlink()
    find().sendall(line)
    import time
    time.sleep(60)
"""
)


@pytest.mark.parametrize("event", ["ready", "settled", "drained", "applied"])
def test_a_worker_that_says_so_as_it_loads_is_replaced(start: Start, event: str) -> None:
    gateway = start("  /: good:app\n  /h: {app: 'early:app', pool: own}\n", early=EARLY)
    pid = wait_until(lambda: ask(gateway, "/h"), "the pool answers")
    gateway.write("once", json.dumps({"event": event, "cut": 0}) + "\n")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: ask(gateway, "/h") not in (0, pid), "another worker answers")
    assert f"sent an invalid report, and is killed: {event}, which" in gateway.log_text
    assert gateway.control("status")["failed"] == 0


def test_a_worker_that_somebody_else_ends_is_believed(start: Start) -> None:
    gateway = start()
    [pid] = gateway.children()
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: gateway.children() and pid not in gateway.children(), "it is replaced")
    wait_until(gateway.is_ready, "another worker serves")
    assert "sent an invalid report" not in gateway.log_text


def test_reloads_and_rollbacks_in_a_row_are_no_reason_to_end_a_worker(start: Start) -> None:
    gateway = start("  /: good:app\n", "  reload_on_edit: false\n  workers: 2\n")
    for number in range(4):
        gateway.write_table(f"  /: good:app\n  /{number}: {{redirect: /}}\n")
        for command in ("reload", "rollback", "rollback"):
            assert gateway.control(command)["exit_code"] == 0
    assert "sent an invalid report" not in gateway.log_text
