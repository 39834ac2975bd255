"""Fifty slow clients of each kind on each kind of mount: all others are served meanwhile.

Slow are those that send half a head, half their content, or leave their answer unread. What they do
themselves keeps them unfinished until the others have been answered; afterwards each gets the whole
of its own answer.
"""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPResponse

import pytest
from running import Running, wait_until

pytestmark = pytest.mark.alone

SLOW = 50
OTHERS = 5
# more than the kernel holds on the way to a client, which is two connections, as one answer and as
# many short ones
LONG = 1024 * 1024
PIPELINED = 500
# more than the front worker reads ahead of all these clients, too
LONGER = 4 * LONG
APP = """
PIECE = b"x" * 65536

def app(environ, start_response):
    environ["wsgi.input"].read()
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/long":
        return (PIECE for _ in range(int(environ["QUERY_STRING"]) // len(PIECE)))
    return [b"x"]
"""
WEB = """
import http.server, socketserver, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        content = b"x" * int(self.path.partition("?")[2] or "1")
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    do_POST = do_GET
    def address_string(self):
        return "gateway"
    def log_message(self, *said):
        pass

class OneAtATime(socketserver.UnixStreamServer):
    request_queue_size = 128

class Threading(socketserver.ThreadingMixIn, OneAtATime):
    daemon_threads = True

globals()[sys.argv[2]](sys.argv[1], Handler).serve_forever()
"""
# their pauses are bounded by these alone, and a busy machine may take long
PATIENCE = "  head_timeout: 5m\n  body_timeout: 5m\n  send_timeout: 5m\n"
MOUNTS = """\
  /shared: slow:app
  /greenlets: {{app: 'slow:app', pool: greenlets}}
  /threads: {{app: 'slow:app', pool: threads}}
  /one-thread: {{app: 'slow:app', pool: one}}
  /environment: {{app: 'slow:app', pool: environment}}
  /upstream: {{upstream: 'unix:{behind}/listen.sock'}}
  /command: {{upstream: 'pool:command'}}
  /one-at-a-time: {{upstream: 'pool:one-at-a-time'}}
  /static: {{static: {files}}}
  /redirect: {{redirect: /elsewhere}}
"""
POOLS = """\
pools:
  greenlets: {}
  threads: {concurrency: threads}
  one: {concurrency: threads, threads: 1}
  environment: {requirements: none.txt, concurrency: threads}
  command: {command: 'python web.py {socket} Threading'}
  one-at-a-time: {command: 'python web.py {socket} OneAtATime'}
"""
NAMES = [line.partition(":")[0].strip(" /") for line in MOUNTS.splitlines()]
STATUS = {"redirect": b"308"}
IN_THREADS = ("threads", "one-thread", "environment")


@pytest.fixture(scope="module")
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    behind = Running(tmp_path_factory.mktemp("behind"), "  /: slow:app\n", PATIENCE, slow=APP)
    request.addfinalizer(behind.end)
    files = tmp_path_factory.mktemp("files")
    (files / "long").write_bytes(b"x" * LONG)
    (files / "index.html").write_bytes(b"x")
    folder = tmp_path_factory.mktemp("front")
    (folder / "none.txt").write_text("# nothing\n")
    server = PATIENCE + POOLS
    gateway = Running(
        folder, MOUNTS.format(behind=behind.folder, files=files), server, slow=APP, web=WEB
    )
    request.addfinalizer(gateway.end)
    for mount in NAMES:
        wait_until(lambda: is_served(gateway, mount), f"{mount} is served", 60)  # noqa: B023
    yield gateway
    assert gateway.end() == 0
    assert behind.end() == 0


def is_served(gateway: Running, mount: str) -> bool:
    status = gateway.ask(f"/{mount}/").partition(b"\r\n")[0].split()[1]
    return status == STATUS.get(mount, b"200")


def length_of(mount: str) -> int:
    """That of a long answer."""
    return LONGER if mount in IN_THREADS else LONG


def divide(way: str, mount: str) -> tuple[bytes, bytes]:
    """What a slow client sends at first, and afterwards."""
    head = " HTTP/1.1\r\nHost: a\r\nX-Slow: yes\r\n"
    last = "Connection: close\r\n"
    if way == "heads":
        asked = f"GET /{mount}/{head}{last}\r\n".encode()
        return asked[:-10], asked[-10:]
    if way == "uploads":
        asked = f"POST /{mount}/{head}{last}Content-Length: 1000\r\n\r\n".encode()
        return asked + b"x" * 500, b"x" * 500
    one = f"GET /{mount}/long?{length_of(mount)}{head}"
    before = f"{one}\r\n" * (PIPELINED - 1) if mount == "redirect" else ""
    return f"{before}{one}{last}\r\n".encode(), b""


def read_answer(client: socket.socket) -> tuple[int, int]:
    """Status and length of the only one."""
    with HTTPResponse(client) as answer:
        answer.begin()
        return answer.status, len(answer.read())


def count_answers(client: socket.socket) -> int:
    """How many come, to the end."""
    with client.makefile("rb") as answers:
        return answers.read().count(b"HTTP/1.1 308 ")


@pytest.mark.parametrize("mount", NAMES)
@pytest.mark.parametrize("way", ["heads", "uploads", "readers"])
def test_slow_clients_keep_nobody_waiting(running: Running, way: str, mount: str) -> None:
    first, rest = divide(way, mount)
    with ExitStack() as stack:
        slow = [stack.enter_context(running.connect()) for _ in range(SLOW)]
        for client in slow:
            client.sendall(first)
        for client in slow if way == "readers" else []:
            assert client.recv(1, socket.MSG_PEEK) == b"H"
        for _ in range(OTHERS):
            assert is_served(running, mount)
        for client in slow:
            client.sendall(rest)
        if way == "readers" and mount == "redirect":
            assert {count_answers(client) for client in slow} == {PIPELINED}
        else:
            answers = {read_answer(client) for client in slow}
            assert len(answers) == 1
            if way == "readers":
                assert answers == {(200, length_of(mount))}
