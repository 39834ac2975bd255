"""Idle connections of workers that no longer serve: those that do go on with them."""

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from clients import Load
from running import Running, wait_until

Start = Callable[..., Running]
MANUAL = "  reload_on_edit: false\n"
CLIENTS = 40
GET = b"GET /app HTTP/1.1\r\nHost: a\r\n\r\n"
MOUNTS = "  /: good:app\n  /app: versioned:app\n"
VERSIONED = """
import json
def app(environ, start_response):
    start_response("200 OK", [])
    told = {"version": VERSION, "generation": environ["gateway.generation"]}
    told["peer"] = environ["REMOTE_ADDR"], environ["REMOTE_PORT"]
    told["content"] = environ["wsgi.input"].read().decode()
    return [json.dumps(told).encode()]
"""
SLOW = """
import pathlib, time
here = pathlib.Path(__file__).parent
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "4")])
    yield b"be"
    (here / "began").touch()
    while not (here / "go").exists():
        time.sleep(0.01)
    yield b"gu"
"""
# the first worker of this code sends its report, and its loop then turns no more
STOPS = """
import os, pathlib, signal, sys
worker, was_stopped = sys.modules["__main__"], pathlib.Path(__file__).with_name("was-stopped")
if not was_stopped.exists():
    was_stopped.touch()
    send = worker.send
    def send_and_stop(control, message):
        send(control, message)
        if message["event"] == "ready":
            os.kill(os.getpid(), signal.SIGSTOP)
    worker.send = send_and_stop
"""
MIRROR = (Path(__file__).parents[1] / "stack" / "apps" / "mirror.py").read_text()


def version(number: int) -> str:
    return VERSIONED.replace("VERSION", str(number), 1)


class Client:
    """One kept-alive connection, which fails where it is closed, or is to be."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._answers = connection.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self) -> bytes:
        lines = [self._answers.readline()]
        assert b" 200 " in lines[0], lines[0]
        while lines[-1] != b"\r\n":
            lines.append(self._answers.readline())
        assert b"Connection: close\r\n" not in lines
        [length] = [line for line in lines if line.lower().startswith(b"content-length:")]
        return self._answers.read(int(length.partition(b":")[2]))

    def ask(self) -> tuple[int, str]:
        self.send(GET)
        told = json.loads(self.read())
        return told["version"], told["generation"]

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._answers.close()
        self.socket.close()


@contextmanager
def clients(gateway: Running, count: int = CLIENTS) -> Iterator[list[Client]]:
    """Connections that have had one answer each, of workers that have all loaded the code."""

    def find_states() -> set[str]:
        generations = gateway.control("status")["generations"]
        return {worker["state"] for g in generations for worker in g["workers"]}

    wait_until(lambda: not find_states() & {"loading", "loaded"}, "all have loaded")
    with ExitStack() as stack:
        made = [stack.enter_context(Client(gateway.connect())) for _ in range(count)]
        for client in made:
            client.ask()
        yield made


def reload(gateway: Running, number: int) -> str:
    """Have the code of that version served; its generation."""
    gateway.write("versioned.py", version(number))
    outcome = gateway.control("reload")
    assert outcome["exit_code"] == 0, outcome["messages"]
    return outcome["generation"]


@pytest.mark.parametrize("workers", [1, 2])
def test_each_next_answer_is_the_new_codes_after_a_reload_and_a_rollback(
    start: Start, workers: int
) -> None:
    gateway = start(MOUNTS, f"{MANUAL}  workers: {workers}\n", versioned=version(1))
    with clients(gateway) as made:
        assert {client.ask() for client in made} == {(1, "g1")}
        assert reload(gateway, 2) == "g2"
        assert {client.ask() for client in made} == {(2, "g2")}
        for before in [(1, "g1"), (2, "g2")]:
            assert gateway.control("rollback")["exit_code"] == 0
            assert {client.ask() for client in made} == {before}
        assert reload(gateway, 3) == "g3"
        assert {client.ask() for client in made} == {(3, "g3")}


@pytest.mark.parametrize("pool", ["{}", "{concurrency: threads}"])
def test_the_connections_of_the_front_workers_to_a_pool_are_handed_over_too(
    start: Start, pool: str
) -> None:
    mounts = "  /: good:app\n  /app: {app: 'versioned:app', pool: own}\n"
    if pool != "{}":
        mounts = mounts.replace("own}", "shop}")
    gateway = start(mounts, f"{MANUAL}pools:\n  shop: {pool}\n", versioned=version(1))
    with clients(gateway, 8) as made:
        for number in (2, 3):
            reload(gateway, number)
            assert {client.ask()[0] for client in made} == {number}
        assert gateway.control("rollback")["exit_code"] == 0
        assert {client.ask()[0] for client in made} == {2}


def test_a_pool_goes_on_with_them_whatever_it_becomes(start: Start) -> None:
    mounts = "  /: good:app\n  /app: {app: 'versioned:app', pool: shop}\n"
    pools = "pools:\n  shop: {}\n", "pools:\n  shop: {sticky: cookie}\n"
    gateway = start(mounts, f"{MANUAL}{pools[0]}", versioned=version(1))
    gateway.server = gateway.server.replace(pools[0], "")
    with clients(gateway, 8) as made:
        for number in (2, 3, 4):
            gateway.write_table(mounts, pools[(number + 1) % 2])
            reload(gateway, number)
            assert {client.ask()[0] for client in made} == {number}


def test_a_request_on_its_way_is_not_lost(start: Start) -> None:
    gateway = start(MOUNTS, MANUAL, versioned=version(1))
    post = b"POST /app HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    with clients(gateway, len(post)) as made:
        for size, client in enumerate(made):
            client.send(post[:size])
        generation = reload(gateway, 2)
        for size, client in enumerate(made):
            client.send(post[size:])
            told = json.loads(client.read())
            assert told["content"] == "hello"
            if size < post.index(b"\r\n\r\n") + 4:
                assert (told["version"], told["generation"]) == (2, generation)


def test_a_request_in_flight_ends_where_it_began_and_the_next_is_the_new_codes(
    start: Start,
) -> None:
    gateway = start(f"{MOUNTS}  /slow: slow:app\n", MANUAL, versioned=version(1), slow=SLOW)
    with clients(gateway, 1) as [client]:
        client.send(GET.replace(b"/app", b"/slow"))
        wait_until((gateway.folder / "began").exists, "the request has begun")
        reload(gateway, 2)
        gateway.write("go", "")
        assert client.read() == b"begu"
        assert client.ask() == (2, "g2")


class OnPort(Running):
    def __init__(self, folder: Path, mounts: str, server: str, port: int, **modules: str) -> None:
        self.port = port
        super().__init__(folder, mounts, server, **modules)

    def write_table(self, mounts: str, server: str = "") -> None:
        ours = f"listen: unix:{self.folder}/listen.sock"
        self.server = self.server.replace(ours, f"listen: 127.0.0.1:{self.port}")
        super().write_table(mounts, server)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.mark.parametrize("is_proxied", [False, True])
def test_the_peer_stays_who_it_was(tmp_path: Path, is_proxied: bool) -> None:
    server = f"{MANUAL}  trusted_proxies: [127.0.0.1]\n"
    if is_proxied:
        server += "  proxy_protocol: true\n"
    port = free_port()

    gateway = OnPort(tmp_path, MOUNTS, server, port, versioned=version(1))
    try:
        with ExitStack() as stack:
            made = [
                stack.enter_context(Client(socket.create_connection(("127.0.0.1", port))))
                for _ in range(3)
            ]
            peers = [client.socket.getsockname() for client in made]
            headers = [b"", b"", b""]
            if is_proxied:
                peers = [("192.0.2.7", 4711), ("192.0.2.8", 4712), ("192.0.2.9", 4713)]
                headers = [b"PROXY TCP4 %b 127.0.0.1 %d 80\r\n" % (h.encode(), p) for h, p in peers]
            for client, header in zip(made[:2], headers[:2], strict=True):
                client.send(header)
                client.ask()
            made[2].send(headers[2][:20])
            reload(gateway, 2)
            made[2].send(headers[2][20:])
            for client, (host, number) in zip(made, peers, strict=True):
                client.send(GET)
                told = json.loads(client.read())
                assert (told["version"], told["peer"]) == (2, [host, str(number)])
    finally:
        gateway.end()


FORGED = GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n")


def peer(client: Client, number: int) -> str:
    """Who the client is said to be, by the code of that version."""
    client.send(FORGED)
    told = json.loads(client.read())
    assert told["version"] == number
    host: str = told["peer"][0]
    return host


def test_a_stranger_is_not_trusted_for_having_been_handed_over(start: Start) -> None:
    server = f"{MANUAL}  trusted_proxies: ['unix:']\n  proxy_protocol: true\n"
    gateway = start(MOUNTS, server, versioned=version(1))
    with Client(gateway.connect()) as stranger, Client(gateway.connect()) as proxy:
        stranger.send(b"PROXY UNKNOWN\r\n")
        proxy.send(bytes.fromhex("0d0a0d0a000d0a515549540a20000000"))  # LOCAL: the proxy itself
        before = peer(stranger, 1)
        assert before != peer(proxy, 1) == "192.0.2.1"
        for number in (2, 3):
            reload(gateway, number)
            assert peer(stranger, number) == before
            assert peer(proxy, number) == "192.0.2.1"


def test_whom_to_trust_is_what_the_table_says_now(start: Start) -> None:
    gateway = start(MOUNTS, MANUAL, versioned=version(1))
    trusting = "  trusted_proxies: ['unix:']\n"
    with Client(gateway.connect()) as client:
        stranger = peer(client, 1)
        for number, server, expected in [(2, trusting, "192.0.2.1"), (3, "", stranger)]:
            gateway.write_table(MOUNTS, server)
            reload(gateway, number)
            assert peer(client, number) == expected


def test_on_a_unix_socket_the_peers_user_is_trusted_and_no_other(start: Start) -> None:
    us, others = (f"  trusted_proxies: ['unix:{uid}']\n" for uid in (os.getuid(), 4_000_000_000))
    gateway = start(MOUNTS, f"{MANUAL}{others}", versioned=version(1))
    with Client(gateway.connect()) as client:
        assert peer(client, 1) == f"unix:{os.getuid()}"
        gateway.server = gateway.server.replace(others, us)
        gateway.write_table(MOUNTS)
        reload(gateway, 2)
        assert peer(client, 2) == "192.0.2.1"


def test_a_worker_that_is_recycled_hands_its_connections_over(start: Start) -> None:
    gateway = start(MOUNTS, f"{MANUAL}  max_requests: 100\n", versioned=version(1))
    with clients(gateway, 10) as made:
        [old] = gateway.children()
        wait_until(
            lambda: [client.ask() for client in made] and old not in gateway.children(),
            "the worker is recycled, and ends with no connection",
        )
        for client in made:
            client.ask()


def serving(gateway: Running) -> int:
    """The pid of the worker that serves."""
    report = gateway.control("status")
    [generation] = [g for g in report["generations"] if g["generation"] == report["generation"]]
    [worker] = generation["workers"]
    pid: int = worker["pid"]
    return pid


def test_what_is_on_its_way_to_a_worker_that_dies_is_taken_by_the_next(start: Start) -> None:
    """The new worker stops, as by a fault, between its word that it accepts and its first turn."""
    gateway = start(MOUNTS, MANUAL, versioned=version(1))
    with clients(gateway) as made:
        gateway.write("versioned.py", version(2) + STOPS)
        gateway.control("reload")
        stopped = serving(gateway)
        for client in made:
            client.send(GET)
        os.kill(stopped, signal.SIGKILL)
        assert {json.loads(client.read())["version"] for client in made} == {2}
        assert serving(gateway) != stopped


def test_under_load_nothing_is_lost_and_no_descriptor_stays(start: Start) -> None:
    server = f"{MANUAL}  workers: 2\n  access_log: off\n  keep_previous: 3s\n"
    gateway = start(f"{MOUNTS}  /mirror: mirror:app\n", server, versioned=version(0), mirror=MIRROR)

    def count_sockets() -> list[int]:
        wait_until(lambda: len(gateway.children()) == 2, "the old workers have ended")
        pids = [gateway.process.pid, *gateway.children()]
        return sorted(len(find_sockets(pid)) for pid in pids)

    reload(gateway, 0)
    before = count_sockets()
    with Load(str(gateway.folder / "listen.sock"), 64) as load, clients(gateway) as made:
        for number in range(1, 6):
            reload(gateway, number)
            assert {client.ask()[0] for client in made} == {number}
        assert gateway.control("rollback")["exit_code"] == 0
        assert {client.ask() for client in made} == {(4, "g6")}
        served = load.total
        wait_until(lambda: load.total > served + 500, "the load goes on")
    assert (load.faults, load.resets) == ([], 0)
    wait_until(lambda: count_sockets() == before, "all have closed what they had")


def find_sockets(pid: int) -> list[str]:
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found.append(str(link.readlink()))
    return [name for name in found if name.startswith("socket:")]
