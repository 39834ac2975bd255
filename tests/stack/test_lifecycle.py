"""Workers that die, a gateway that stops, is away, comes back, or has moved."""

import re
import secrets
from dataclasses import dataclass

import pytest
from stacks import Lab
from wire import Address, Answer, Connection, build_request, wait_until


def answering_workers(address: Address) -> set[int]:
    """Who answers when many ask at once."""
    clients = [Connection(address) for _ in range(16)]
    try:
        for client in clients:
            client.send(build_request(client.host, "/echo"))
        answers = [client.read_answer() for client in clients]
    finally:
        for client in clients:
            client.close()
    assert {answer.status for answer in answers} == {200}
    return {answer.json()["worker"] for answer in answers}


def test_a_killed_worker_is_replaced_while_the_others_serve(disturbed_lab: Lab):
    lab, before = disturbed_lab, set()
    # where each connection is a new one; nginx keeps those that it has to the other worker
    gateway = lab.direct
    wait_until(
        lambda: before.update(answering_workers(gateway)) or len(before) == 2, "both workers answer"
    )
    killed = min(before)
    assert lab.run_in("gateway", "bash", "-c", f"kill -9 {killed}").exit_code == 0
    # the connections that nginx has to it end with it, and not with the signal
    is_there = f"kill -0 {killed}"
    wait_until(lambda: lab.run_in("gateway", "bash", "-c", is_there).exit_code != 0, "it has ended")

    def is_replaced() -> bool:
        assert killed not in answering_workers(lab.address)  # and no answer is other than 200
        return bool(answering_workers(gateway) - before)

    wait_until(is_replaced, "a new worker answers")
    assert re.search(rf"worker {killed} .*SIGKILL", lab.stderr("gateway"))


def test_a_request_on_a_killed_worker_is_answered_502_and_not_repeated(disturbed_lab: Lab):
    lab, name = disturbed_lab, secrets.token_hex(8)
    with Connection(lab.address) as client:
        client.send(build_request(client.host, f"/steps/slow?{name}", "POST"))
        wait_until(lambda: lab.fetch(f"/steps/state?{name}").json(), "the request has begun")
        pids = [p["Pid"] for p in lab.processes("gateway") if p["PPid"] == "1"]
        assert len(pids) >= 2, pids  # those of a generation that is kept, too
        assert lab.run_in("gateway", "bash", "-c", f"kill -9 {' '.join(pids)}").exit_code == 0
        answer = client.read_answer()
    assert answer.status == 502
    assert answer["Retry-After"] == ""
    wait_until(lambda: lab.fetch("/echo").status == 200, "new workers answer")
    assert lab.fetch(f"/steps/state?{name}").json() == ["began"]


@dataclass(frozen=True, slots=True)
class Stop:
    """What was seen of one `docker compose stop gateway`, and of the start after it."""

    slow: Answer
    download: bytes
    exit_code: int
    log: str
    away: Answer
    back: Answer


@pytest.fixture(scope="module")
def stop(lab: Lab) -> Stop:
    """A stop while one request waits in its app and the answer to another is half read."""
    name, lines = secrets.token_hex(8), 512 * 1024
    with Connection(lab.address) as waiting, Connection(lab.address) as reading:
        waiting.send(build_request(waiting.host, f"/steps/slow?{name}"))
        reading.send(build_request(reading.host, f"/download?{lines}"))
        head = reading.read_head()
        wait_until(lambda: lab.fetch(f"/steps/state?{name}").json(), "the request has begun")
        with lab.start_compose("stop", "gateway") as stopping:
            wait_until(lambda: "stopping" in lab.stderr("gateway"), "the gateway drains")
            lab.run_in("gateway", "bash", "-c", f"echo > /data/steps/{name}")
            slow = waiting.read_answer()
            download = b"".join(reading.read_content(head))
            stopping.communicate(timeout=60)
    gateway = lab.container("gateway")
    log, away = lab.stderr("gateway"), lab.fetch("/echo")
    lab.up("gateway")
    back = lab.fetch("/echo")
    return Stop(slow, download, gateway.attrs["State"]["ExitCode"], log, away, back)


def test_requests_in_flight_finish_before_a_stop(stop: Stop):
    assert (stop.slow.status, stop.slow.content) == (200, b"finished\n")
    assert len(stop.download) == 64 * 512 * 1024


def test_a_stop_ends_with_exit_code_0(stop: Stop):
    assert stop.exit_code == 0
    assert "stopped" in stop.log
    assert "cut" not in stop.log


def test_a_page_says_that_the_gateway_is_away(stop: Stop):
    away = stop.away
    assert away.status in (502, 503, 504)
    assert int(away["Retry-After"]) > 0
    assert away["Cache-Control"] == "no-store"
    assert away["Content-Type"].startswith("text/html")
    assert away.text.startswith("<!doctype html>")
    assert away.text.rstrip().endswith("</html>")
    assert str(away.status) in away.text
    assert away["X-Request-ID"] in away.text
    assert "<!--#" not in away.text


def test_the_gateway_is_found_again_as_soon_as_it_is_ready(stop: Stop):
    assert stop.back.status == 200


def test_a_recreated_gateway_with_another_address_is_followed(disturbed_lab: Lab):
    lab = disturbed_lab
    before = lab.internal_address("gateway")
    assert lab.fetch("/echo").status == 200
    assert lab.compose("stop", "gateway").returncode == 0
    squatter = lab.beside("sleep", "infinity")  # takes the address that has become free
    try:
        lab.recreate("gateway")
        assert lab.internal_address("gateway") != before
        answers = [lab.fetch("/echo") for _ in range(50)]
    finally:
        squatter.remove(force=True)
    assert {answer.status for answer in answers} == {200}


def test_a_killed_gateway_leaves_a_socket_that_the_next_one_takes_over(disturbed_lab: Lab):
    lab = disturbed_lab
    nginx = lab.container("nginx").attrs["State"]["StartedAt"]
    lab.container("gateway").kill()
    away = lab.fetch("/echo")
    assert (away.status, away["Retry-After"]) == (502, "5")
    lab.up("gateway")
    assert {lab.fetch("/echo").status for _ in range(50)} == {200}
    assert lab.container("nginx").attrs["State"]["StartedAt"] == nginx


def test_no_name_has_to_be_found(disturbed_lab: Lab):
    """As where Docker's name server has lost the gateway: it is in no network at all."""
    lab = disturbed_lab
    lab.disconnect("gateway")
    assert {lab.fetch("/echo").status for _ in range(50)} == {200}
    lab.recreate("gateway")


def test_nginx_ends_with_exit_code_0(disturbed_lab: Lab):
    lab = disturbed_lab
    assert lab.compose("stop", "nginx").returncode == 0
    assert lab.container("nginx").attrs["State"]["ExitCode"] == 0
