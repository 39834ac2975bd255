"""A command that does not come to serve: what is logged is what changes, and all else that is asked
after it says how things stand."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from running import Running, wait_until

Start = Callable[..., Running]
# ``python web.py SOCKET``: each start leaves a dot in ``starts``; the file ``mood`` says what to do
SERVER = """
import http.server, os, pathlib, socketserver, sys, threading, time
here = pathlib.Path(__file__).parent
with open(here / "starts", "a") as file:
    file.write(".")
word, _, rest = (here / "mood").read_text().partition(" ")
print(f"{time.time()} [{os.getpid()}] starting with {sys.argv[1]}", flush=True)
if word == "end":
    sys.exit(f"{time.time()} [{os.getpid()}] {rest}")

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def address_string(self):
        return "gateway"
    def do_GET(self):
        status = 500 if word == "ill" and self.path == "/healthz" else 200
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()
        if word == "listen":
            print(f"{time.time()} [{os.getpid()}] {rest}", flush=True)
            os._exit(1)
    def log_message(self, *said):
        print(f"{time.time()} [{os.getpid()}] asked", flush=True)

class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

server = Server(sys.argv[1], Handler)
server.serve_forever()
"""
MOUNTS = "  /: good:app\n  /api: {upstream: 'pool:api', health: /healthz}\n"
WITHOUT_HEALTH = MOUNTS.replace(", health: /healthz", "")
TABLE = """\
  reload_on_edit: false
pools:
  api: {{command: '/usr/bin/python3 web.py {{socket}}'{0}}}
"""
# tries after which nothing more was logged
TRIES = 3


def begin(start: Start, folder: Path, mood: str, settings: str = "", **more: Any) -> Running:
    (folder / "mood").write_text(mood)
    return start(**{"mounts": MOUNTS, "server": TABLE.format(settings), "web": SERVER, **more})


def count_starts(gateway: Running) -> int:
    file = gateway.folder / "starts"
    return len(file.read_text()) if file.exists() else 0


def await_starts(gateway: Running, more: int = TRIES) -> None:
    least = count_starts(gateway) + more
    wait_until(lambda: count_starts(gateway) >= least, f"it is tried {more} times", 60)


def entries(gateway: Running, *words: str) -> list[str]:
    """What the gateway itself has logged of the pool, and what has one of ``words``."""
    lines = [line for line in gateway.log_text.splitlines() if line.startswith("{")]
    messages = [json.loads(line)["message"] for line in lines]
    return [text for text in messages if any(word in text for word in (": pools.api: ", *words))]


def find_mount(gateway: Running) -> dict[str, Any]:
    mount: dict[str, Any] = gateway.control("status")["mounts"][1]
    return mount


def find_pool(gateway: Running) -> dict[str, Any]:
    [pool] = [g for g in gateway.control("status")["generations"] if g["pool"] == "api"]
    return pool


def find_worker(gateway: Running) -> dict[str, Any]:
    [worker] = find_pool(gateway)["workers"]
    return dict(worker)


def is_serving(gateway: Running) -> bool:
    return b" 200 " in gateway.ask("/api").partition(b"\r\n")[0]


def await_serving(gateway: Running) -> None:
    """The next try may be ten seconds away."""
    wait_until(lambda: is_serving(gateway), "it serves", 60)


def count_failed(gateway: Running) -> int:
    content = gateway.ask("/readyz", "admin.sock").partition(b"\r\n\r\n")[2]
    return int(json.loads(content)["failed"])


# --- one entry a change -------------------------------------------------------------------------


def test_a_command_that_ends_at_each_start_is_one_entry(start: Start, tmp_path: Path) -> None:
    gateway = begin(start, tmp_path, "end no database")
    await_starts(gateway)
    [entry] = entries(gateway)
    assert f"{gateway.folder}/mounts.yaml:8:3: pools.api: worker " in entry
    assert " (loading) exited with 1 after " in entry
    first, *last_words = entry.splitlines()
    assert first.endswith("; further attempts are logged only if the reason changes")
    assert last_words[-1].endswith("] no database")
    # which the first start has written itself, too
    assert gateway.log_text.count("no database") == 2
    assert gateway.log_text.count("starting with") == 2
    # what it is asked for
    assert find_mount(gateway)["state"] == "failed"
    assert " (loading) exited with 1" in find_mount(gateway)["error"]
    assert count_failed(gateway) == 1
    gateway.write("mood", "serve")
    await_serving(gateway)
    assert (find_mount(gateway)["state"], count_failed(gateway)) == ("serving", 0)
    assert entries(gateway) == [entry]
    assert gateway.log_text.count("pool api: ready after ") == 1


def test_one_whose_health_check_never_passes_is_one_entry(start: Start, tmp_path: Path) -> None:
    server = TABLE.format("").replace("pools:", "  start_timeout: 3s\npools:")
    gateway = begin(start, tmp_path, "ill", server=server)
    await_starts(gateway, 2)
    [entry] = entries(gateway)
    assert " did not load within 3 s (server.start_timeout): /healthz was answered 500" in entry
    assert gateway.log_text.count("starting with") in (1, 2)  # perhaps among its last words
    assert "was killed by SIGKILL" not in gateway.log_text
    assert find_mount(gateway)["state"] == "failed"
    assert "/healthz was answered 500" in find_mount(gateway)["error"]
    assert count_failed(gateway) == 1
    gateway.write("mood", "serve")
    await_serving(gateway)
    assert entries(gateway) == [entry]


def test_one_that_cannot_be_started_is_one_entry(start: Start, tmp_path: Path) -> None:
    server = TABLE.format("").replace("/usr/bin/python3", "./server")
    gateway = begin(start, tmp_path, "serve", server=server)
    wait_until(lambda: find_pool(gateway)["crashes"] >= TRIES, "it is tried again")
    [entry] = entries(gateway)
    assert "a worker could not be started: there is no program './server' in " in entry
    assert count_failed(gateway) == 1
    (tmp_path / "server").write_text('#!/bin/sh\nexec /usr/bin/python3 "$@"\n')
    (tmp_path / "server").chmod(0o755)
    await_serving(gateway)
    assert entries(gateway) == [entry]


def test_several_that_fail_alike_are_one_entry(start: Start, tmp_path: Path) -> None:
    gateway = begin(start, tmp_path, "end no database", ", workers: 2")
    await_starts(gateway, 6)
    assert len(entries(gateway)) == 1


def test_another_reason_is_another_entry(start: Start, tmp_path: Path) -> None:
    gateway = begin(start, tmp_path, "end no database")
    await_starts(gateway, 2)
    assert len(entries(gateway)) == 1
    gateway.write("mood", "end no index")
    wait_until(lambda: len(entries(gateway)) == 2, "the other reason is reported", 60)
    await_starts(gateway, 1)
    assert len(entries(gateway)) == 2
    assert gateway.log_text.count("no index") == 1


def test_what_has_served_and_fails_is_one_entry_and_one_when_it_serves_again(
    start: Start, tmp_path: Path
) -> None:
    gateway = begin(start, tmp_path, "serve")
    await_serving(gateway)
    gateway.write("mood", "end no database")
    os.kill(find_worker(gateway)["pid"], signal.SIGKILL)
    await_starts(gateway)
    killed, failed = entries(gateway)
    assert " (ready) was killed by SIGKILL after " in killed
    assert " (loading) exited with 1 after " in failed
    gateway.write("mood", "serve")
    served = "pool api: it serves again"
    await_serving(gateway)
    wait_until(lambda: served in gateway.log_text, "that is reported")
    assert entries(gateway) == [killed, failed]
    # what each wrote whose start is reported, the one that failed once more in its entry
    assert gateway.log_text.count("starting with") == 4
    # and a second outage is as much news as the first
    gateway.write("mood", "end no database")
    os.kill(find_worker(gateway)["pid"], signal.SIGKILL)
    await_starts(gateway)
    assert len(entries(gateway)) == 4


def test_one_that_listens_and_ends_at_each_start_is_one_entry(start: Start, tmp_path: Path) -> None:
    gateway = begin(start, tmp_path, "listen no database", mounts=WITHOUT_HEALTH)
    least = count_starts(gateway) + TRIES
    is_tried = lambda: gateway.ask("/api") and count_starts(gateway) >= least  # noqa: E731
    wait_until(is_tried, "it is tried again", 60)
    [entry] = entries(gateway, "pool api: it serves")
    assert " exited with 1 after " in entry
    is_away = lambda: gateway.ask("/api") and find_mount(gateway)["state"] == "failed"  # noqa: E731
    wait_until(is_away, "it is seen to be away")
    gateway.write("mood", "serve")
    await_serving(gateway)
    wait_until(lambda: len(entries(gateway, "pool api: it serves")) == 2, "it goes on", 60)
    assert entries(gateway, "pool api: it serves")[1] == "pool api: it serves again"


def test_one_that_is_to_replace_another_and_does_not_is_one_entry(
    start: Start, tmp_path: Path
) -> None:
    gateway = begin(start, tmp_path, "serve", ", max_lifetime: 1s")
    await_serving(gateway)
    wait_until(lambda: " replaces worker " in gateway.log_text, "one has replaced another")
    gateway.write("mood", "end no database")
    before = count_starts(gateway)
    wait_until(lambda: count_starts(gateway) >= before + 2, "it is tried twice", 60)
    stays = "its replacement did not load: it exited with 1"
    wait_until(lambda: stays in gateway.log_text, "that is reported")
    assert gateway.log_text.count(stays) == 1
    assert gateway.log_text.count("no database") == 1
    assert not entries(gateway)
    assert is_serving(gateway)


# --- what else knows of it ----------------------------------------------------------------------


def test_a_reload_over_one_that_never_came_up_does_not_end_with_0(
    start: Start, tmp_path: Path
) -> None:
    gateway = begin(start, tmp_path, "end no database")
    await_starts(gateway)
    gateway.write_table(MOUNTS + "  /more: good:app\n")
    outcome = gateway.control("reload")
    assert (outcome["exit_code"], outcome["how"]) == (3, "new workers")
    [message] = outcome["messages"]
    assert "mounts./api: its pool has no worker: " in message
    gateway.write("mood", "serve")
    await_serving(gateway)
    assert gateway.control("reload")["exit_code"] == 0


def retry_seconds(answer: bytes) -> int:
    [line] = [line for line in answer.split(b"\r\n") if line.startswith(b"Retry-After: ")]
    return int(line.partition(b": ")[2])


def test_clients_are_told_when_it_is_started_again(start: Start, tmp_path: Path) -> None:
    gateway = begin(start, tmp_path, "end no database")

    def is_known() -> bool:
        """5 is what is said where it is not."""
        answer = gateway.ask("/api")
        assert b" 503 " in answer.partition(b"\r\n")[0]
        seconds = retry_seconds(answer)
        assert 1 <= seconds <= max(5, find_pool(gateway)["delay"])
        return seconds != 5

    wait_until(is_known, "it is said")
    # by workers that have begun since, too
    gateway.write_table(MOUNTS + "  /more: good:app\n")
    outcome = gateway.control("reload")
    assert outcome["how"] == "new workers", outcome
    wait_until(is_known, "new workers say it")


def test_tries_are_farther_and_farther_apart(start: Start, tmp_path: Path) -> None:
    gateway = begin(start, tmp_path, "end no database")
    seen: list[float] = []

    def note() -> bool:
        seen.extend({find_pool(gateway)["delay"]} - set(seen))
        return max(seen) >= 0.4

    wait_until(note, "it waits for longer")
    assert seen == sorted(seen)
