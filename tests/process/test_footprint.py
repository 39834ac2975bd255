"""What an app's import changes for its whole process is undone, or reported with its mount.

In processes of their own: a test may not change these things for the others.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import ENVIRON, Running, wait_until

from gateway.mounts import footprint

Start = Callable[..., Running]
Check = Callable[..., tuple[int, str, str]]

# an app that says what it finds, imported behind the one that changes it
LOOK = """
import asyncio, gc, json, locale, logging, os, select, signal, socket, sys, time, warnings
import _thread
umask = [line for line in open("/proc/self/status") if line.startswith("Umask")]
handlers = [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE)]
found = {
    "umask": umask,
    "cwd": os.getcwd(),
    "open": [os.path.exists(f"/proc/self/fd/{n}") for n in (0, 1, 2)],
    "streams": [type(s).__module__ for s in (sys.stdin, sys.stdout, sys.stderr)],
    "stdin": sys.stdin.closed,
    "signals": handlers,
    "deep": sys.getrecursionlimit() >= 1000,
    "timeout": socket.getdefaulttimeout(),
    "gc": gc.isenabled(),
    "errors": [f[0] for f in warnings.filters if f[0] == "error"],
    "disabled": logging.getLogger("first").disabled,
    "disable": logging.root.manager.disable,
    "handlers": len(logging.root.handlers),
    "policy": type(asyncio.events._event_loop_policy).__module__,
    "patched": [f.__module__ for f in (time.sleep, socket.socket, _thread.start_new_thread)],
    "path": [entry for entry in sys.path if "lib" in entry],
}
text = json.dumps(found, sort_keys=True)
def app(environ, start_response):
    start_response("200 OK", [])
    return [text.encode()]
"""
FIRST = """
import logging
logging.getLogger("first").info("made")
logging.root.addHandler(logging.NullHandler())
def app(environ, start_response): return []
"""
APP = "\ndef app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'x']\n"

UNDONE = {
    "import os; os.umask(0o077)": "the umask (077)",
    "import os; os.chdir('/')": "the working directory (/)",
    "import sys, io; sys.stdout = io.StringIO()": "the standard streams",
    "import sys; sys.stdin.close()": "the standard streams",
    "import signal; signal.signal(signal.SIGPIPE, signal.SIG_DFL)": "signal handlers (SIGPIPE)",
    "import signal; signal.signal(signal.SIGINT, print); signal.signal(signal.SIGHUP, print)": (
        "signal handlers (SIGHUP, SIGINT)"
    ),
    "import sys; sys.setrecursionlimit(200)": "the recursion limit (200)",
    "import socket; socket.setdefaulttimeout(5)": "socket.setdefaulttimeout() (5 s)",
    "import gc; gc.disable()": "the garbage collection, off",
    "import warnings; warnings.simplefilter('error')": "warnings, made errors",
    "import logging.config; logging.config.dictConfig({'version': 1})": (
        "loggers of others, disabled ("
    ),
    "import logging; logging.disable(50)": "logging.disable()",
    "import logging; logging.root.handlers.clear()": "the root logger's handlers, removed",
    "import asyncio\nclass P(asyncio.DefaultEventLoopPolicy): ...\n"
    "asyncio.set_event_loop_policy(P())": "asyncio's event loop policy (changes.P)",
    "import time; time.sleep = print": "the standard library, patched (time.sleep)",
    "import _thread; _thread.start_new_thread = print": (
        "the standard library, patched (_thread.start_new_thread)"
    ),
    "import sys; sys.path[:] = sys.path[:1]": "sys.path, without ",
}
LEFT = {
    "import os, time; os.environ['TZ'] = 'America/Chicago'; time.tzset()": (
        "the time zone (now America/Chicago)"
    ),
    "import locale; locale.setlocale(locale.LC_ALL, 'C.UTF-8')": "the locale (C.UTF-8)",
    "import sys; sys.path.insert(0, 'other')": (
        "sys.path (other first, which hides the module look of another app)"
    ),
    "import os; os.dup2(os.open('/dev/zero', os.O_RDONLY), 0)": (
        "where the standard descriptors lead"
    ),
    "import logging; logging.root.handlers[:] = [logging.NullHandler()]": (
        "the root logger's handlers, replaced"
    ),
}
HARMLESS = [
    "import os; os.umask(os.umask(0)); os.environ['X'] = 'y'",
    "import sys; sys.path.append('elsewhere'); sys.path.insert(0, 'nowhere')",
    "import sys; sys.setrecursionlimit(20000)",
    "import warnings; warnings.simplefilter('ignore'); "
    "warnings.filterwarnings('error', module='mine')",
    "import logging; logging.basicConfig(); logging.getLogger('own').disabled = True",
    "import logging.config; logging.config.dictConfig({'version': 1,"
    " 'disable_existing_loggers': False})",
    "import asyncio; asyncio.get_event_loop_policy()",
    "import os, time; os.environ['TZ'] = 'UTC'; time.tzset()",
    "import signal; signal.signal(signal.SIGUSR1, signal.SIG_IGN)",
    "import gevent.monkey; gevent.monkey.patch_all()",
    "import threading; threading.Thread(target=int).start()",
]
TABLE = "mounts:\n  /first: first:app\n  /changes: changes:app\n  /look: look:app\n"


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """``gateway check`` of a table: exit code, stdout, stderr."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other/look.py").write_text("1 / 0")

    def check(changes: str, look: str = LOOK, table: str = TABLE) -> tuple[int, str, str]:
        modules = {"first": FIRST, "changes": changes + APP, "look": look}
        for name, text in {**modules, "mounts.yaml": table}.items():
            file = name if "." in name else f"{name}.py"
            (tmp_path / file).write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "gateway", "check", "-c", "mounts.yaml"],
            cwd=tmp_path,
            env={**ENVIRON, "TZ": "UTC", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return check


# what it finds, it says by failing
SAY = LOOK + "raise RuntimeError(text)"


def find(told: str) -> dict[str, Any]:
    line = next(line for line in told.splitlines() if line.startswith("RuntimeError: "))
    found: dict[str, Any] = json.loads(line.removeprefix("RuntimeError: "))
    return found


@pytest.mark.parametrize("changes", UNDONE)
def test_what_could_cost_others_an_answer_is_undone(check: Check, changes: str) -> None:
    _, _, before = check("", SAY)
    code, _, told = check(changes, SAY)
    assert find(told) == find(before)
    [line] = [line for line in told.splitlines() if "its import" in line]
    assert (
        f"mounts.yaml:3:3: mounts./changes: what its import changed was undone: {UNDONE[changes]}"
        in line
    )
    assert line.endswith('(with "pool: own" it keeps such changes to itself)')
    assert "its import" not in before
    assert code == 3


@pytest.mark.parametrize("changes", LEFT)
def test_what_the_app_itself_needs_is_left_and_reported(check: Check, changes: str) -> None:
    code, out, told = check(changes, APP)
    place = "mounts.yaml:3:3: mounts./changes: its import changes for every app of this process "
    [line] = [line for line in told.splitlines() if "its import" in line]
    assert f"{place}{LEFT[changes]} (with " in line
    assert (code, out) == (3 if "other" in changes else 0, out)


@pytest.mark.parametrize("changes", HARMLESS)
def test_what_disturbs_nobody_is_not_mentioned(check: Check, changes: str) -> None:
    assert check(changes) == (0, "mounts.yaml: 3 mounts, no problems\n", "")


@pytest.mark.parametrize("changes", [*UNDONE, *LEFT])
def test_in_a_pool_of_its_own_an_app_does_what_it_likes(check: Check, changes: str) -> None:
    table = TABLE.replace("changes:app", "{app: changes:app, pool: own}")
    code, _, told = check(changes, table=table)
    assert code == 0
    needed = ("signal handlers", "recursion", "setdefaulttimeout")
    if changes in UNDONE and any(word in UNDONE[changes] for word in needed):
        assert told.count("its import") == 1
        assert "pool: own" not in told
    else:
        assert told == ""


def test_an_app_that_does_not_load_leaves_nothing_behind(check: Check) -> None:
    _, _, before = check("", SAY)
    _, _, told = check("import os\nos.umask(0o077)\n1 / 0", SAY)
    assert find(told) == find(before)
    assert "the umask (077)" in told


@pytest.mark.parametrize("tail", ["", "\nif not child: raise SystemExit(0)", "\n1 / 0"])
def test_a_child_that_an_import_forks_does_not_come_back(check: Check, tail: str) -> None:
    code, out, told = check(f"import os\nchild = os.fork()\nif child: os.waitpid(child, 0){tail}")
    if "1 / 0" in tail:
        assert (code, told.count("ZeroDivisionError: division by zero\n")) == (3, 2)
    else:
        assert (code, out, told) == (0, "mounts.yaml: 3 mounts, no problems\n", "")


def test_a_child_that_ends_before_its_parent_goes_on_is_not_waited_for_in_vain(
    check: Check,
) -> None:
    code, out, told = check(
        "import os, gevent.monkey\n"
        "sleep = gevent.monkey.get_original('time', 'sleep')\n"
        "os.register_at_fork(after_in_parent=lambda: sleep(0.5))\n"
        "child = os.fork()\n"
        "if not child: os._exit(0)\n"
        "os.waitpid(child, 0)"
    )
    assert (code, out, told) == (0, "mounts.yaml: 3 mounts, no problems\n", "")


def test_a_gateway_reports_it_once_for_all_its_workers(start: Start) -> None:
    chicago = "import os, time; os.environ['TZ'] = 'America/Chicago'; time.tzset()"
    forks = "import os\nos.fork()"
    gateway = start(
        "  /: good:app\n  /a: changes:app\n  /b: forks:app\n",
        server="  workers: 2\n",
        changes=chicago + APP,
        forks=forks + APP,
    )
    wait_until(lambda: "the time zone" in gateway.log_text, "it is reported")
    wait_until(lambda: len(gateway.children()) == 2, "both workers run")
    [entry] = [json.loads(line) for line in gateway.log_text.splitlines() if "time zone" in line]
    assert entry["message"].startswith(f"{gateway.folder}/mounts.yaml:8:3: mounts./a: its import")
    assert (entry["level"], entry["mount"]) == ("warning", "/a")
    assert gateway.ask("/a").endswith(b"x")
    assert gateway.ask("/b").endswith(b"x")
    assert gateway.control("status")["mounts"][1]["state"] == "serving"
    # every record's time stays UTC
    assert {record["time"][-1] for record in gateway.records} == {"Z"}
    assert gateway.end() == 0


def test_a_path_that_has_lost_its_first_entry_hides_no_module(tmp_path: Path) -> None:
    first, other = tmp_path / "first", tmp_path / "other"
    for folder in (first, other):
        folder.mkdir()
        (folder / "look.py").touch()
    find = footprint._finder_of_shadows({"look"})
    assert find([str(first)], []) == ""
    assert find([str(first)], [str(other)]) == ""
    assert str(other) in find([str(first)], [str(other), str(first)])
