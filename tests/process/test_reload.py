"""Reloads of a gateway that runs: what takes over, what changes nothing, and what is told."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from running import APP, ENVIRON, Running, wait_until

from gateway.commands.main import main
from gateway.commands.remote import format_status
from gateway.errors import GatewayError
from gateway.supervisor.listeners.control import send_command

Start = Callable[..., Running]
WAITING = """
import pathlib, time
here = pathlib.Path(__file__).parent
def app(environ, start_response):
    start_response("200 OK", [])
    (here / ("began-" + environ["QUERY_STRING"])).touch()
    while not (here / "go").exists():
        time.sleep(0.01)
    return [environ["gateway.generation"].encode()]
"""
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One gateway for all that must not change it."""
    running = Running(
        tmp_path_factory.mktemp("site"), server="  start_timeout: 5s\n  reload_on_edit: false\n"
    )
    try:
        yield running
        assert running.generation() == "g1"
    finally:
        code = running.end()
    assert code == 0


# --- what takes over --------------------------------------------------------------------------


def test_a_saved_table_is_served(start: Start) -> None:
    gateway = start()
    assert gateway.generation() == "g1"
    gateway.write("more.py", APP)
    saved = time.time()
    gateway.write_table("  /: good:app\n  /more: more:app\n")
    last = wait_until(lambda: gateway.control("status")["last_reload"], "a reload has ended")
    assert gateway.generation() == "g2"
    assert (last["trigger"], last["exit_code"], last["generation"]) == ("edit", 0, "g2")
    assert last["how"] == "new workers"
    assert 0 < last["seconds"] < time.time() - saved


def test_a_signal_is_a_reload(start: Start) -> None:
    gateway = start(server="  reload_on_edit: false\n")
    gateway.process.send_signal(signal.SIGHUP)
    last = wait_until(lambda: gateway.control("status")["last_reload"], "a reload has ended")
    assert (last["trigger"], last["exit_code"]) == ("SIGHUP", 0)
    assert gateway.generation() == "g2"


def test_a_reload_serves_the_apps_as_they_are_now(start: Start) -> None:
    gateway = start(server="  reload_on_edit: false\n")
    gateway.write(
        "good.py", (gateway.folder / "good.py").read_text().replace("200 OK", "201 Created")
    )
    assert b" 200 " in gateway.ask()
    assert gateway.control("reload")["exit_code"] == 0
    assert b" 201 " in gateway.ask()


def test_old_workers_end_at_once_where_nothing_is_in_flight(start: Start) -> None:
    gateway = start(server="  reload_on_edit: false\n  keep_previous: 0\n")
    with gateway.connect() as connection:
        connection.sendall(GET)
        assert connection.recv(65536).endswith(b"g1")
        assert gateway.control("reload")["exit_code"] == 0
        wait_until(lambda: len(gateway.children()) == 1, "the old worker has gone")
        [generation] = gateway.control("status")["generations"]
        assert (generation["generation"], generation["state"]) == ("g2", "serving")
        connection.sendall(GET)
        answer = connection.recv(65536)
        assert answer.endswith(b"g2")
        assert b"Connection: close" not in answer


def test_a_request_in_flight_outlives_the_reload(start: Start) -> None:
    slow = """
import pathlib, time
here = pathlib.Path(__file__).parent
def app(environ, start_response):
    start_response("200 OK", [])
    (here / "began").touch()
    while not (here / "go").exists():
        time.sleep(0.01)
    return [b"finished by " + environ["gateway.generation"].encode()]
"""
    gateway = start("  /: good:app\n  /slow: slow:app\n", "  reload_on_edit: false\n", slow=slow)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(gateway.ask, "/slow")
        wait_until((gateway.folder / "began").exists, "the request has begun")
        assert gateway.control("reload")["exit_code"] == 0
        assert gateway.generation() == "g2"
        gateway.write("go", "")
        assert waiting.result().endswith(b"finished by g1")


def test_what_is_asked_during_a_reload_is_answered_by_one_more(start: Start) -> None:
    gateway = start(server="  reload_on_edit: false\n")
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(gateway.control, ["reload"] * 8))
    assert {outcome["exit_code"] for outcome in outcomes} == {0}
    assert 1 <= len({outcome["generation"] for outcome in outcomes}) <= 3
    assert gateway.generation() == max(outcome["generation"] for outcome in outcomes)


def test_one_previous_generation_is_kept(start: Start) -> None:
    gateway = start(server="  reload_on_edit: false\n  keep_previous: 1h\n")
    for _ in range(4):
        assert gateway.control("reload")["exit_code"] == 0
    wait_until(lambda: len(gateway.children()) == 2, "those before the last have ended")
    found = [(g["generation"], g["state"]) for g in gateway.control("status")["generations"]]
    assert found == [("g4", "standby"), ("g5", "serving")]
    assert gateway.control("rollback")["generation"] == "g4"
    assert gateway.control("rollback")["generation"] == "g5"


def test_what_no_rollback_reaches_is_not_kept(start: Start) -> None:
    gateway = start(server="  keep_previous: 1h\n")
    assert gateway.control("reload")["generation"] == "g2"
    assert len(gateway.children()) == 2
    gateway.write_table("  /moved: good:app\n")
    wait_until(lambda: len(gateway.children()) == 1, "a rollback undoes the edit in place")
    assert gateway.control("rollback")["how"] == "in place"
    assert gateway.generation() == "g2"


def test_old_workers_do_not_pile_up(start: Start) -> None:
    gateway = start(server="  reload_on_edit: false\n", good=WAITING)
    with ThreadPoolExecutor(5) as pool:
        waiting = []
        for number in range(5):
            waiting.append(pool.submit(gateway.ask, f"/?{number}"))
            wait_until((gateway.folder / f"began-{number}").exists, "the request has begun")
            assert gateway.control("reload")["exit_code"] == 0
        states = [g["state"] for g in gateway.control("status")["generations"]]
        assert states == ["stopping"] * 2 + ["retiring"] * 2 + ["standby", "serving"]
        gateway.write("go", "")
        assert all(b" 200 " in each.result() for each in waiting)


def test_the_end_of_its_terminal_is_the_end_of_a_gateway(tmp_path: Path) -> None:
    gateway = Running(tmp_path)  # the table and the app; this one has no terminal
    gateway.end()
    main_side, terminal = os.openpty()
    command = [sys.executable, "-m", "gateway", "serve", "-c", str(tmp_path / "mounts.yaml")]
    with subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, env=ENVIRON, close_fds=True
    ) as process:
        try:
            os.close(terminal)
            gateway.process = process
            wait_until(gateway.is_ready, "the gateway is ready")
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: gateway.generation() == "g2", "with its terminal it reloads")
            os.close(main_side)
            process.send_signal(signal.SIGHUP)
            assert process.wait(10) == 0
        finally:
            process.kill()


# --- what changes nothing ---------------------------------------------------------------------

MORE = "  /: good:app\n  /more: more:app\n"


@pytest.mark.parametrize(
    ("mounts", "more", "exit_code", "told"),
    [
        ("  /: good:app\n  x: [\n", "", 2, "not YAML"),
        ("  /: good:ap p\n", "", 2, ":9:6: mounts./: expected an app"),
        ("  /: good:app\n  /more: missing:app\n", "", 2, 'there is no module "missing"'),
        (MORE, "1/0", 3, ":10:3: mounts./more: more:app: ZeroDivisionError"),
        (MORE, "app = (", 3, ":10:3: mounts./more: more:app: SyntaxError"),
        (MORE, "import nowhere", 3, "No module named 'nowhere'"),
        (MORE, "import sys; sys.exit(7)", 3, "called sys.exit(7) while it was loaded"),
        (MORE, "import os; os._exit(7)", 3, ":10:3: mounts./more: worker "),
        (MORE, "import os; os.kill(os.getpid(), 11)", 3, "was killed by SIGSEGV"),
        (MORE, "import time; time.sleep(60)", 3, ":10:3: mounts./more: worker "),
        (MORE, "while True: pass", 3, "did not load within 5 s (server.start_timeout)"),
        (MORE, "app = 7", 3, "is not a WSGI callable (int)"),
    ],
)
def test_a_bad_edit_changes_nothing_and_tells_its_cause(
    steady: Running, mounts: str, more: str, exit_code: int, told: str
) -> None:
    before = steady.children()
    steady.write("more.py", more + "\n")
    steady.write_table(mounts)
    outcome = steady.control("reload")
    assert outcome["exit_code"] == exit_code
    assert told in "\n".join(outcome["messages"])
    assert steady.generation() == outcome["generation"] == "g1"
    assert steady.children() == before
    assert steady.control("status")["last_reload"] == outcome


def test_a_file_that_has_gone_or_is_no_text_changes_nothing(steady: Running) -> None:
    table = steady.folder / "mounts.yaml"
    table.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in steady.control("reload")["messages"][0]
    table.unlink()
    assert "no such file" in steady.control("reload")["messages"][0]
    assert steady.generation() == "g1"


@pytest.mark.parametrize("key", ["listen", "admin", "control"])
def test_the_sockets_are_kept(steady: Running, key: str) -> None:
    server = steady.server
    steady.server = server.replace(f"/{key}.sock", "/other.sock")
    steady.write_table("  /: good:app\n")
    steady.server = server
    [problem] = steady.control("reload")["messages"]
    assert f"server.{key}: a reload cannot change it" in problem
    assert "restart the gateway" in problem


def test_a_mount_that_failed_before_does_not_hold_up_the_others(start: Start) -> None:
    broken = "  /: good:app\n  /broken: broken:app\n"
    gateway = start(broken, "  reload_on_edit: false\n", broken="1/0\n")
    assert b" 503 " in gateway.ask("/broken")
    gateway.write_table(broken + "  /more: good:app\n")
    assert gateway.control("reload")["exit_code"] == 0
    failed = [m for m in gateway.control("status")["mounts"] if m["state"] == "failed"]
    assert [m["mount"] for m in failed] == ["/broken"]
    assert "ZeroDivisionError" in failed[0]["traceback"]
    gateway.write("broken.py", (gateway.folder / "good.py").read_text())
    assert gateway.control("reload")["exit_code"] == 0
    gateway.write("broken.py", "1/0\n")
    assert gateway.control("reload")["exit_code"] == 3
    assert b" 200 " in gateway.ask("/broken")


def test_a_worker_that_dies_is_replaced_after_a_reload_too(start: Start) -> None:
    gateway = start(server="  reload_on_edit: false\n  keep_previous: 0\n")
    assert gateway.control("reload")["exit_code"] == 0
    wait_until(lambda: len(gateway.children()) == 1, "the old worker has gone")
    [pid] = gateway.children()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: gateway.children() - {pid}, "a new worker starts")
    assert gateway.generation() == "g2"


# --- probes -----------------------------------------------------------------------------------

PROBED = "  /: {app: 'good:app'}\n  /more: {app: 'more:app', probe: '/well?', timeout: 1s}\n"
WELL = """
import time
def app(environ, start_response):
    assert environ["SCRIPT_NAME"] + environ["PATH_INFO"] == "/more/well"
    time.sleep(SECONDS)
    start_response("STATUS", [])
    return [b"x" * 100_000]
"""


@pytest.mark.parametrize(
    ("status", "seconds", "told"),
    [
        ("200 OK", "0", ""),
        ("302 Found", "0", ""),
        ("500 Internal Server Error", "0", "was answered 500 Internal Server Error"),
        ("404 Not Found", "0", "was answered 404 Not Found"),
        ("200 OK", "60", "was not answered within 1 s"),
        ("200 OK", "1 / 0", "was answered 500 Internal Server Error"),
    ],
)
def test_a_mount_that_is_not_well_fails_a_reload(
    start: Start, status: str, seconds: str, told: str
) -> None:
    gateway = start(server="  reload_on_edit: false\n")
    gateway.write("more.py", WELL.replace("STATUS", status).replace("SECONDS", seconds))
    gateway.write_table(PROBED)
    outcome = gateway.control("reload")
    if told:
        assert outcome["exit_code"] == 3
        [message] = outcome["messages"]
        assert message.endswith(f":9:3: mounts./more: its probe /more/well? {told}")
        assert gateway.generation() == "g1"
        if "answered 4" in told or "answered 5" in told:
            # of a worker that is never told to accept
            [record] = [r for r in gateway.records if r["user_agent"] == "gateway-probe"]
            assert str(record["status"]) in told
    else:
        assert outcome["exit_code"] == 0
        assert gateway.generation() == "g2"


@pytest.mark.parametrize(
    ("conditions", "told"),
    [
        ("status: 200, contains: xxx, within: 5s", ""),
        ("status: 204", "was answered 200 OK instead of 204"),
        ("contains: healthy", 'was answered without "healthy"'),
        ("within: 1ms", "was not answered within 0.001 s"),
    ],
)
def test_a_probe_may_ask_for_more(start: Start, conditions: str, told: str) -> None:
    gateway = start(server="  reload_on_edit: false\n")
    gateway.write("more.py", WELL.replace("STATUS", "200 OK").replace("SECONDS", "0.01"))
    gateway.write_table(PROBED.replace("'/well?'", f"{{path: '/well?', {conditions}}}"))
    outcome = gateway.control("reload")
    assert outcome["exit_code"] == (3 if told else 0)
    if told:
        [message] = outcome["messages"]
        assert message.endswith(f": its probe /more/well? {told}")


STRICT = """
def app(environ, start_response):
    if environ["HTTP_HOST"] != "shop.example.com":
        start_response("400 Bad Request", [])
    elif environ["wsgi.url_scheme"] != "https":
        start_response("301 Moved Permanently", [("Location", "https://shop.example.com/")])
    else:
        start_response("200 OK", [])
    return []
"""


@pytest.mark.parametrize(
    ("mount", "told"),
    [
        ("shop.example.com/: {app: 'more:app', probe: {path: /, status: 200}}", ""),
        ("/: {app: 'more:app', probe: {path: /, status: 200, host: shop.example.com}}", ""),
        ("/: {app: 'more:app', probe: /}", "asked with Host: localhost; for another one: probe: "),
        (
            "/: {app: 'more:app', probe: {path: /, status: 200, host: shop.example.com, "
            "scheme: http}}",
            "instead of 200 (asked with the scheme http; for the other one: probe: ",
        ),
    ],
)
def test_a_probe_has_a_host_and_a_scheme(start: Start, mount: str, told: str) -> None:
    gateway = start("  /good: good:app\n", "  reload_on_edit: false\n")
    gateway.write("more.py", STRICT)
    gateway.write_table(f"  /good: good:app\n  {mount}\n")
    outcome = gateway.control("reload")
    assert outcome["exit_code"] == (3 if told else 0), outcome
    assert told in "".join(outcome["messages"])
    # what a probe says of its scheme is nobody else's
    with gateway.connect() as client:
        request = b"GET / HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: gateway-probe\r\n"
        client.sendall(request + b"Connection: close\r\n\r\n")
        assert (b" 404 " if told else b" 301 ") in client.recv(100)


def test_a_mount_that_is_not_well_at_a_start_is_served_and_logged(start: Start) -> None:
    more = WELL.replace("STATUS", "418 Teapot").replace("SECONDS", "0")
    gateway = start(PROBED, "  reload_on_edit: false\n", more=more)
    assert b" 418 " in gateway.ask("/more/well")
    said = "mounts./more: its probe /more/well? was answered 418 Teapot; it serves"
    assert said in gateway.log_text
    for _ in range(2):
        status = gateway.control("status")
        [mount] = [mount for mount in status["mounts"] if mount["mount"] == "/more"]
        assert (mount["state"], mount["error"] in said) == ("serving", True)
        assert any(said in line for line in format_status(status))
        assert "2, failed: 0" in format_status(status)[1]
        outcome = gateway.control("reload")
        assert outcome["exit_code"] == 0
        assert [message.endswith(said) for message in outcome["messages"]] == [True]
    gateway.write("more.py", more.replace("418 Teapot", "200 OK"))
    assert gateway.control("reload")["messages"] == []
    assert not any(said in line for line in format_status(gateway.control("status")))


def test_a_mount_that_did_not_load_is_not_said_to_serve_badly(start: Start) -> None:
    gateway = start(PROBED, "  reload_on_edit: false\n", more="1 / 0")
    for _ in range(2):
        [_, mount] = gateway.control("status")["mounts"]
        assert (mount["state"], mount["error"]) == (
            "failed",
            "more:app: ZeroDivisionError: division by zero",
        )
        assert b" 503 " in gateway.ask("/more/well")
        assert gateway.control("reload")["exit_code"] == 0
    assert "its probe" not in gateway.log_text
    gateway.write("more.py", WELL.replace("STATUS", "200 OK").replace("SECONDS", "0"))
    gateway.control("reload")
    assert [m["state"] for m in gateway.control("status")["mounts"]] == ["serving", "serving"]


def test_check_shows_what_the_running_gateway_reports(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    more = WELL.replace("STATUS", "418 Teapot").replace("SECONDS", "0")
    mounts = f"{PROBED}  /gone: gone:app\n"
    gateway = start(mounts, "  reload_on_edit: false\n", more=more, gone="1 / 0")
    gateway.write("gone.py", APP)
    gateway.write("more.py", more.replace("418 Teapot", "200 OK"))
    table = str(gateway.folder / "mounts.yaml")
    check = ["check", "-c", table]
    # no fault of the table as it is now, which the next reload serves
    assert main(check) == 0
    assert capfd.readouterr().out == (
        f"{table}: 3 mounts, no problems\n"
        f"the running gateway, pid {gateway.process.pid}, reports:\n"
        f"  {table}:10:3: mounts./gone: gone:app: ZeroDivisionError: division by zero\n"
        f"  {table}:9:3: mounts./more: its probe /more/well? was answered 418 Teapot; it serves\n"
    )
    assert gateway.control("reload")["exit_code"] == 0
    assert main(check) == 0
    assert capfd.readouterr().out == f"{table}: 3 mounts, no problems\n"


# --- stopping ---------------------------------------------------------------------------------


def test_a_stop_is_told_before_connections_are_refused(start: Start) -> None:
    gateway = start(server="  drain_delay: 1h\n")
    gateway.process.send_signal(signal.SIGTERM)
    wait_until(lambda: b" 503 " in gateway.ask("/readyz", "admin.sock"), "it is not ready")
    assert b" 200 " in gateway.ask("/healthz", "admin.sock")
    assert gateway.generation() == "g1"
    assert gateway.control("reload")["messages"] == ["the gateway is stopping"]
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(10) == 0
    assert "second signal: ending at once" in gateway.log_text


def test_a_stop_that_every_process_is_told_of_starts_no_workers(start: Start) -> None:
    """As by a terminal, or a supervisor that signals the whole group."""
    gateway = start(server="  drain_delay: 1h\n")
    gateway.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "stopping in" in gateway.log_text, "it stops")
    for pid in gateway.children():
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not gateway.children(), "its workers have ended")
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(10) == 0
    assert not {"ERROR", '"error"'} & set(gateway.log_text.split())
    assert "a new one starts" not in gateway.log_text


# --- the control socket -----------------------------------------------------------------------


def test_only_its_own_user_may_connect_and_nothing_is_left_behind(start: Start) -> None:
    gateway = start()
    path = gateway.folder / "control.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert send_command(path, "stop") == {}
    assert gateway.process.wait(10) == 0
    assert not path.exists()
    with pytest.raises(GatewayError, match="no gateway answers at"):
        send_command(path, "status")


@pytest.mark.parametrize("question", [b"\n", b"[]\n", b'{"command": "dance"}\n', b"{\n", b"7\n"])
def test_what_is_no_command_is_refused(steady: Running, question: bytes) -> None:
    with steady.connect("control.sock") as connection, connection.makefile("rb") as answers:
        connection.sendall(question)
        assert b"one of: status, reload" in answers.read()


@pytest.mark.parametrize("question", [b"", b"no line"])
def test_what_is_no_line_ends_the_connection_alone(steady: Running, question: bytes) -> None:
    with steady.connect("control.sock") as connection:
        try:
            connection.sendall(question)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""
        except OSError:
            pass  # closed with some of it unread
    assert steady.control("status")["status"] == "ready"


def test_status_is_on_the_admin_listener_too(steady: Running) -> None:
    answer = steady.ask("/status", "admin.sock")
    assert b" 200 " in answer.partition(b"\r\n")[0]
    assert b'"generation": "g1"' in answer
