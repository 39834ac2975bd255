"""Pools that run a server of another make: where it is asked, and what a reload does to it."""

import os
import pwd
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from running import Running, wait_until

from gateway.commands.main import main

Start = Callable[..., Running]
MANUAL = "  reload_on_edit: false\n"
# ``python web.py WHERE``: a Unix socket or a port; ends at once where it is told to end
SERVER = """
import http.server, os, pathlib, socketserver, sys, time
here = pathlib.Path(__file__).parent
print("starting", sys.argv[1:], flush=True)
if (here / "broken").exists():
    sys.exit("cannot go on")
while (here / "hold").exists():
    time.sleep(0.01)

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def address_string(self):
        return "gateway"
    def do_GET(self):
        status = 200
        if self.path == "/healthz" and (here / "ill").exists():
            status = 500
        content = " ".join([str(os.getpid()), self.path, os.environ.get("X", "-"), os.getcwd(),
                            self.headers.get("X-Forwarded-Prefix", "-")]).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.path == "/slow":
            (here / "began").touch()
            while not (here / "go").exists():
                time.sleep(0.01)
        self.wfile.write(content)
    def log_message(self, *said):
        pass

class Unix(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

class Tcp(http.server.ThreadingHTTPServer):
    daemon_threads = True

where = sys.argv[1]
server = Unix(where, Handler) if "/" in where else Tcp(("127.0.0.1", int(where)), Handler)
server.serve_forever()
"""
POOL = "pools:\n  api: {{command: 'python web.py {0}'{1}}}\n"
MOUNTS = "  /: good:app\n  /api: {upstream: 'pool:api'}\n"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that any user may look into, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def begin(
    start: Start,
    where: str = "{socket}",
    settings: str = "",
    mounts: str = MOUNTS,
    server: str = MANUAL,
) -> Running:
    return start(mounts, f"{server}{POOL.format(where, settings)}", web=SERVER)


def edit(gateway: Running, old: str, new: str, mounts: str = MOUNTS) -> dict[str, Any]:
    """Change the table above its mounts, and reload."""
    assert old in gateway.server
    gateway.server = gateway.server.replace(old, new)
    gateway.write_table(mounts)
    return gateway.control("reload")


def told(gateway: Running, target: str = "/api/x") -> list[str] | None:
    """Pid, path, $X, working directory and prefix; None where no server answered."""
    head, _, content = gateway.ask(target).partition(b"\r\n\r\n")
    return content.decode().split(" ") if b" 200 " in head.partition(b"\r\n")[0] else None


def pid(gateway: Running) -> int:
    """The server's, once one answers."""
    return int(wait_until(lambda: told(gateway), "the command answers")[0])


def has_ended(number: int) -> bool:
    return not Path(f"/proc/{number}").exists()


def workers(gateway: Running, state: str = "serving") -> list[dict[str, Any]]:
    return [
        worker
        for generation in gateway.control("status")["generations"]
        for worker in generation["workers"]
        if generation["pool"] == "api" and generation["state"] == state
    ]


# --- starting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["{socket}", "{port}"])
def test_a_command_answers_below_its_mount(start: Start, where: str) -> None:
    gateway = begin(start, where, ", env: {X: one}")
    number = pid(gateway)
    directory = str(gateway.folder)
    assert told(gateway, "/api/y?z=1") == [str(number), "/y?z=1", "one", directory, "/api"]
    [worker] = workers(gateway)
    assert (worker["pid"], worker["state"]) == (number, "ready")
    assert worker["address"].startswith("unix:/" if where == "{socket}" else "http://127.0.0.1:")
    assert b" 200 " in gateway.ask("/")


def test_its_output_is_logged_and_no_access_record(start: Start) -> None:
    gateway = begin(start)
    pid(gateway)
    assert "starting ['/" in gateway.log_text
    wait_until(lambda: gateway.records, "the request is recorded")
    assert {record["mount"] for record in gateway.records} == {"/api"}


def test_until_it_answers_its_mount_is_503_and_the_others_serve(start: Start) -> None:
    holding = SERVER.replace('"hold"', '"go"').replace("while (", "while not (")
    gateway = start(MOUNTS, MANUAL + POOL.format("{socket}", ""), web=holding)
    answer = gateway.ask("/api/x")
    assert b" 503 " in answer.partition(b"\r\n")[0]
    assert b"\r\nRetry-After: 5\r\n" in answer
    assert gateway.generation() == gateway.control("status")["generation"]
    gateway.write("go", "")
    pid(gateway)


def test_several_processes_have_an_address_each(start: Start) -> None:
    gateway = begin(start, settings=", workers: 2")
    seen: set[str] = set()

    def are_both_seen() -> bool:
        seen.update((told(gateway) or [])[:1])
        return len(seen) == 2

    wait_until(are_both_seen, "both have answered")
    assert {str(worker["pid"]) for worker in workers(gateway)} == seen


def test_no_shell_reads_the_command(start: Start) -> None:
    gateway = begin(start, '{socket} $$HOME "a b" ; true')
    pid(gateway)
    assert ", '$HOME', 'a b', ';', 'true']" in gateway.log_text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may start processes as another user")
@pytest.mark.parametrize("where", ["{socket}", "{port}"])
def test_a_command_runs_as_its_pools_user(open_folder: Path, where: str) -> None:
    command = POOL.replace("python", "/usr/bin/python3").format(where, ", user: nobody, nice: 3")
    gateway = Running(open_folder, MOUNTS, MANUAL + command, web=SERVER)
    try:
        number = pid(gateway)
        assert Path(f"/proc/{number}").stat().st_uid == pwd.getpwnam("nobody").pw_uid
        assert os.getpriority(os.PRIO_PROCESS, number) == 3
    finally:
        gateway.end()


# --- what does not start ----------------------------------------------------------------------


def test_a_command_that_cannot_be_found_fails_the_reload(start: Start) -> None:
    gateway = begin(start)
    pid(gateway)
    outcome = edit(gateway, "python web.py", "pithon web.py")
    assert outcome["exit_code"] == 3
    [message] = outcome["messages"]
    assert "mounts.yaml:8:3: pools.api: a worker could not be started: " in message
    assert "pithon" in message
    assert told(gateway) is not None


def test_at_a_start_its_mount_answers_503_and_the_others_serve(start: Start) -> None:
    server = MANUAL + POOL.format("{socket}", "").replace("python", "pithon")
    gateway = start(MOUNTS, server, web=SERVER)
    wait_until(
        lambda: "'pithon' in its environment or on PATH; again in" in gateway.log_text,
        "it is tried again",
    )
    mount = gateway.control("status")["mounts"][1]
    assert mount["state"] == "failed"
    assert mount["error"].startswith("its pool has no worker: a worker could not be started: there")
    assert b" 503 " in gateway.ask("/api/x").partition(b"\r\n")[0]
    assert b" 200 " in gateway.ask("/").partition(b"\r\n")[0]
    # and holds up no edit, however it is served
    gateway.write_table(MOUNTS + "  /too: good:app\n")
    outcome = gateway.control("reload")
    assert (outcome["exit_code"], outcome["how"]) == (3, "new workers")
    assert b" 200 " in gateway.ask("/too").partition(b"\r\n")[0]
    assert edit(gateway, "pithon", "python")["exit_code"] == 0
    pid(gateway)


def test_a_command_that_ends_at_once_fails_the_reload(start: Start) -> None:
    gateway = begin(start)
    number = pid(gateway)
    gateway.write("broken", "")
    outcome = gateway.control("reload")
    assert outcome["exit_code"] == 3
    first, *lines = outcome["messages"]
    assert first.startswith(f"{gateway.folder}/mounts.yaml:8:3: pools.api: worker ")
    assert first.endswith(" (loading) exited with 1 while it was loading")
    assert [line.partition(" ")[0] for line in lines] == ["starting", "cannot"]
    assert pid(gateway) == number


def test_a_command_that_never_listens_fails_the_reload(start: Start) -> None:
    gateway = begin(start, server=f"{MANUAL}  start_timeout: 2s\n")
    number = pid(gateway)
    gateway.write("hold", "")
    outcome = gateway.control("reload")
    assert outcome["exit_code"] == 3
    first, *lines = outcome["messages"]
    assert " did not load within 2 s (server.start_timeout): nothing listens on unix:/" in first
    assert lines[0].startswith("starting")
    assert pid(gateway) == number


def test_the_health_path_is_asked_before_it_serves(start: Start) -> None:
    mounts = MOUNTS.replace("'}", "', health: /healthz}")
    gateway = begin(start, mounts=mounts, server=f"{MANUAL}  start_timeout: 2s\n")
    number = pid(gateway)
    assert gateway.control("reload")["exit_code"] == 0
    assert pid(gateway) != number
    gateway.write("ill", "")
    outcome = gateway.control("reload")
    assert outcome["exit_code"] == 3
    assert "/healthz was answered 500" in outcome["messages"][0]


DJANGO = """
import sys
from django.conf import settings
settings.configure(
    ROOT_URLCONF="web", ALLOWED_HOSTS=["shop.example.com"], SECRET_KEY="x", DEBUG=False,
    SECURE_SSL_REDIRECT=True, SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"),
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
    ],
)
from django.core.management import execute_from_command_line
from django.http import HttpResponse
from django.urls import path
urlpatterns = [path("well", lambda request: HttpResponse("well"))]
if __name__ == "__main__":
    sys.modules["web"] = sys.modules["__main__"]
    execute_from_command_line(sys.argv)
"""
RUNSERVER = "pools:\n  api: {command: 'python web.py runserver --noreload 127.0.0.1:{port}'}\n"


@pytest.mark.parametrize(
    "mount",
    [
        "shop.example.com/: {upstream: 'pool:api', health: /well}",
        "/api: {upstream: 'pool:api', health: /well, health_host: shop.example.com}",
        "/api: {upstream: 'pool:api', health: /well, host: shop.example.com}",
        "/api: {upstream: 'pool:api'}",
    ],
)
def test_django_that_knows_its_hosts_comes_to_serve(start: Start, mount: str) -> None:
    gateway = start(f"  /: good:app\n  {mount}\n", MANUAL + RUNSERVER, web=DJANGO)
    wait_until(lambda: "pool api: ready" in gateway.log_text, "it serves")
    assert all(each["state"] == "serving" for each in gateway.control("status")["mounts"])
    assert gateway.control("reload")["messages"] == []


STRICT = """
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    with listener.accept()[0] as client:
        known = b"Host: shop.example.com" in client.recv(4096)
        client.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n" if known else b"HTTP/1.1 400 No\\r\\n\\r\\n")
"""


def test_a_health_path_that_never_passes_is_shown(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = "  /: good:app\n  /api: {upstream: 'pool:api', health: /well}\n"
    pool = "pools:\n  api: {command: 'python -S web.py {port}'}\n"
    gateway = start(wrong, pool, web=STRICT)
    said = "/well was answered 400 (asked with Host: localhost; for another one: health_host: ...)"

    def find() -> dict[str, Any]:
        mount: dict[str, Any] = gateway.control("status")["mounts"][1]
        return mount

    wait_until(lambda: find()["error"].endswith(said), "it is shown")
    assert find()["state"] == "failed"
    assert find()["error"] == f"its pool has no worker: {said}"
    assert main(["check", "-c", str(gateway.folder / "mounts.yaml")]) == 0
    assert f"mounts./api: its pool has no worker: {said}\n" in capfd.readouterr().out

    def reload(mounts: str) -> dict[str, Any]:
        last = gateway.control("status")["last_reload"]
        gateway.write_table(mounts)
        is_new = lambda: gateway.control("status")["last_reload"] != last  # noqa: E731
        wait_until(is_new, "the edit is served")
        outcome: dict[str, Any] = gateway.control("status")["last_reload"]
        return outcome

    # an edit in place, which needs no new start
    [message] = reload(f"{wrong}  /more: good:app\n")["messages"]
    assert message.endswith(f"mounts./api: its pool has no worker: {said}; it answers 503")
    right = wrong.replace("/well}", "/well, health_host: shop.example.com}")
    assert reload(right)["how"] == "in place"
    wait_until(lambda: find()["state"] == "serving", "the command that waits is asked anew")
    assert find()["error"] == ""


@pytest.mark.parametrize("user", ["", ", user: nobody"])
def test_it_does_not_outlive_a_supervisor_that_is_killed(
    start: Start, user: str, open_folder: Path
) -> None:
    if user and os.geteuid():
        pytest.skip("needs root")
    # nobody may not enter pytest's folder
    (open_folder / "web.py").write_text(SERVER)
    (open_folder / "web.py").chmod(0o644)
    command = f"command: '/usr/bin/python3 web.py {{port}}', directory: {open_folder}"
    pool = f"pools:\n  api: {{{command}{user}}}\n"
    gateway = start(MOUNTS, MANUAL + pool)
    number = pid(gateway)
    os.kill(gateway.process.pid, signal.SIGKILL)
    wait_until(lambda: not is_running(number), "it has ended")


def is_running(pid: int) -> bool:
    """What nobody has collected is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# --- changing ---------------------------------------------------------------------------------


def test_a_reload_starts_it_beside_the_old_one_and_loses_nothing(start: Start) -> None:
    gateway = begin(start, server=f"{MANUAL}  keep_previous: 0\n")
    first, is_over = pid(gateway), threading.Event()

    def load() -> list[bytes]:
        answers = []
        while not is_over.is_set():
            answers.append(gateway.ask("/api/x").partition(b"\r\n")[0])
        return answers

    with ThreadPoolExecutor(2) as pool:
        loads = [pool.submit(load) for _ in range(2)]
        try:
            for _ in range(3):
                assert gateway.control("reload")["exit_code"] == 0
        finally:
            is_over.set()
    assert {answer for load in loads for answer in load.result()} == {b"HTTP/1.1 200 OK"}
    assert pid(gateway) != first
    wait_until(lambda: has_ended(first), "the old one has ended")
    assert " did not end; killed" not in gateway.log_text


def test_the_front_workers_are_changed_in_place(start: Start) -> None:
    gateway = begin(start, server="")
    number, front = pid(gateway), gateway.generation()
    gateway.server = gateway.server.replace("'}", "', env: {X: two}}")
    gateway.write_table(MOUNTS)
    last = wait_until(lambda: gateway.control("status")["last_reload"], "a reload has ended")
    assert (last["exit_code"], last["how"]) == (0, "new workers of api")
    now = told(gateway)
    assert now is not None
    assert (now[0] != str(number), now[2]) == (True, "two")
    assert gateway.generation() == front


def test_an_edit_of_its_mount_alone_leaves_it_running(start: Start) -> None:
    gateway = begin(start, server="")
    number = pid(gateway)
    gateway.write_table(MOUNTS.replace("'}", "', prefix: keep, timeout: 9s}"))
    last = wait_until(lambda: gateway.control("status")["last_reload"], "a reload has ended")
    assert (last["exit_code"], last["how"]) == (0, "in place")
    now = told(gateway)
    assert now is not None
    assert now[:2] == [str(number), "/api/x"]


def test_a_request_in_flight_ends_at_the_old_one(start: Start) -> None:
    gateway = begin(start, server=f"{MANUAL}  keep_previous: 0\n")
    number = pid(gateway)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(told, gateway, "/api/slow")
        wait_until((gateway.folder / "began").exists, "the request has begun")
        assert gateway.control("reload")["exit_code"] == 0
        assert pid(gateway) != number
        gateway.write("go", "")
        answer = slow.result()
    assert answer is not None
    assert answer[0] == str(number)
    wait_until(lambda: has_ended(number), "the old one has ended")


def test_a_rollback_asks_the_old_one_again(start: Start) -> None:
    gateway = begin(start)
    number = pid(gateway)
    assert gateway.control("reload")["exit_code"] == 0
    assert pid(gateway) != number
    assert gateway.control("rollback")["exit_code"] == 0
    assert pid(gateway) == number


def test_a_command_comes_and_goes(start: Start) -> None:
    gateway = start(web=SERVER, server=MANUAL)
    gateway.server += POOL.format("{port}", "")
    gateway.write_table(MOUNTS)
    assert gateway.control("reload")["exit_code"] == 0
    number = told(gateway)
    assert number is not None
    gateway.write_table("  /: good:app\n")
    assert gateway.control("reload")["exit_code"] == 0
    wait_until(lambda: has_ended(int(number[0])), "it has ended")


# --- ends -------------------------------------------------------------------------------------


def test_one_that_dies_is_replaced_and_found_again(start: Start) -> None:
    gateway = begin(start)
    number = pid(gateway)
    os.kill(number, signal.SIGKILL)
    wait_until(lambda: (told(gateway) or [str(number)])[0] != str(number), "another answers")
    assert {record["status"] for record in gateway.records} <= {200, 502, 503}


def test_one_that_is_old_goes_once_another_answers(start: Start) -> None:
    gateway = begin(start, settings=", max_lifetime: 1s")
    number = pid(gateway)
    wait_until(lambda: has_ended(number), "it was replaced")
    assert pid(gateway) != number
    assert {record["status"] for record in gateway.records if record["status"] != 503} == {200}


def test_the_gateways_end_ends_it_and_what_it_has_started(start: Start) -> None:
    gateway = begin(start)
    number = pid(gateway)
    assert gateway.end() == 0
    assert has_ended(number)
    assert not (gateway.folder / "control.pools").exists()
