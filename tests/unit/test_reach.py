"""What is asked of a server that listens by itself: whether it answers, and who is connected."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.supervisor.processes.reach import count_connections, find_fault


@pytest.fixture(params=["unix", "tcp", "tcp6"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    if request.param == "unix":
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(tmp_path / "s"))
    elif request.param == "tcp":
        listening = socket.create_server(("127.0.0.1", 0))
    else:  # for any address, IPv4 too, as Node.js does it
        listening = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    listening.listen()
    with listening:
        yield listening


def address(listener: socket.socket) -> str:
    name = listener.getsockname()
    return f"unix:{name}" if isinstance(name, str) else f"http://127.0.0.1:{name[1]}"


def connect(listener: socket.socket) -> socket.socket:
    name = listener.getsockname()
    if isinstance(name, str):
        client = socket.socket(socket.AF_UNIX)
        client.connect(name)
        return client
    return socket.create_connection(("127.0.0.1", name[1]))


def test_connections_are_counted_accepted_or_not(listener: socket.socket) -> None:
    where = address(listener)
    assert count_connections(where) == 0
    with connect(listener), closing(listener.accept()[0]):
        assert count_connections(where) == 1
        with connect(listener):
            assert count_connections(where) == 2
    with closing(listener.accept()[0]):
        pass
    assert count_connections(where) == 0


def test_other_sockets_do_not_count(listener: socket.socket, tmp_path: Path) -> None:
    other = f"unix:{tmp_path / 'other'}"
    with connect(listener), closing(listener.accept()[0]):
        assert count_connections(other) == 0


@pytest.mark.parametrize(
    ("path", "answer", "fault"),
    [
        ("", b"", ""),
        ("/ok", b"HTTP/1.1 204 No Content\r\n\r\n", ""),
        ("/ok", b"HTTP/1.0 302 Found\r\n\r\n", ""),
        ("/ill", b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "/ill was answered 503"),
        ("/x", b"SSH-2.0-OpenSSH\r\n", "/x was not answered by HTTP/1.1"),
        ("/x", b"", "/x was not answered by HTTP/1.1"),
    ],
)
def test_a_server_is_well_that_answers_2xx_or_3xx(
    listener: socket.socket, path: str, answer: bytes, fault: str
) -> None:
    def serve() -> None:
        accepted, _ = listener.accept()
        with accepted:
            if path:
                assert accepted.recv(4096).startswith(f"GET {path} HTTP/1.1\r\nHost: ".encode())
                accepted.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert asyncio.run(find_fault(address(listener), path)) == fault
    finally:
        thread.join()


def test_where_nobody_listens_is_told(tmp_path: Path) -> None:
    where = f"unix:{tmp_path / 'nothing'}"
    assert asyncio.run(find_fault(where, "/")) == f"nothing listens on {where}"
