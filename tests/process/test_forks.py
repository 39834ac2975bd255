"""Processes that apps fork while they answer: they are not workers."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from running import Running, wait_until

Start = Callable[..., Running]
FORKING = """
import multiprocessing, os, pathlib, sys, time
here = pathlib.Path(__file__).parent
CONTEXT = multiprocessing.get_context("fork")

def wait(name):
    while not (here / name).exists():
        time.sleep(0.01)

def note(name):
    with open(here / "notes", "a") as file:
        file.write(f"{name} {os.getpid()}\\n")

def answer_by_queue(answers):
    wait("go")
    answers.put("child")

def fork(in_child):
    pid = os.fork()
    if not pid:
        note("child")
        in_child()
        return b"the child's"
    return str(pid).encode()

def app(environ, start_response):
    name = environ["PATH_INFO"].strip("/")
    content = b""
    if name == "wait":
        note("waits")
        wait("go")
        note("waited")
    elif name == "queue":
        answers = CONTEXT.Queue()
        child = CONTEXT.Process(target=answer_by_queue, args=(answers,))
        child.start()
        content = answers.get().encode()
        child.join()
    elif name == "stays":
        content = fork(lambda: wait("never"))
    elif name == "returns":
        content = fork(lambda: None)
    elif name == "exits":
        content = fork(lambda: sys.exit(3))
    elif name == "raises":
        content = fork(lambda: 1 / 0)
    if name in ("returns", "exits", "raises"):
        _, status = os.waitpid(int(content), 0)
        content = str(os.waitstatus_to_exitcode(status)).encode()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [content or str(os.getpid()).encode()]
"""


@pytest.fixture(params=["greenlets", "threads"])
def gateway(start: Start, request: pytest.FixtureRequest) -> Running:
    pools = f"pools:\n  p: {{concurrency: {request.param}}}\n"
    mounts = "  /: good:app\n  /p: {app: 'forking:app', pool: p, timeout: 20s}\n"
    gateway = start(mounts, pools, forking=FORKING)
    wait_until(lambda: ask(gateway, "pid").isdigit(), "the pool answers")
    return gateway


def ask(gateway: Running, name: str) -> bytes:
    head, _, content = gateway.ask(f"/p/{name}").partition(b"\r\n\r\n")
    assert not head.count(b"HTTP/1.1 ", 1), "answered twice"
    return content


def notes(gateway: Running) -> list[str]:
    file: Path = gateway.folder / "notes"
    return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []


def in_background(gateway: Running, name: str) -> "tuple[threading.Thread, list[bytes]]":
    answers: list[bytes] = []
    thread = threading.Thread(target=lambda: answers.append(ask(gateway, name)))
    thread.start()
    return thread, answers


def test_a_child_runs_no_request_of_its_worker_and_takes_none(gateway: Running) -> None:
    worker = ask(gateway, "pid")
    waiting, answers = in_background(gateway, "wait")
    wait_until(lambda: notes(gateway) == ["waits"], "the other request waits")
    child = int(ask(gateway, "stays"))
    try:
        wait_until(lambda: "child" in notes(gateway), "the child runs")
        gateway.write("go", "")
        waiting.join()
        assert {ask(gateway, "pid") for _ in range(20)} == {worker}
        assert answers == [worker]
        assert notes(gateway).count("waited") == 1
    finally:
        os.kill(child, signal.SIGKILL)
    wait_until(lambda: len(gateway.records) >= 24, "all records are written")
    ids = [record["request_id"] for record in gateway.records]
    assert len(ids) == len(set(ids))


def test_children_of_several_requests_at_a_time_answer_theirs(gateway: Running) -> None:
    asked = [in_background(gateway, "queue") for _ in range(3)]
    gateway.write("go", "")
    for thread, answers in asked:
        thread.join()
        assert answers == [b"child"]


@pytest.mark.parametrize("how", ["returns", "exits", "raises"])
def test_a_child_that_comes_back_answers_nobody_and_ends(gateway: Running, how: str) -> None:
    worker = ask(gateway, "pid")
    assert ask(gateway, how).isdigit()
    assert notes(gateway) == ["child"]
    assert ask(gateway, "pid") == worker
    wait_until(
        lambda: [r for r in gateway.records if r["target"] == f"/p/{how}"], "there is a record"
    )
    [record] = [r for r in gateway.records if r["target"] == f"/p/{how}"]
    assert record["status"] == 200


def test_a_client_is_not_held_by_a_child_that_goes_on(gateway: Running) -> None:
    with gateway.connect() as connection:
        connection.sendall(b"GET /p/stays HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        with connection.makefile("rb") as answer:
            whole = answer.read()  # to the end of the connection
    os.kill(int(whole.rpartition(b"\r\n\r\n")[2]), signal.SIGKILL)


def test_what_is_in_flight_stays_known_beside_a_child(gateway: Running) -> None:
    waiting, _ = in_background(gateway, "wait")
    wait_until(lambda: notes(gateway) == ["waits"], "the other request waits")
    ask(gateway, "returns")

    def in_flight() -> int:
        generations = gateway.control("status")["generations"]
        return sum(w["in_flight"] for g in generations for w in g["workers"] if g["pool"] == "p")

    wait_until(lambda: in_flight() == 1, "the other request alone is in flight")
    gateway.write("go", "")
    waiting.join()
    wait_until(lambda: in_flight() == 0, "nothing is in flight")


def test_a_child_is_ended_by_sigterm(gateway: Running) -> None:
    child = int(ask(gateway, "stays"))
    wait_until(lambda: notes(gateway) == ["child"], "the child runs")
    os.kill(child, signal.SIGTERM)
    wait_until(lambda: has_ended(child), "the child has ended")


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
