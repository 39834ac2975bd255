"""A request that ends its worker: it is passed on once, and nothing asks for it again by itself."""

import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from stacks import Lab
from wire import Answer, Connection, build_request, wait_until

TABLE = ("-c", "/srv/apps/mounts.yaml")
# connections that nginx keeps to the workers, at the least
KEPT = 24


def status(lab: Lab) -> dict:
    ran = lab.run_in("gateway", "gateway", "status", "--json", *TABLE)
    assert ran.exit_code == 0, ran.err
    return json.loads(ran.out)


def ready(lab: Lab) -> set[int]:
    """The workers that serve."""
    report = status(lab)
    [serving] = [g for g in report["generations"] if g["generation"] == report["generation"]]
    return {worker["pid"] for worker in serving["workers"] if worker["state"] == "ready"}


def warm_up(lab: Lab) -> None:
    """Have nginx keep idle connections to both workers."""
    clients = [Connection(lab.address) for _ in range(KEPT)]
    for _ in range(10):
        for client in clients:
            client.send(build_request(client.host, "/echo"))
        assert {client.read_answer().status for client in clients} == {200}
    for client in clients:
        client.close()


@pytest.fixture
def broken(disturbed_lab: Lab) -> Lab:
    """A lab with two workers that have served for a while, and none that ended before."""
    lab = disturbed_lab
    assert lab.run_in("gateway", "gateway", "reload", *TABLE).exit_code == 0
    wait_until(lambda: lab.fetch("/dies/asked").status == 200, "new workers serve")
    wait_until(lambda: len(ready(lab)) == 2, "two workers serve")
    warm_up(lab)
    return lab


def break_off(lab: Lab, method: str) -> Answer:
    """The answer to a request that ends its worker; it is asked once and ends one worker alone."""
    before, name = ready(lab), secrets.token_hex(8)
    answer = lab.fetch(f"/dies?{name}", method)
    record = lab.record("nginx", answer["X-Request-ID"])
    assert (record["upstream_status"], record["status"]) == ("502", 502)
    after = wait_until(lambda: len(now := ready(lab)) == 2 and now, "it is replaced")
    assert len(before & after) == 1
    assert lab.fetch("/dies/asked").json().count(name) == 1
    return answer


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_a_request_that_ends_its_worker_is_passed_on_once(broken: Lab, method: str):
    answer = break_off(broken, method)
    assert answer.status == 502
    assert "was forwarded, but there was no response" in answer.text
    assert "<!--#" not in answer.text


def test_the_page_of_a_request_that_was_passed_on_never_asks_again(broken: Lab):
    answer = break_off(broken, "GET")
    assert "http-equiv" not in answer.text
    assert answer["Retry-After"] == ""
    assert answer["Refresh"] == ""


def test_the_page_of_a_gateway_that_is_away_asks_again_where_that_is_safe(disturbed_lab: Lab):
    lab = disturbed_lab
    assert lab.compose("stop", "gateway").returncode == 0
    shown, sent = lab.fetch("/echo"), lab.fetch("/echo", "POST", content=b"x")
    assert '<meta http-equiv="refresh" content="5">' in shown.text
    assert "http-equiv" not in sent.text
    assert "was not forwarded" in sent.text
    for answer in (shown, sent):
        assert answer.status in (502, 504)
        assert answer["Retry-After"] == "5"
        assert answer["X-Request-ID"] in answer.text
        assert "<!--#" not in answer.text
        assert "error occurred" not in answer.text


@contextmanager
def neighbours(lab: Lab, count: int) -> Iterator[Counter[int]]:
    """Clients that ask for another mount all the time; how often each status was answered."""
    answered: Counter[int] = Counter()
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            answered[lab.fetch("/echo").status] += 1

    clients = [threading.Thread(target=ask) for _ in range(count)]
    for client in clients:
        client.start()
    try:
        yield answered
    finally:
        is_over.set()
        for client in clients:
            client.join()


def test_a_mount_whose_requests_end_workers_is_quarantined_and_the_others_go_on(broken: Lab):
    lab, began, asked = broken, time.time(), 0
    with neighbours(lab, 2) as answered:
        while lab.fetch("/dies").status != 503:
            asked += 1
            assert asked < 30
            time.sleep(0.2)  # the client's own pace
        known = {mount["mount"]: mount["quarantine"] for mount in status(lab)["mounts"]}
        assert [name for name in known if known[name]] == ["/dies"]
        assert known["/dies"]["deaths"] == asked
        serving, lost, served = ready(lab), answered[502], answered[200]
        refused = [lab.fetch("/dies") for _ in range(20)]
        wait_until(lambda: answered[200] > served + 100, "the others go on")
        assert ready(lab) >= serving
    assert {answer.status for answer in refused} == {503}
    assert all(int(answer["Retry-After"]) > 0 for answer in refused)
    assert "so it is paused. Try again in " in refused[0].text
    assert set(answered) <= {200, 502}
    # a worker's sockets are closed one by one at its end: nginx may choose some that are still open
    assert answered[502] == lost <= KEPT * asked
    assert "mounts./dies: in quarantine for 10 s" in lab.stderr("gateway", began)
    print(f"in quarantine after {asked} workers; {dict(answered)} answered to the others")
