"""Whatever an app does to the streams and to logging, the others keep their answers, their error
pages and their log lines."""

import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from running import Running, wait_until

from gateway.outlet import Outlet
from gateway.streams import OutletStream, duplicate

Start = Callable[..., Running]

# each as an app may have it at import, or in a request
BREAKERS = {
    "detached": "import codecs; sys.stdout = codecs.getwriter('utf-8')(sys.stdout.detach())",
    "both detached": "sys.stdout.detach(); sys.stderr.detach()",
    "closed": "sys.stdout.close(); sys.stderr.close()",
    "wrapped anew": "import io, gc; io.TextIOWrapper(sys.stderr.buffer, 'utf-8'); gc.collect()",
    "buffer detached": "sys.stderr.buffer.detach(); sys.stdout.buffer.raw.close()",
    "descriptors closed": "import os; [os.close(number) for number in (0, 1, 2)]",
    "redirected": "import os; os.dup2(os.open('/dev/null', os.O_RDWR), 2)",
    "dictConfig": "import logging.config; logging.config.dictConfig({'version': 1})",
    "gateway's own": "import logging.config; logging.config.dictConfig({'version': 1, 'loggers':"
    " {'gateway': {'level': 'CRITICAL', 'handlers': [], 'propagate': False},"
    " 'gateway.error': {'level': 'CRITICAL'}}})",
    "disabled": "import logging; logging.disable(logging.CRITICAL)",
    "shut down": "import logging; logging.shutdown()",
    "factory": "import logging; logging.setLogRecordFactory(lambda *a, **k: 1 / 0)",
    "level names": "import logging; logging.addLevelName(logging.ERROR, 'FEHLER')",
}
BREAKER = """
import sys
from urllib.parse import unquote
def app(environ, start_response):
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    exec(unquote(environ["QUERY_STRING"]), {"sys": sys})
    start_response("200 OK", [])
    return [b"broke it"]
"""
BOOM = """
import os, sys
def app(environ, start_response):
    mark = environ["QUERY_STRING"]
    print("out-" + mark)
    print("err-" + mark, file=sys.stderr)
    print("wsgi-" + mark, file=environ["wsgi.errors"])
    raise RuntimeError("boom-" + mark)
"""
MOUNTS = "  /break: breaker:app\n  /boom: boom:app\n"


def check_neighbour(gateway: Running, mark: str, printed: tuple[str, ...]) -> None:
    """The other app has its 500, its log entry with a traceback, and what it printed."""
    assert b" 500 " in gateway.ask(f"/boom?{mark}").partition(b"\r\n")[0]
    wait_until(lambda: f'RuntimeError: boom-{mark}"' in gateway.log_text, f"{mark} is logged")
    lines = gateway.log_text.splitlines()
    [entry] = [line for line in lines if f'RuntimeError: boom-{mark}"' in line]
    assert json.loads(entry)["traceback"]
    assert json.loads(entry)["level"] == "error"
    for name in printed:
        assert f"{name}-{mark}" in lines


@pytest.mark.parametrize("name", BREAKERS)
def test_what_an_app_does_while_it_loads(start: Start, name: str) -> None:
    gateway = start(MOUNTS, breaker=f"import sys\n{BREAKERS[name]}\n{BREAKER}", boom=BOOM)
    assert gateway.ask("/break").endswith(b"broke it")
    check_neighbour(gateway, "mark", ("out", "err", "wsgi"))
    assert gateway.end() == 0


def test_what_an_app_does_in_a_request(start: Start) -> None:
    gateway = start(MOUNTS, breaker=BREAKER, boom=BOOM)
    for number, statement in enumerate(BREAKERS.values()):
        target = statement.replace(" ", "%20").replace("%", "%25").replace("%2520", "%20")
        assert gateway.ask(f"/break?{target}").endswith(b"broke it")
        check_neighbour(gateway, f"mark{number}", ("err", "wsgi"))
    assert gateway.end() == 0


def test_streams_that_are_used_as_usual(start: Start) -> None:
    usual = """
import os, subprocess, sys
print("whole", "line")
print("no end", end=""); sys.stdout.flush(); print()
sys.stdout.buffer.write(b"bytes\\n"); sys.stdout.flush()
sys.__stderr__.write("of old\\n")
print("\\udcff \\u20ac")
os.write(1, b"written to 1\\n")
subprocess.run(["echo", "a child"], stdout=sys.stdout)
assert (sys.stdout.fileno(), sys.stderr.fileno(), sys.stdout.isatty()) == (1, 2, False)
assert sys.stdout.encoding == "utf-8" and sys.stdout.writable() and not sys.stdout.closed
with sys.stdout:
    pass
print("after with")
"""
    gateway = start("  /: usual:app\n", usual=usual + BREAKER)
    lines = gateway.log_text.splitlines()
    printed = ["whole line", "no end", "bytes", "of old", "\\udcff €", "written to 1", "a child"]
    assert [line for line in lines if not line.startswith("{")] == [*printed, "after with"]
    assert gateway.records == []


def test_a_duplicate_is_no_child_s() -> None:
    descriptor = duplicate(2)
    assert descriptor > 2
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


def test_ends_of_pieces(capfd: Any) -> None:
    stream = OutletStream(Outlet(1), 1)
    stream.write("a")
    assert capfd.readouterr().out == ""
    stream.write("b\n")
    assert capfd.readouterr().out == "ab\n"


def test_descriptors_that_an_import_closes_are_open_again(start: Start) -> None:
    look = """
import os
os.close(1), os.close(2), os.close(0)
def app(environ, start_response):
    start_response("200 OK", [])
    return [repr([os.path.exists(f"/proc/self/fd/{n}") for n in (0, 1, 2)]).encode()]
"""
    gateway = start("  /: look:app\n", look=look)
    assert gateway.ask("/").endswith(b"[True, True, True]")


def test_descriptors_that_a_request_closes_are_open_again_soon(start: Start) -> None:
    look = """
import os
def app(environ, start_response):
    if environ["QUERY_STRING"]:
        os.close(2), os.close(1), os.close(0)
    start_response("200 OK", [])
    return [repr([os.path.exists(f"/proc/self/fd/{n}") for n in (0, 1, 2)]).encode()]
"""
    gateway = start("  /: look:app\n", look=look)
    gateway.ask("/?close")
    wait_until(lambda: gateway.ask("/").endswith(b"[True, True, True]"), "they are open")
