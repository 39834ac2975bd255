"""The limits of mounts and pools in a gateway that runs, and an edit of them."""

import socket
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from running import Running, wait_until
from test_inplace import edit
from test_pools import pools

Start = Callable[..., Running]
LIMIT = "max_concurrency: 1, queue: 0"
HELD = """
import os, time
folder = os.path.dirname(__file__)
def app(environ, start_response):
    if environ["PATH_INFO"] == "/held":
        open(os.path.join(folder, "inside"), "w").close()
        while not os.path.exists(os.path.join(folder, "open")):
            time.sleep(0.01)
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]
"""


def hold(gateway: Running, target: str, stack: ExitStack) -> socket.socket:
    """A request that stays at its app until there is a file "open"."""
    connection = stack.enter_context(gateway.connect())
    connection.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    wait_until((gateway.folder / "inside").exists, "the app has the request")
    return connection


def last_error(gateway: Running) -> str:
    """The cause in the last record, which comes behind its answer."""
    return wait_until(lambda: [r["error"] for r in gateway.records if r["status"] == 503], "503")[
        -1
    ]


@pytest.mark.parametrize(
    ("name", "of_mount", "of_pool"),
    [
        ("mount /a", LIMIT, ""),
        ("mount /a", f"pool: p, {LIMIT}", ""),
        ("pool p", "pool: p", LIMIT),
    ],
)
def test_an_edit_of_a_limit_counts_for_the_workers_that_run(
    start: Start, name: str, of_mount: str, of_pool: str
) -> None:
    mounts = f"  /: good:app\n  /a: {{app: 'held:app', {of_mount}}}\n"
    gateway = start(mounts, f"pools: {{p: {{{of_pool}}}}}\n", held=HELD)
    with ExitStack() as stack:
        first = hold(gateway, "/a/held", stack)
        before, workers = pools(gateway), gateway.children()
        refused = gateway.ask("/a")
        assert b" 503 " in refused.partition(b"\r\n")[0]
        assert b"\r\nRetry-After: 5\r\n" in refused
        assert last_error(gateway) == (
            f"{name} is at its max_concurrency of 1, and its queue of 0 is full"
        )
        assert b" 200 " in gateway.ask("/")
        gateway.server = gateway.server.replace(LIMIT, "max_concurrency: 2")
        assert edit(gateway, mounts.replace(LIMIT, "max_concurrency: 2"))["how"] == "in place"
        assert (pools(gateway), gateway.children()) == (before, workers)
        assert b" 200 " in gateway.ask("/a")
        gateway.write("open", "")
        with first.makefile("rb") as answer:
            assert b" 200 " in answer.readline()


def test_a_limit_is_kept_where_a_probe_is_asked(start: Start) -> None:
    mounts = "  /a: {{app: 'held:app', probe: /, max_concurrency: 1, queue: 0, timeout: {}}}\n"
    gateway = start(mounts.format("8s"), held=HELD)
    with ExitStack() as stack:
        hold(gateway, "/a/held", stack)
        assert edit(gateway, mounts.format("9s"))["how"] == "in place"
        assert b" 503 " in gateway.ask("/a")
        gateway.write("open", "")
