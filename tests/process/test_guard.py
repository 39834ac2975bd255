"""What an app changes for its whole process while it serves is undone, or reported with its mount.

The values are those that another app of the same worker finds.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from running import Running, wait_until

Start = Callable[..., Running]

HURT = """
import asyncio, gc, locale, logging, logging.config, os, signal, socket, sys, time, warnings
from urllib.parse import unquote
def app(environ, start_response):
    exec(unquote(environ["QUERY_STRING"]), globals())
    start_response("200 OK", [])
    return [b"done"]
"""
LOOK = """
import asyncio, gc, json, locale, logging, os, signal, socket, sys, time, warnings
logging.getLogger("look").info("made")
logging.root.addHandler(logging.NullHandler())
first = sys.stdout
def find():
    signals = (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM)
    return json.dumps({
        "umask": [line for line in open("/proc/self/status") if line.startswith("Umask")],
        "cwd": os.getcwd(),
        "stdout": sys.stdout is first,
        "signals": [str(signal.getsignal(n)) for n in signals],
        "deep": sys.getrecursionlimit() >= 1000,
        "timeout": socket.getdefaulttimeout(),
        "gc": gc.isenabled(),
        "errors": [f[0] for f in warnings.filters if f[0] == "error"],
        "disabled": logging.getLogger("look").disabled,
        "disable": logging.root.manager.disable,
        "handlers": bool(logging.root.handlers),
        "policy": type(asyncio.events._event_loop_policy).__module__,
        "patched": time.sleep.__module__,
        "path": [entry for entry in sys.path if "lib" in entry],
    })
with open(os.path.join(os.path.dirname(__file__), "before"), "w") as file:
    file.write(find())
def app(environ, start_response):
    start_response("200 OK", [])
    return [find().encode()]
"""
# what does it, and as the log has it
UNDONE = {
    "os.umask(0o077)": "the umask (077)",
    "os.chdir('/')": "the working directory (/)",
    "sys.stdout = open(os.devnull, 'w')": "the standard streams",
    "socket.setdefaulttimeout(5)": "socket.setdefaulttimeout() (5 s)",
    "sys.setrecursionlimit(300)": "the recursion limit (300)",
    "gc.disable()": "the garbage collection, off",
    "warnings.simplefilter('error')": "warnings, made errors",
    "logging.config.dictConfig({'version': 1})": "loggers of others, disabled (",
    "logging.disable(50)": "logging.disable()",
    "logging.root.handlers.clear()": "the root logger's handlers, removed",
    "asyncio.set_event_loop_policy(type('P', (asyncio.DefaultEventLoopPolicy,), {})())": (
        "asyncio's event loop policy ("
    ),
    "time.sleep = print": "the standard library, patched (time.sleep)",
    "sys.path[:] = sys.path[:1]": "sys.path, without ",
}
# signal.signal() is for the main thread alone
SIGNALS = {
    "for n in (1, 2, 13, 15): signal.signal(n, lambda *_: None)": (
        "signal handlers (SIGHUP, SIGINT, SIGPIPE, SIGTERM)"
    ),
}
LEFT = {
    "os.environ['TZ'] = 'America/Chicago'; time.tzset()": "the time zone (now America/Chicago)",
    "locale.setlocale(locale.LC_ALL, 'C.UTF-8')": "the locale (C.UTF-8)",
}
MOUNTS = "  /hurt: hurt:app\n  /look: look:app\n"
THREADS = (
    "  /hurt: {app: 'hurt:app', pool: t}\n  /look: {app: 'look:app', pool: t}\n"
    "pools:\n  t: {concurrency: threads}\n"
)
ADVICE = ' (with "pool: own" it keeps such changes to itself)'


def begin(start: Start, mounts: str = MOUNTS) -> Running:
    server = "  reload_on_edit: false\n  drain_timeout: 1s\n"
    return start(mounts, server, hurt=HURT, look=LOOK)


def hurt(gateway: Running, *statements: str) -> None:
    for statement in statements:
        assert gateway.ask(f"/hurt?{quote(statement)}").endswith(b"done")


def has_own_umask(gateway: Running) -> bool:
    """Whether its one worker does, which is not asked for it."""
    [worker] = gateway.children()
    here, there = (Path(f"/proc/{pid}/status").read_text() for pid in ("self", worker))
    return here.partition("\nUmask:")[2][:6] == there.partition("\nUmask:")[2][:6]


def look(gateway: Running) -> Any:
    return json.loads(gateway.ask("/look").partition(b"\r\n\r\n")[2])


def find(gateway: Running, what: str = "while serving") -> list[dict[str, Any]]:
    """The entries of the log with this in it."""
    lines = [line for line in gateway.log_text.splitlines() if what in line]
    return [json.loads(line) for line in lines if line.startswith("{")]


@pytest.mark.parametrize("kind", ["greenlets", "threads"])
def test_what_could_cost_others_an_answer_is_undone(start: Start, kind: str) -> None:
    gateway = begin(start, MOUNTS if kind == "greenlets" else THREADS)
    changes = UNDONE | SIGNALS if kind == "greenlets" else UNDONE
    hurt(gateway, "\n".join(changes))
    for what in changes.values():
        [entry] = wait_until(lambda what=what: find(gateway, what), what)  # type: ignore[misc]
        assert entry["level"] == "warning"
        assert "mounts./hurt: while serving, it changed" in entry["message"], entry
        assert entry["message"].endswith(f" for its whole process, which was undone{ADVICE}")
        assert entry["mount"] == "/hurt"
    assert look(gateway) == json.loads((gateway.folder / "before").read_text())
    assert gateway.end() == 0
    assert "killed" not in gateway.log_text


def test_what_the_app_itself_needs_is_left_and_reported_once(start: Start) -> None:
    gateway = begin(start)
    hurt(gateway, "\n".join(LEFT))
    for what in LEFT.values():
        [entry] = wait_until(lambda what=what: find(gateway, what), what)  # type: ignore[misc]
        assert entry["message"].endswith(f"it changed {what} for its whole process{ADVICE}")
    for number in (77, 70):
        hurt(gateway, *LEFT)
        hurt(gateway, f"os.umask(0o0{number})")
        wait_until(lambda: has_own_umask(gateway), "it has looked")
    assert [len(find(gateway, what)) for what in LEFT.values()] == [1, 1]
    assert len(find(gateway, "the umask")) == 1


def test_a_request_may_put_back_what_it_has_changed(start: Start) -> None:
    gateway = begin(start)
    change = "old = os.umask(0o077), os.getcwd(); os.chdir('/')"
    hurt(
        gateway,
        f"{change}; time.sleep(2.5); assert os.umask(old[0]) == 0o077; os.chdir(old[1])",
        "sys.setrecursionlimit(300)",
    )
    wait_until(lambda: find(gateway, "the recursion limit"), "it has looked")
    assert len(find(gateway)) == 1


def test_a_request_that_does_not_end_keeps_nothing_changed(start: Start) -> None:
    gateway = begin(start)
    before = look(gateway)
    with gateway.connect() as client:
        statement = quote("os.umask(0o077); time.sleep(60)")
        client.sendall(f"GET /hurt?{statement} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        wait_until(lambda: find(gateway, "the umask (077)"), "it is reported")
        assert look(gateway) == before


def test_of_several_mounts_the_one_that_does_it_again_is_found(start: Start) -> None:
    gateway = begin(start)
    hurt(gateway, "os.umask(0o077)")
    gateway.ask("/look")  # in the same place, where the last request alone is remembered

    def does_it_again() -> bool:
        hurt(gateway, "os.umask(0o077)")
        wait_until(lambda: has_own_umask(gateway), "it is undone")
        return any(entry.get("mount") == "/hurt" for entry in find(gateway))

    [first] = wait_until(lambda: find(gateway), "it is reported")
    if "mount" not in first:
        assert (
            ": pool main: while serving, one of /hurt, /look changed the umask"
            in (first["message"])
        )
    wait_until(does_it_again, "it is known which one it was")
    assert {entry.get("mount") for entry in find(gateway)} <= {None, "/hurt"}
    assert len(find(gateway)) <= 2


def test_in_a_pool_of_its_own_an_app_does_what_it_likes(start: Start) -> None:
    gateway = begin(start, MOUNTS.replace("hurt:app", "{app: 'hurt:app', pool: own}"))
    hurt(gateway, "\n".join(UNDONE | SIGNALS))
    # what the gateway needs itself
    for what in ("signal handlers", "the recursion limit", "socket.setdefaulttimeout()"):
        [entry] = wait_until(lambda what=what: find(gateway, what), what)  # type: ignore[misc]
        assert entry["message"].endswith(" for its whole process, which was undone")
    assert len(find(gateway)) == 3
    hurt(gateway, "assert os.umask(0o077) == 0o077")
    assert gateway.end() == 0
