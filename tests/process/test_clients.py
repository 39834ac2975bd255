"""The clients of the load see what is wrong with an answer; else their silence would prove nothing.

The server is a thread that answers each request as the test has it.
"""

import contextlib
import hashlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clients import Load
from running import Running, wait_until

MIRROR = Path(__file__).parents[1] / "stack" / "apps" / "mirror.py"
OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = re.compile(rb"Content-Length: (\d+)")

Reply = Callable[[bytes], bytes]


def right(content: bytes) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n%b" % (len(content), content)


def chunked(content: bytes) -> bytes:
    half = len(content) // 2
    pieces = [piece for piece in (content[:half], content[half:]) if piece]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def last(content: bytes) -> bytes:
    return right(content).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Reply], str]]:
    """``serve(reply)`` is the address of a server whose answers ``reply`` makes of right content;
    it closes behind one that is not ``right``, and answers none that is empty."""
    listener = socket.socket(socket.AF_UNIX)
    path = str(tmp_path / "sock")
    listener.bind(path)
    listener.listen(64)

    def answer(connection: socket.socket, reply: Reply) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as requests:
            while line := requests.readline():
                head = line + b"".join(iter(requests.readline, b"\r\n"))
                found = LENGTH.search(head)
                assert found
                content = requests.read(int(found[1]))[::-1]
                if line.startswith(b"GET"):
                    target = line.split()[1].removeprefix(b"/mirror")
                    content = hashlib.shake_128(target).digest(int(target.split(b"/")[1]))
                data = reply(content)
                connection.sendall(data)
                if data not in (right(content), chunked(content)):
                    return

    def start(reply: Reply) -> str:
        def run() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=answer, args=(connection, reply)).start()

        threading.Thread(target=run).start()
        return path

    yield start
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.mark.parametrize("reply", [right, chunked, last])
def test_right_answers_are_counted(serve: Callable[[Reply], str], reply: Reply) -> None:
    began = time.monotonic()
    with Load(serve(reply), connections=4) as load:
        wait_until(lambda: min(load.answered["GET"], load.answered["POST"]) > 50, "answers")
    assert (load.faults, load.resets) == ([], 0)
    assert 0 < load.longest < time.monotonic() - began


@pytest.mark.parametrize(
    ("reply", "told", "is_reset"),
    [
        (lambda c: right(c[:-1] + bytes([c[-1] ^ 1])), "200 OK", False),
        (lambda c: right(c).replace(b"200 OK", b"502 Bad Gateway", 1), "502 Bad Gateway", False),
        (lambda c: right(c) + b"x", "200 OK", False),
        (lambda c: right(c[1:]), "200 OK", False),
        (lambda c: right(c)[:-1], "closed after", True),
        (lambda c: chunked(c)[:-5], "closed after", True),
        (lambda c: OK[:5], "closed after 5 bytes", True),
        (lambda c: b"", "closed after 0 bytes of answer 0", True),
    ],
)
def test_wrong_answers_are_faults(
    serve: Callable[[Reply], str], reply: Reply, told: str, is_reset: bool
) -> None:
    with Load(serve(reply), connections=2) as load:
        wait_until(lambda: len(load.faults) > 3, "faults")
    assert all(told in fault for fault in load.faults), load.faults
    assert bool(load.resets) is is_reset
    assert load.total == 0


def test_a_server_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    with Load(str(tmp_path / "nobody"), connections=1) as load:
        wait_until(lambda: load.faults, "a fault")
    assert "could not connect: FileNotFoundError" in load.faults[0]


def test_sixty_four_connections_are_answered_by_the_gateway(
    start: Callable[..., Running],
) -> None:
    gateway = start("  /mirror: mirror:app\n", mirror=MIRROR.read_text())
    with Load(str(gateway.folder / "listen.sock")) as load:
        wait_until(lambda: load.total > 2000, "answers")
    assert (load.faults, load.resets) == ([], 0)
    assert min(load.answered["GET"], load.answered["POST"]) > 500
