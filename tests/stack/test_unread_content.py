"""Content that nobody reads costs no client its next request, and nobody else a POST.

``PROOF_POSTS`` is how many POSTs there are of each kind.
"""

import os
import random
import threading
import time
from dataclasses import dataclass, field

import pytest
from stacks import Lab
from wire import Connection, CutShortError, build_request, wait_until

POSTS = int(os.environ.get("PROOF_POSTS", "3"))
SEED = int(os.environ.get("PROOF_SEED", "1"))
SIZES = [1, 100, 10 * 1024, 200 * 1024, 300_000, 1_000_000, 5_000_000]
MOUNTS = """
  /deaf: deaf:app
  /deaf-pool: {app: "deaf:app", pool: own}
  /deaf-threads: {app: "deaf:app", pool: threads}
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
    "/small/proof": 413,
    "/other": 200,
}


@dataclass
class Counts:
    asked: int = 0
    answered: int = 0
    wrong: list[str] = field(default_factory=list)


def ask_innocently(lab: Lab, counts: Counts, is_over: threading.Event) -> None:
    """POSTs that are read, on connections of their own."""
    while not is_over.is_set():
        counts.asked += 1
        try:
            answer = lab.fetch("/echo", "POST", content=b"x")
        except (OSError, CutShortError) as error:
            counts.wrong.append(repr(error))
            continue
        if answer.status == 200:
            counts.answered += 1
        else:
            counts.wrong.append(str(answer.status))


def post(client: Connection, target: str, size: int, chunked: bool, pause: float) -> int:
    """The status of a POST whose content comes ``pause`` seconds behind its head."""
    content = b"x" * size
    head = build_request(client.host, target, "POST")
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
    client.send(head.replace(b"Content-Length: 0", length))
    time.sleep(pause)
    client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (size, content) if chunked else content)
    return client.read_answer("POST").status


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_content_that_nobody_reads_costs_nobody_a_request(
    disturbed_lab: Lab, chunked: bool
) -> None:
    lab, generator = disturbed_lab, random.Random(SEED)
    lab.table += MOUNTS
    wait_until(lambda: lab.fetch("/deaf-threads").status == 200, "the table is served", 60)
    innocent, is_over = Counts(), threading.Event()
    beside = threading.Thread(target=ask_innocently, args=(lab, innocent, is_over))
    beside.start()
    lost, asked = [], 0
    try:
        for target, status in TARGETS.items():
            for size in SIZES:
                for _ in range(POSTS):
                    asked += 1
                    with Connection(lab.address) as client:
                        pause = generator.random() * 0.05
                        try:
                            got = post(client, target, size, chunked, pause)
                            is_right = got == (200 if status == 413 and size <= 1024 else status)
                            after = client.ask("/echo").status
                        except (OSError, CutShortError) as error:
                            lost.append((target, size, pause, repr(error)))
                            continue
                        if not is_right or after != 200:
                            lost.append((target, size, got, after))
    finally:
        is_over.set()
        beside.join()
    print(f"{asked} POSTs, {len(lost)} lost; {innocent.asked} innocent ones, {innocent.wrong}")
    assert not lost
    assert not innocent.wrong
    assert innocent.answered == innocent.asked > 0
