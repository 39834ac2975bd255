"""Mounts that real servers answer, in processes and threads of their own: much content in constant
memory, a server of HTTP/1.0, reloads and stops with connections open."""

import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from harness import GET, Gateway
from running import Running, wait_until

from gateway.upstream.link import AHEAD_BYTES

Serve = Callable[..., Gateway]
Load = Callable[..., Any]
MIB = 1024 * 1024
MUCH = 256 * MIB
BEHIND = """
def app(environ, start_response):
    if environ["PATH_INFO"] == "/give":
        start_response("200 OK", [])
        return (b"x" * 65536 for _ in range(int(environ["QUERY_STRING"]) // 65536))
    size = 0
    while piece := environ["wsgi.input"].read(65536):
        size += len(piece)
    start_response("200 OK", [])
    return [b"%d" % size]
"""


@pytest.fixture(scope="module")
def front(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A gateway whose only mount leads to another."""
    behind = Running(
        tmp_path_factory.mktemp("behind"),
        "  /: {app: much:app, max_body: 1GiB, request_buffering: off}\n",
        much=BEHIND,
    )
    request.addfinalizer(behind.end)
    address = f"unix:{behind.folder}/listen.sock"
    front = Running(
        tmp_path_factory.mktemp("front"),
        f'  /: {{upstream: "{address}", max_body: 1GiB, request_buffering: off}}\n',
        "  drain_timeout: 1s\n",
    )
    request.addfinalizer(front.end)
    yield front
    assert front.end() == 0
    assert behind.end() == 0


def most_memory(running: Running) -> int:
    """Bytes that a worker has taken at most so far."""
    [worker] = running.children()
    status = Path(f"/proc/{worker}/status").read_text()
    found = re.search(r"VmHWM:\s+([0-9]+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def test_much_content_comes_in_constant_memory(front: Running) -> None:
    front.ask("/give?65536")
    before = most_memory(front)
    with front.connect() as connection:
        connection.sendall(b"GET /give?%d HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % MUCH)
        size = 0
        while piece := connection.recv(MIB):
            size += len(piece)
    grown = most_memory(front) - before
    print(f"the worker took {grown // 1024} KiB more")
    assert size > MUCH
    # a client that a busy machine keeps from reading has that much read ahead
    assert grown < AHEAD_BYTES + 8 * MIB


@pytest.mark.parametrize("is_chunked", [False, True])
def test_much_content_goes_in_constant_memory(front: Running, is_chunked: bool) -> None:
    front.ask("/give?65536")
    before = most_memory(front)
    framing = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: %d" % MUCH
    piece = b"x" * MIB
    chunk = b"%x\r\n%b\r\n" % (MIB, piece) if is_chunked else piece
    with front.connect() as connection:
        connection.sendall(
            b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + framing + b"\r\n\r\n"
        )
        for _ in range(MUCH // MIB):
            connection.sendall(chunk)
        if is_chunked:
            connection.sendall(b"0\r\n\r\n")
        with connection.makefile("rb") as answer:
            assert answer.read().endswith(b"%d" % MUCH)
    grown = most_memory(front) - before
    print(f"the worker took {grown // 1024} KiB more")
    assert grown < 8 * MIB


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def test_server_of_http10_answers(serve: Serve, upstream: Load) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        content = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["REQUEST_METHOD"].encode(), b" ", content]

    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        client = serve(upstream(f"http://localhost:{server.server_port}")).connect()
        try:
            assert client.ask(GET).content == b"GET "
            post = b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\nabc"
            assert client.ask(post).content == b"POST abc"
        finally:
            server.shutdown()
            thread.join()


def test_upstream_that_comes_back_is_asked_again(tmp_path: Path) -> None:
    (tmp_path / "front").mkdir()
    path = tmp_path / "s"
    front = Running(tmp_path / "front", f'  /: {{upstream: "unix:{path}"}}\n')
    try:
        assert front.ask().startswith(b"HTTP/1.1 503 ")
        wait_until(lambda: "No such file or directory" in front.log_text, "the cause is told")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            thread = threading.Thread(target=answer_one, args=(listener,))
            thread.start()
            assert front.ask().startswith(b"HTTP/1.1 200 ")
            thread.join()
    finally:
        assert front.end() == 0


def answer_one(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def test_reload_keeps_a_stream_going(front: Running) -> None:
    """And the answer to it comes whole, from workers that have retired."""
    with front.connect() as connection:
        size = 8 * MIB
        connection.sendall(b"GET /give?%d HTTP/1.1\r\nHost: a\r\n\r\n" % size)
        got = connection.recv(65536)
        assert front.control("reload")["exit_code"] == 0
        while not got.endswith(b"0\r\n\r\n"):
            piece = connection.recv(MIB)
            assert piece
            got += piece
        assert got.count(b"x") >= size
