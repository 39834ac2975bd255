"""Content that nobody reads costs no client its next request, and nobody else a POST.

``PROOF_POSTS`` is how many POSTs there are of each size and framing, spread over the targets;
`make proof` has 10,000.
"""

import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import pytest
from stacks import Lab
from wire import Address, Connection, CutShortError, build_request, wait_until

POSTS = int(os.environ.get("PROOF_POSTS", "24"))
SEED = int(os.environ.get("PROOF_SEED", "1"))
# their longest content fits into one worker's `max_spooled`
CLIENTS = 12
LONGEST_PAUSE = 0.05
POSTS_PER_CONNECTION = 10
# of other people's POSTs, each on a new connection: a client has 28,000 ports for a minute's
SECONDS_BETWEEN = 0.01
SIZES = [1, 100, 10 * 1024, 200 * 1024, 300_000, 1_000_000, 5_000_000]
MOUNTS = """
  /deaf: deaf:app
  /deaf-pool: {app: "deaf:app", pool: own}
  /deaf-threads: {app: "deaf:app", pool: threads}
  /deaf-strict: {app: "deaf:app", max_body: 1KiB}
  /gone: {redirect: /elsewhere}
  /files: {static: /data}
pools:
  threads: {concurrency: threads, threads: 2}
"""
TARGETS = {
    "/deaf": 200,
    "/deaf-pool": 200,
    "/deaf-threads": 200,
    "/gone": 308,
    "/files/": 405,
    "/nothing": 404,
    "/deaf-strict": 413,
    "/other": 200,
}
Post = tuple[str, float]  # target, and seconds between head and content


@dataclass
class Counts:
    asked: int = 0
    answered: int = 0
    wrong: list[str] = field(default_factory=list)


def ask_innocently(address: Address, counts: Counts, is_over: threading.Event) -> None:
    """POSTs that are read, on connections of their own."""
    while not is_over.wait(SECONDS_BETWEEN):
        counts.asked += 1
        try:
            with Connection(address, timeout=60) as client:
                answer = client.ask("/echo", "POST", content=b"x")
        except (OSError, CutShortError) as error:
            counts.wrong.append(repr(error))
            continue
        if answer.status == 200:
            counts.answered += 1
        else:
            counts.wrong.append(str(answer.status))


def frame(size: int, chunked: bool) -> tuple[bytes, bytes]:
    """The field that announces content of ``size`` bytes, and the content as it is sent."""
    content = b"x" * size
    if chunked:
        return b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (size, content)
    return b"Content-Length: %d" % size, content


def find_faults(address: Address, framed: tuple[bytes, bytes], posts: list[Post]) -> list[str]:
    """What went wrong with POSTs of one client, or with the GET behind each."""
    try:
        with Connection(address, timeout=60) as client:
            # else short content waits for the acknowledgement of its head
            client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            faults = [find_fault(client, framed, *post) for post in posts]
    except (OSError, CutShortError) as error:
        return [f"within {posts}: {error!r}"]
    return [fault for fault in faults if fault]


def find_fault(client: Connection, framed: tuple[bytes, bytes], target: str, pause: float) -> str:
    announced, content = framed
    status = TARGETS[target]
    if status == 413 and len(content) <= 1024:
        status = 200
    head = build_request(client.host, target, "POST")
    client.send(head.replace(b"Content-Length: 0", announced))
    time.sleep(pause)
    client.send(content)
    got = client.read_answer("POST").status, client.ask("/echo").status
    return "" if got == (status, 200) else f"{target} after {pause}: {got}"


def find_address(lab: Lab) -> Address:
    """nginx's own, without Docker's proxy of published ports, where this machine can reach that."""
    own = lab.internal_address("nginx"), 8080
    try:
        Connection(own, timeout=2).close()
    except OSError:  # Docker Desktop: the containers are in a virtual machine
        return lab.address
    return own


@pytest.fixture(scope="module")
def address(lab: Lab) -> Iterator[Address]:
    """Of nginx, in a stack that has the mounts of ``TARGETS``."""
    table = lab.table
    lab.table += MOUNTS
    for target in ("/deaf-pool", "/deaf-threads"):
        wait_until(lambda at=target: lab.fetch(at).status == 200, "the table is served", 60)
    yield find_address(lab)
    lab.table = table
    lab.restart_gateway()
    lab.up()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_content_that_nobody_reads_costs_nobody_a_request(
    address: Address, size: int, chunked: bool
) -> None:
    generator, targets = random.Random(SEED), list(TARGETS)
    posts = [
        (targets[number % len(targets)], generator.random() * LONGEST_PAUSE)
        for number in range(POSTS)
    ]
    batches = [
        posts[at : at + POSTS_PER_CONNECTION] for at in range(0, POSTS, POSTS_PER_CONNECTION)
    ]
    innocent, is_over = Counts(), threading.Event()
    beside = threading.Thread(target=ask_innocently, args=(address, innocent, is_over))
    beside.start()
    began = time.monotonic()
    try:
        with ThreadPoolExecutor(CLIENTS) as clients:
            find = partial(find_faults, address, frame(size, chunked))
            lost = [fault for faults in clients.map(find, batches) for fault in faults]
    finally:
        is_over.set()
        beside.join()
    print(
        f"{POSTS} POSTs of {size} bytes in {time.monotonic() - began:.0f} s, {len(lost)} lost; "
        f"{innocent.asked} innocent ones, {len(innocent.wrong)} wrong"
    )
    assert not lost
    assert not innocent.wrong
    assert innocent.answered == innocent.asked > 0
