"""Fifty slow clients of each kind on each kind of mount, through nginx and at the gateway itself:
all others are served meanwhile.

They send half a head, half their content, or read nothing of a long answer, and so are unfinished
by what they do themselves.
"""

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from stacks import Lab
from wire import Connection, wait_until

SLOW = 50
OTHERS = 5
# more than the kernel holds on the way to a client: up to four connections, of some megabytes each
LONG = 32 * 1024 * 1024
# a busy machine may take long; nginx itself waits 15 s for a head, and 60 s for the rest
PATIENCE = "server:\n  head_timeout: 5m\n  body_timeout: 5m\n  send_timeout: 5m\n"
MOUNTS = """
  /slow-shared: slow:app
  /slow-greenlets: {app: "slow:app", pool: greenlets}
  /slow-threads: {app: "slow:app", pool: threads}
  /slow-upstream: {upstream: "pool:server"}
  /slow-files: {static: /data/slow}
  /slow-redirect: {redirect: /elsewhere}
pools:
  greenlets: {}
  threads: {concurrency: threads}
  server: {command: "python slow.py {port}"}
"""
STATUS = {
    "/slow-shared/": 200,
    "/slow-greenlets/": 200,
    "/slow-threads/": 200,
    "/slow-upstream/": 200,
    "/slow-files/": 200,
    "/slow-redirect/": 308,
}
CASES = [
    (way, target)
    for way in ("heads", "uploads", "readers")
    for target in STATUS
    # its answers are too short to be read slowly
    if (way, target) != ("readers", "/slow-redirect/")
]


@pytest.fixture(scope="module")
def slow_lab(lab: Lab) -> Iterator[Lab]:
    table = lab.table
    make = (
        f"mkdir -p /data/slow && truncate -s {LONG} /data/slow/long && touch /data/slow/index.html"
    )
    assert lab.run_in("gateway", "bash", "-c", make).exit_code == 0
    lab.table = table.replace("server:\n", PATIENCE, 1) + MOUNTS
    for target, status in STATUS.items():
        wait_until(lambda: lab.fetch(target).status == status, f"{target} is served", 60)  # noqa: B023
    yield lab
    lab.table = table
    lab.restart_gateway()
    lab.up()


def begin(way: str, target: str) -> bytes:
    """What a slow client sends."""
    if way == "heads":
        return f"GET {target} HTTP/1.1\r\nHost: a\r\nX-Slow: y".encode()
    if way == "uploads":
        return f"POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf".encode()
    return f"GET {target}long?{LONG} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


@pytest.mark.parametrize("entry", ["nginx", "gateway"])
@pytest.mark.parametrize(("way", "target"), CASES)
def test_slow_clients_keep_nobody_waiting_in_the_stack(
    slow_lab: Lab, way: str, target: str, entry: str
) -> None:
    address = slow_lab.address if entry == "nginx" else slow_lab.direct
    with ExitStack() as stack:
        slow = [stack.enter_context(Connection(address, 60)) for _ in range(SLOW)]
        for client in slow:
            client.send(begin(way, target))
        for client in slow if way == "readers" else []:
            assert client.socket.recv(1, socket.MSG_PEEK) == b"H"
        for _ in range(OTHERS):
            with Connection(address, 30) as other:
                assert other.ask(target).status == STATUS[target]
