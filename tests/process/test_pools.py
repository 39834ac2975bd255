"""Pools: which process runs which mount, and what a reload does to each of them."""

import json
import os
import pwd
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from running import Running, wait_until

from gateway.commands.remote import format_status
from gateway.config.model import PoolSettings
from gateway.config.text.env_file import parse_env_file
from gateway.supervisor.listeners.control import send_command
from gateway.supervisor.processes.launch import build_command

Start = Callable[..., Running]
MANUAL = "  reload_on_edit: false\n"
TELLING = """
import json, os, sys
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    names = ("SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "REMOTE_ADDR", "HTTP_HOST",
             "wsgi.url_scheme", "gateway.request_id", "gateway.generation")
    told = {name: environ[name] for name in names}
    told |= {"read": len(environ["wsgi.input"].read()), "pid": os.getpid(), "uid": os.geteuid(),
             "nice": os.nice(0), "env": dict(os.environ), "cwd": os.getcwd(),
             "groups": sorted(os.getgroups()), "python": sys.executable,
             "patched": "gevent.monkey" in sys.modules and bool(sys.modules["gevent.monkey"].saved)}
    if environ["QUERY_STRING"]:
        try:
            told["secret"] = open(os.path.join(os.path.dirname(__file__), "secret")).read()
        except OSError:
            told["secret"] = None
    return [json.dumps(told).encode()]
"""
TWO = "  /: good:app\n  /a: {app: 'telling:app', pool: a}\n  /b: {app: 'telling:app', pool: b}\n"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that any user may look into, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def told(gateway: Running, target: str) -> dict[str, Any]:
    return json.loads(gateway.ask(target).rpartition(b"\r\n\r\n")[2])


def pools(gateway: Running) -> dict[str, str]:
    """The generation that serves, by pool."""
    return {
        g["pool"]: g["generation"]
        for g in gateway.control("status")["generations"]
        if g["state"] == "serving"
    }


def start_with(start: Start, pools: str, mounts: str = TWO, server: str = MANUAL) -> Running:
    return start(mounts, f"{server}pools:\n{pools}", telling=TELLING)


# --- the hop ----------------------------------------------------------------------------------


def test_a_mount_runs_in_the_process_of_its_pool(start: Start) -> None:
    gateway = start_with(start, "  a: {workers: 2}\n  b: {}\n")
    wait_until(lambda: len(gateway.children()) == 4, "all workers have started")
    a, b = told(gateway, "/a/x%2Fy?q=1"), told(gateway, "/b")
    assert a["pid"] != b["pid"]
    assert {a["pid"], b["pid"]} < gateway.children()
    assert (a["SCRIPT_NAME"], a["PATH_INFO"], a["QUERY_STRING"]) == ("/a", "/x/y", "q=1")
    assert (a["HTTP_HOST"], a["wsgi.url_scheme"]) == ("a", "http")


def test_own_is_a_pool_for_one_mount(start: Start) -> None:
    mounts = "  /a: {app: 'telling:app', pool: own, env: {X: one}}\n"
    mounts += "  /b: {app: 'telling:app', pool: own, env: {X: two}}\n"
    gateway = start(mounts, MANUAL, telling=TELLING)
    assert [told(gateway, path)["env"]["X"] for path in ("/a", "/b")] == ["one", "two"]
    assert told(gateway, "/a")["pid"] != told(gateway, "/b")["pid"]


def test_client_and_request_id_cross_the_hop(start: Start) -> None:
    gateway = start_with(start, "  a: {}\n  b: {}\n", server="  trusted_proxies: ['unix:']\n")
    with gateway.connect() as connection:
        connection.sendall(
            b"POST /a HTTP/1.1\r\nHost: example.com\r\nX-Forwarded-For: 192.0.2.7\r\n"
            b"X-Forwarded-Proto: https\r\nX-Request-ID: abc-7\r\nConnection: close\r\n"
            b"Content-Length: 5\r\n\r\nhello"
        )
        with connection.makefile("rb") as answer:
            a = json.loads(answer.read().rpartition(b"\r\n\r\n")[2])
    assert (a["REMOTE_ADDR"], a["HTTP_HOST"]) == ("192.0.2.7", "example.com")
    assert (a["wsgi.url_scheme"], a["gateway.request_id"], a["read"]) == ("https", "abc-7", 5)


def test_each_request_of_a_head_that_comes_again_keeps_its_client_and_id(start: Start) -> None:
    gateway = start_with(start, "  a: {}\n  b: {}\n", server="  trusted_proxies: ['unix:']\n")
    with gateway.connect() as connection, connection.makefile("rb") as answers:
        for number in range(6):
            client, request_id = f"192.0.2.{number % 4}", f"id-{number}"
            connection.sendall(
                b"GET /a/x?q HTTP/1.1\r\nHost: example.com\r\nX-Forwarded-For: %b\r\n"
                b"X-Request-ID: %b\r\n\r\n" % (client.encode(), request_id.encode())
            )
            lines = iter(answers.readline, b"\r\n")
            [length] = [int(n[15:]) for n in lines if n.lower().startswith(b"content-length:")]
            a = json.loads(answers.read(length))
            assert (a["REMOTE_ADDR"], a["gateway.request_id"]) == (client, request_id)
            assert (a["HTTP_HOST"], a["PATH_INFO"], a["QUERY_STRING"]) == ("example.com", "/x", "q")


DATED = """
def app(environ, start_response):
    status = environ["QUERY_STRING"] or "200 OK"
    dates = [("Date", "Tue, 15 Nov 1994 08:12:31 GMT")] if environ["PATH_INFO"] == "/own" else []
    start_response(status.replace("+", " "), [*dates, ("X-Path", environ["PATH_INFO"])])
    return []
"""


@pytest.mark.parametrize("status", ["200 OK", "204 No Content", "304 Not Modified"])
def test_an_answer_of_a_pool_has_one_date(start: Start, status: str) -> None:
    gateway = start("  /a: {app: 'dated:app', pool: own}\n", MANUAL, dated=DATED)
    query = status.replace(" ", "+")
    answers = [gateway.ask(f"/a/{path}?{query}") for path in ("own", "none", "own", "none")]
    dates = [re.findall(rb"(?im)^date: (.*)\r$", answer) for answer in answers]
    assert [len(found) for found in dates] == [1, 1, 1, 1]
    assert [b" 1994 " in found for [found] in dates] == [True, False, True, False]


FORGING = """
import os
def app(environ, start_response):
    print("printed")
    for number in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{number}").endswith("/records"):
                os.write(int(number), b'{"request_id": "forged"}\\n')
        except OSError:
            pass
    start_response("200 OK", [])
    return []
"""


def test_a_pools_worker_cannot_write_access_records(start: Start) -> None:
    server = f"{MANUAL}pools:\n  a: {{}}\n"
    gateway = start("  /a: {app: 'forging:app', pool: a}\n", server, forging=FORGING)
    assert b" 200 " in gateway.ask("/a")
    wait_until(lambda: "printed\n" in gateway.log_text, "what it prints is in the other log")
    wait_until(lambda: gateway.records, "the request has a record")
    assert [record["status"] for record in gateway.records] == [200]


def test_a_worker_that_dies_in_a_pool_leaves_the_others_alone(start: Start) -> None:
    gateway = start_with(start, "  a: {}\n  b: {}\n")
    a, b = told(gateway, "/a")["pid"], told(gateway, "/b")["pid"]
    os.kill(a, signal.SIGKILL)
    assert told(gateway, "/b")["pid"] == b
    wait_until(lambda: a not in gateway.children(), "it was reaped")
    assert told(gateway, "/a")["pid"] not in (a, b)


def test_a_pool_whose_only_app_ends_its_workers_answers_503_and_serves_again(start: Start) -> None:
    ending = "import os\nif os.path.exists('end'):\n    os._exit(3)\n" + TELLING
    gateway = start_with(start, "  a: {directory: .}\n  b: {}\n")
    a, _ = told(gateway, "/a")["pid"], told(gateway, "/b")
    gateway.write("telling.py", ending)
    gateway.write("end", "")
    os.kill(a, signal.SIGKILL)

    def is_refused() -> bool:
        answer = gateway.ask("/a")
        return b" 503 " in answer and b"has not loaded" in answer

    wait_until(is_refused, "the pool's workers die at each start")
    status = "\n".join(format_status(gateway.control("status")))
    assert ": mounts./a: worker " in status
    assert told(gateway, "/b")["SCRIPT_NAME"] == "/b"
    (gateway.folder / "end").unlink()
    wait_until(lambda: b" 200 " in gateway.ask("/a"), "the pool serves again")


# --- what a pool's workers are given ----------------------------------------------------------


def test_a_pool_has_its_own_environment_directory_and_niceness(start: Start) -> None:
    gateway = start(telling=TELLING)
    folder = gateway.folder
    (folder / "site").mkdir()
    (folder / "site" / "moved.py").write_text(TELLING)
    gateway.write("a.env", "# more\nFROM_FILE='a b'\nBOTH=file\n")
    gateway.server += (
        "pools:\n  a: {directory: site, env: {BOTH: table}, env_file: a.env, nice: 7}\n"
    )
    gateway.write_table("  /a: {app: 'moved:app', pool: a, env: {OF_MOUNT: yes!}}\n")
    assert gateway.control("reload")["exit_code"] == 0
    a = told(gateway, "/a")
    assert (a["cwd"], a["nice"]) == (str(folder / "site"), 7)
    assert (a["env"]["FROM_FILE"], a["env"]["BOTH"]) == ("a b", "table")
    assert a["env"]["OF_MOUNT"] == "yes!"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may start processes as another user")
def test_a_pool_runs_as_its_user_and_reads_no_others_files(
    open_folder: Path,
) -> None:
    nobody = pwd.getpwnam("nobody")
    # root's own Python may be out of the user's reach
    server = f"{MANUAL}  environments: {open_folder}/environments\n"
    server += "pools: {a: {user: nobody, python: /usr/bin/python3}, b: {}}\n"
    gateway = Running(open_folder, TWO, server, telling=TELLING)
    try:
        gateway.write("secret", "of root")
        (open_folder / "secret").chmod(0o600)
        a, b = told(gateway, "/a?secret"), told(gateway, "/b?secret")
    finally:
        gateway.end()
    assert (a["uid"], b["uid"]) == (nobody.pw_uid, 0)
    assert (a["secret"], b["secret"]) == (None, "of root")
    assert a["groups"] == sorted(os.getgrouplist("nobody", nobody.pw_gid))
    assert a["env"]["HOME"] == nobody.pw_dir


def test_a_pool_with_threads_runs_apps_in_them(start: Start) -> None:
    gateway = start_with(start, "  a: {concurrency: threads, threads: 2}\n  b: {}\n")
    wait_until(lambda: len(gateway.children()) == 3, "all workers have started")
    assert not told(gateway, "/a")["patched"]
    assert told(gateway, "/b")["patched"]


def test_a_virtual_environment_is_used(start: Start) -> None:
    gateway = start_with(start, "  a: {venv: " + sys.prefix + "}\n  b: {}\n")
    assert told(gateway, "/a")["python"].startswith(sys.prefix)


def test_the_command_of_a_pool_in_the_gateways_own_python() -> None:
    assert build_command(PoolSettings(name="a"), None, ["x"]) == (
        [sys.executable, "-m", "gateway.worker.process", "x"]
    )


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("A=b", {"A": "b"}),
        ("export A=b c", {"A": "b c"}),
        ("A = b", {}),
        ("  A=b # said", {"A": "b"}),
        ("A='b # c'", {"A": "b # c"}),
        ('A="b"', {"A": "b"}),
        ("A=", {"A": ""}),
        ("# A=b", {}),
        ("", {}),
    ],
)
def test_a_line_of_an_env_file(line: str, found: dict[str, str]) -> None:
    assert dict(parse_env_file(line)) == found


# --- reloads ----------------------------------------------------------------------------------


def test_only_the_pools_that_change_get_new_workers(start: Start) -> None:
    gateway = start_with(start, "  a: {}\n  b: {}\n", server="")
    before = pools(gateway)
    gateway.server = gateway.server.replace("  a: {}", "  a: {env: {NEW: '1'}}")
    gateway.write_table(TWO)
    wait_until(lambda: gateway.control("status")["last_reload"], "a reload has ended")
    assert told(gateway, "/a")["env"]["NEW"] == "1"
    after = pools(gateway)
    assert {name for name in after if before[name] != after[name]} == {"a"}


def test_a_pool_that_does_not_load_changes_no_pool(start: Start) -> None:
    gateway = start_with(start, "  a: {}\n  b: {}\n")
    before, workers = pools(gateway), gateway.children()
    gateway.write("broken.py", "1/0")
    gateway.write_table(TWO + "  /c: {app: 'broken:app', pool: own}\n")
    outcome = gateway.control("reload")
    assert outcome["exit_code"] == 3
    assert "mounts./c: broken:app: ZeroDivisionError" in outcome["messages"][0]
    assert (pools(gateway), gateway.children()) == (before, workers)


def test_pools_come_and_go_and_come_back(start: Start) -> None:
    gateway = start_with(start, "  a: {}\n  b: {}\n")
    pid = told(gateway, "/b")["pid"]
    gateway.write_table(TWO.partition("  /b")[0])
    assert gateway.control("reload")["exit_code"] == 0
    assert pools(gateway).keys() == {"main", "a"}
    wait_until(lambda: pid not in gateway.children(), "the worker of b has gone")
    assert gateway.control("rollback")["exit_code"] == 0
    assert pools(gateway).keys() == {"main", "a", "b"}
    assert told(gateway, "/b")["SCRIPT_NAME"] == "/b"


def test_a_rollback_resumes_the_workers_of_every_pool(start: Start) -> None:
    gateway = start_with(start, "  a: {}\n  b: {}\n")
    before, workers = pools(gateway), gateway.children()
    assert gateway.control("reload")["exit_code"] == 0
    assert not set(before.values()) & set(pools(gateway).values())
    assert gateway.control("rollback")["exit_code"] == 0
    assert pools(gateway) == before
    assert workers < gateway.children()


SLOW = """
import pathlib, time
if pathlib.Path(__file__).with_name("is-slow").exists():
    time.sleep(3)
def app(environ, start_response):
    start_response("200 OK", [])
    return []
"""


def test_a_rollback_waits_for_a_slow_pool_and_keeps_the_others_meanwhile(start: Start) -> None:
    server = f"{MANUAL}  keep_previous: 2s\npools:\n  a: {{}}\n  b: {{}}\n"
    gateway = start(TWO + "  /s: {app: 'slow:app', pool: b}\n", server, telling=TELLING, slow=SLOW)
    gone = told(gateway, "/b")["pid"]
    assert gateway.control("reload")["exit_code"] == 0
    gateway.write("is-slow", "")
    os.kill(gone, signal.SIGKILL)
    wait_until(lambda: gone not in gateway.children(), "its workers have to be started again")
    outcome = gateway.control("rollback")
    assert outcome["exit_code"] == 0, outcome["messages"]


def test_nothing_is_left_behind(start: Start) -> None:
    gateway = start_with(start, "  a: {}\n  b: {}\n")
    folder = gateway.folder / "control.pools"
    assert len(list(folder.iterdir())) == 2
    assert folder.stat().st_mode & 0o777 == 0o711
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
    assert gateway.end() == 0
    assert not folder.exists()


def start_unbuilt(start: Start, tmp_path: Path) -> Running:
    """The environment of pool ``a`` cannot be built, until ``some.txt`` says something else."""
    (tmp_path / "some.txt").write_text("no requirement at all\n")
    table = f"{MANUAL}  environments: built\npools:\n  a: {{requirements: some.txt}}\n  b: {{}}\n"
    return start(TWO, table, telling=TELLING)


def test_an_environment_that_could_never_be_built_holds_up_no_reload(
    start: Start, tmp_path: Path
) -> None:
    again = start_unbuilt(start, tmp_path)
    wait_until(
        lambda: "its mounts answer 503 until a retry succeeds" in again.log_text, "it has failed"
    )
    assert b" 503 " in again.ask("/a").partition(b"\r\n")[0]
    again.write_table(TWO + "  /too: good:app\n")
    outcome = again.control("reload")
    assert (outcome["exit_code"], outcome["how"]) == (3, "new workers")
    assert "mounts./a: " in "\n".join(outcome["messages"])
    assert b" 200 " in again.ask("/too").partition(b"\r\n")[0]
    assert "its mounts keep answering 503" in again.log_text
    # one that is new in the table has to be built
    again.server = again.server.replace("  b: {}", "  b: {requirements: some.txt}")
    again.write_table(TWO)
    assert again.control("reload")["exit_code"] == 3


def mount(gateway: Running, name: str) -> tuple[str, str]:
    """The state that status gives a mount, and why it failed."""
    found = {each["mount"]: each for each in gateway.control("status")["mounts"]}
    return found[name]["state"], found[name]["error"]


def test_the_mounts_of_a_pool_without_an_environment_are_shown_as_failed(
    start: Start, tmp_path: Path
) -> None:
    again = start_unbuilt(start, tmp_path)
    state, why = wait_until(lambda: mount(again, "/a")[1] and mount(again, "/a"), "it has failed")
    assert state == "failed"
    assert "pools.a: uv failed: " in why
    assert mount(again, "/b") == ("serving", "")
    again.server = again.server.replace("some.txt", "right.txt")
    again.write("right.txt", "# nothing\n")
    again.write_table(TWO)
    assert again.control("reload")["exit_code"] == 0
    assert mount(again, "/a") == ("serving", "")


def test_the_log_names_the_mount_whose_load_ends_a_worker(start: Start) -> None:
    gateway = start(
        "  /: good:app\n  /a: {app: 'crashing:app', pool: own}\n",
        MANUAL,
        crashing="import os\nos._exit(3)\n",
    )
    place = re.escape(f"{gateway.folder}/mounts.yaml:")
    record = rf"{place}\d+:3: mounts\./a: worker \d+ \(loading\) exited with 3 after"
    wait_until(lambda: re.search(record, gateway.log_text), "it is logged")
    assert mount(gateway, "/") == ("serving", "")


def test_an_environment_that_can_be_built_later_is_built_without_a_reload(
    start: Start, tmp_path: Path
) -> None:
    again = start_unbuilt(start, tmp_path)
    wait_until(lambda: mount(again, "/a")[0] == "failed", "it has failed")
    head = again.ask("/a").partition(b"\r\n\r\n")[0]
    assert b" 503 " in head
    assert 1 <= int(re.search(rb"Retry-After: (\d+)", head)[1]) <= 60
    assert again.control("reload")["exit_code"] == 3
    outcome = again.control("reload", names=["/a"])
    assert (outcome["exit_code"], outcome["how"]) == (3, "nothing has changed")
    assert again.control("rollback")["how"] == "standby workers"  # of the reload before that
    again.write("some.txt", "# nothing\n")
    wait_until(lambda: b" 200 " in again.ask("/a")[:20], "it is built", seconds=60)
    assert mount(again, "/a") == ("serving", "")
    assert again.log_text.count("its mounts answer 503 until a retry succeeds") == 1
    assert again.control("reload")["exit_code"] == 0


def test_an_environment_that_cannot_be_built_for_another_reason_is_reported_again(
    start: Start, tmp_path: Path
) -> None:
    again = start_unbuilt(start, tmp_path)
    refused = "its mounts answer 503 until a retry succeeds"
    wait_until(lambda: refused in again.log_text, "it has failed")
    again.write("some.txt", "another==line that is none\n")
    wait_until(lambda: again.log_text.count(refused) == 2, "the other reason", seconds=60)


def test_a_pool_whose_environment_has_been_mended_serves_after_a_reload(
    start: Start, tmp_path: Path
) -> None:
    again = start_unbuilt(start, tmp_path)
    wait_until(lambda: b" 503 " in again.ask("/a").partition(b"\r\n")[0], "it is answered for")
    wait_until(
        lambda: "its mounts answer 503 until a retry succeeds" in again.log_text, "it has failed"
    )
    again.write("some.txt", "# nothing\n")
    assert again.control("reload")["exit_code"] == 0
    assert b" 200 " in again.ask("/a").partition(b"\r\n")[0]
    # by its worker alone: while that cannot, nobody answers in its stead
    [worker] = [
        worker["pid"]
        for generation in again.control("status")["generations"]
        if generation["pool"] == "a"
        for worker in generation["workers"]
    ]
    os.kill(worker, signal.SIGSTOP)
    with again.connect() as first, again.connect() as second:
        for client in (first, second):  # one on the connection that is kept, one on another
            client.sendall(b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        again.ask("/b")  # the front worker has asked, and the supervisor has had its turn
        for _ in range(3):
            again.control("status")
        os.kill(worker, signal.SIGCONT)
        for client in (first, second):
            with client.makefile("rb") as answer:
                assert answer.readline() == b"HTTP/1.1 200 OK\r\n"


def test_a_reload_shows_what_is_built(start: Start) -> None:
    gateway = start(telling=TELLING)
    gateway.write("none.txt", "# nothing\n")
    gateway.server += "  environments: built\npools: {a: {requirements: none.txt}}\n"
    gateway.write_table("  /a: {app: 'telling:app', pool: a}\n")
    told_meanwhile: list[str] = []
    outcome = send_command(gateway.folder / "control.sock", "reload", told_meanwhile.append)
    assert (outcome["exit_code"], outcome["messages"]) == (0, [])
    assert "building Python" in told_meanwhile[0]
    assert f"{gateway.folder}/mounts.yaml:7:9: pools.a: " in told_meanwhile[0]
    assert told(gateway, "/a")["env"]["VIRTUAL_ENV"].startswith(f"{gateway.folder}/built/env-")


# --- sleep ------------------------------------------------------------------------------------


def state_of(gateway: Running, pool: str) -> list[str]:
    generations = gateway.control("status")["generations"]
    return [g["state"] for g in generations if g["pool"] == pool]


def test_a_pool_that_nobody_asks_for_sleeps_and_wakes(start: Start) -> None:
    gateway = start_with(start, "  a: {idle: 1s}\n  b: {}\n")
    a, b = told(gateway, "/a")["pid"], told(gateway, "/b")["pid"]
    wait_until(lambda: state_of(gateway, "a") == ["asleep"], "the pool sleeps")
    assert a not in gateway.children()
    assert told(gateway, "/b")["pid"] == b
    woken = told(gateway, "/a")
    assert woken["pid"] not in (a, b)
    assert state_of(gateway, "a") == ["serving"]


def test_a_pool_does_not_sleep_while_a_request_is_in_flight(start: Start) -> None:
    slow = """
import pathlib, time
here = pathlib.Path(__file__).parent
def app(environ, start_response):
    while not (here / "go").exists():
        time.sleep(0.01)
    start_response("200 OK", [])
    return [b"done"]
"""
    mounts = "  /: good:app\n  /a: {app: 'slow:app', pool: a}\n  /b: {app: 'good:app', pool: b}\n"
    gateway = start(mounts, MANUAL + "pools: {a: {idle: 1s}, b: {idle: 1s}}\n", slow=slow)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(gateway.ask, "/a")
        wait_until(lambda: state_of(gateway, "b") == ["asleep"], "the other pool sleeps")
        assert state_of(gateway, "a") == ["serving"]
        gateway.write("go", "")
        assert waiting.result().endswith(b"done")


def test_a_sleeping_pool_is_reloaded_like_any_other(start: Start) -> None:
    gateway = start_with(start, "  a: {idle: 1s}\n  b: {}\n")
    wait_until(lambda: state_of(gateway, "a") == ["asleep"], "the pool sleeps")
    gateway.write("telling.py", "1/0")
    assert gateway.control("reload")["exit_code"] == 3
    gateway.write("telling.py", TELLING)
    assert gateway.control("reload")["exit_code"] == 0
    assert told(gateway, "/a")["gateway.generation"] == pools(gateway)["a"]


def test_a_pool_that_does_not_wake_answers_503(start: Start) -> None:
    gateway = start_with(start, "  a: {idle: 1s}\n  b: {}\n")
    wait_until(lambda: state_of(gateway, "a") == ["asleep"], "the pool sleeps")
    gateway.write("telling.py", "import os; os._exit(1)")
    assert b" 503 " in gateway.ask("/a")
    gateway.write("telling.py", TELLING)
    wait_until(lambda: b" 200 " in gateway.ask("/a"), "it serves again")
