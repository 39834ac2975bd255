"""The admin listener: who reads what, by which name it is asked, how much it takes at once."""

import asyncio
import json
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from running import Running, wait_until

from gateway.supervisor.listeners import admin
from gateway.supervisor.listeners.admin import KNOWN, MAX_CLIENTS, AdminServer
from gateway.supervisor.listeners.sockets import open_listener

NOBODY = 65534
OTHERS = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
REPORT = {
    "status": "ready",
    "pid": 7,
    "table": "mounts.yaml",
    "mounts": [
        {
            "mount": "/a",
            "state": "failed",
            "error": "no database postgresql://user:secret@db",
            "traceback": "Traceback … secret",
            "quarantine": {"for": 3.0, "request": "GET /a?token=secret", "deaths": 3},
        }
    ],
    "last_reload": {"exit_code": 3, "messages": ["secret"]},
}
TOLD = {
    "status": "ready",
    "pid": 7,
    "table": "mounts.yaml",
    "mounts": [{"mount": "/a", "state": "failed", "quarantine": {"for": 3.0, "deaths": 3}}],
    "last_reload": {"exit_code": 3, "messages": []},
}
Ask = Callable[..., tuple[int, dict[str, str], bytes]]


class Admin:
    """One that runs; ``is_ready`` may be changed, and for how many ``seconds`` its supervisor is
    busy."""

    seconds = 0.0

    def __init__(self, listener: socket.socket) -> None:
        self.is_ready = True
        self.listener = listener
        self.server = AdminServer(listener, self.status, self.report, self.find_hosts)

    async def status(self) -> tuple[bool, dict[str, Any]]:
        await asyncio.sleep(self.seconds)
        return self.is_ready, {"status": "a report"}

    async def report(self) -> dict[str, Any]:
        return REPORT

    async def find_hosts(self) -> set[str | None]:
        return {"shop.example", None}

    def connect(self) -> socket.socket:
        client = socket.socket(self.listener.family)
        client.settimeout(20)
        client.connect(self.listener.getsockname())
        return client

    def send(self, request: str) -> tuple[int, dict[str, str], bytes]:
        """Status, fields and content of the whole answer; 0 where there is none."""
        with self.connect() as client:
            client.sendall(request.encode())
            return read(client)

    def ask(self, target: str, host: str = "localhost") -> tuple[int, dict[str, str], bytes]:
        return self.send(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")


def read(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    received = b""
    with suppress(ConnectionError):
        while data := client.recv(65536):
            received += data
    head, _, content = received.partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    status = int(line.split()[1]) if line else 0
    return status, dict(field.split(": ", 1) for field in fields), content


@contextmanager
def serving(address: str) -> Iterator[Admin]:
    with open_listener(address, "server.admin") as listener:
        running = Admin(listener)
        running.server.start()
        try:
            yield running
        finally:
            running.server.stop()


@pytest.fixture
def tcp() -> Iterator[Admin]:
    with serving("127.0.0.1:0") as running:
        yield running


@pytest.fixture
def unix(tmp_path: Path) -> Iterator[Admin]:
    with serving(f"unix:{tmp_path}/admin.sock") as running:
        yield running


# --- what is told -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "is_ready", "status", "report"),
    [
        ("/healthz", True, 200, {"status": "alive"}),
        ("/healthz", False, 200, {"status": "alive"}),
        ("/readyz", True, 200, {"status": "a report"}),
        ("/readyz", False, 503, {"status": "a report"}),
        ("/", True, 404, {"status": "unknown path", "known": KNOWN}),
    ],
)
def test_probes(tcp: Admin, path: str, is_ready: bool, status: int, report: Any) -> None:
    tcp.is_ready = is_ready
    code, fields, content = tcp.ask(path)
    assert (code, json.loads(content)) == (status, report)
    assert fields["Content-Length"] == str(len(content))
    assert (fields["Cache-Control"], fields["Connection"]) == ("no-store", "close")
    head = tcp.send(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert head == (status, fields, b"")
    assert tcp.send(f"GET {path} HTTP/1.0\r\n\r\n")[0] == status


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        ("POST /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        ("GET /readyz HTTP/1.1\r\n\r\n", 400),
        ("GET /readyz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        ("GET /readyz HTTP/1.1\r\nHost: <script>\r\n\r\n", 400),
        ("GET /readyz HTTP/3\r\nHost: localhost\r\n\r\n", 400),
        ("nonsense\r\n\r\n", 400),
    ],
)
def test_anything_else_is_refused(
    tcp: Admin, request_text: str, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert tcp.send(request_text)[0] == status
    assert capfd.readouterr().err == ""


def test_a_head_that_never_ends_is_cut(tcp: Admin) -> None:
    with tcp.connect() as client, suppress(ConnectionError):
        client.sendall(b"GET /readyz HTTP/1.1\r\n" + b"x: y\r\n" * 20_000)
        assert read(client)[0] == 0
    assert tcp.ask("/readyz")[0] == 200


def test_on_tcp_nobody_reads_what_apps_have_said(tcp: Admin) -> None:
    status, _, content = tcp.ask("/status")
    assert (status, json.loads(content)) == (200, TOLD)
    assert b"secret" not in content


def test_the_gateways_own_user_reads_all_of_it_on_a_unix_socket(unix: Admin) -> None:
    assert json.loads(unix.ask("/status", "anything")[2]) == REPORT


@OTHERS
def test_other_users_do_not(unix: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(unix.listener.getsockname())
    path.chmod(0o666)
    path.parent.chmod(0o711)
    monkeypatch.chdir(path.parent)  # of what is above they may not enter all
    with socket.socket(socket.AF_UNIX) as client:
        os.seteuid(NOBODY)
        try:
            client.connect(path.name)
        finally:
            os.seteuid(0)
        client.sendall(b"GET /status HTTP/1.0\r\n\r\n")
        assert json.loads(read(client)[2]) == TOLD


# --- by which name ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["localhost:8001", "LOCALHOST.", "a.localhost", "127.0.0.1", "[::1]:1", "10.1.2.3",
             "shop.example"]
)  # fmt: skip
def test_names_of_this_machine_are_answered(tcp: Admin, host: str) -> None:
    assert tcp.ask("/status", host)[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", ""])
@pytest.mark.parametrize("path", KNOWN)
def test_a_name_that_a_stranger_has_made_lead_here_is_not(tcp: Admin, host: str, path: str) -> None:
    status, _, content = tcp.ask(path, host)
    assert status == (421 if host else 400)
    assert b"ready" not in content


# --- how much at once -------------------------------------------------------------------------


def threads() -> int:
    return threading.active_count()


def test_many_clients_that_say_nothing_keep_no_probe_waiting(tcp: Admin) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(tcp.connect()) for _ in range(4 * MAX_CLIENTS)]
        before = threads()
        for _ in range(3):
            assert tcp.ask("/readyz")[0] == 200
        assert threads() == before
        wait_until(lambda: len(tcp.server._clients) <= MAX_CLIENTS, "no more are kept")
        assert read(silent[0])[0] == 0  # the oldest was closed


def test_a_client_has_a_deadline_for_all_of_it(tcp: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "CLIENT_SECONDS", 0.2)
    with tcp.connect() as slow:
        slow.sendall(b"GET /readyz HTTP/1.1\r\n")
        assert read(slow)[0] == 0
    monkeypatch.setattr(admin, "CLIENT_SECONDS", 30.0)
    with tcp.connect() as slow:
        slow.sendall(b"GET /readyz HTTP/1.1\r\n")
        wait_until(lambda: tcp.server._clients, "it is waited for")
        slow.sendall(b"Host: localhost\r\n\r\n")
        assert read(slow)[0] == 200


def test_a_client_that_does_not_read_is_let_go(tcp: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "CLIENT_SECONDS", 0.2)
    tcp.server._report = lambda: {"table": "x" * 30_000_000}
    with tcp.connect() as slow:
        slow.sendall(b"GET /status HTTP/1.0\r\n\r\n")
        with suppress(ConnectionError):
            slow.recv(1)  # the answer has begun, or its time is up already
        wait_until(lambda: not tcp.server._clients, "it has had its time")


def test_a_supervisor_that_is_busy_is_not_ready_and_is_alive(
    tcp: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "ASK_SECONDS", 0.05)
    tcp.seconds = 60
    code, _, content = tcp.ask("/readyz")
    assert (code, json.loads(content)) == (503, {"status": "the supervisor is busy"})
    assert tcp.ask("/healthz")[0] == 200
    tcp.seconds = 0
    assert tcp.ask("/readyz")[0] == 200


# --- of a whole gateway -----------------------------------------------------------------------


def test_a_gateway_tells_what_apps_said_to_its_own_user_alone(
    start: Callable[..., Running],
) -> None:
    secret = "raise ValueError('secret')\n"
    gateway = start("  /: good:app\n  /b: secret:app\n", secret=secret)
    answer = gateway.ask("/status", "admin.sock")
    assert b"ValueError: secret" in answer
    assert gateway.control("status")["mounts"][1]["traceback"].endswith("ValueError: secret")


RELOADS = 6


def test_each_status_is_answered_while_workers_and_pools_come_and_go(
    start: Callable[..., Running],
) -> None:
    """Reloads add pools and remove them, and workers are killed meanwhile."""
    gateway = start("  /: good:app\n", "  reload_on_edit: false\n  workers: 3\n")
    has_ended = threading.Event()
    answers: Counter[str] = Counter()

    def ask_admin(path: str) -> None:
        while not has_ended.is_set():
            head, _, content = gateway.ask(path, "admin.sock").partition(b"\r\n\r\n")
            assert json.loads(content)["status"] in ("ready", "starting"), content
            answers[f"{path} {head[9:12].decode()}"] += 1

    def ask_control() -> None:
        while not has_ended.is_set():
            report = gateway.control("status")
            assert report["generations"]
            assert all(mount["state"] for mount in report["mounts"])
            answers["gateway status"] += 1

    def kill_workers() -> None:
        while not has_ended.wait(0.2):
            for pid in list(gateway.children())[:2]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    with ThreadPoolExecutor(6) as clients:
        work = [clients.submit(ask_admin, path) for path in ("/status", "/status", "/readyz")]
        work += [clients.submit(ask_control), clients.submit(kill_workers)]
        try:
            for number in range(RELOADS):
                pools = "".join(
                    f"  /{n}: {{app: 'good:app', pool: own}}\n" for n in range(number % 3)
                )
                gateway.write_table("  /: good:app\n" + pools)
                gateway.control("reload")  # which may fail, since its workers are killed, too
        finally:
            has_ended.set()
        for each in work:
            each.result()
    assert {"/status 200", "gateway status"} <= answers.keys(), answers
    assert answers.keys() <= {"/status 200", "/readyz 200", "/readyz 503", "gateway status"}
    assert "a fault of the gateway's own" not in gateway.log_text
