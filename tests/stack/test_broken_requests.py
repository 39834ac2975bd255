"""A request that ends its worker: it is passed on once, and nothing asks for it again by itself."""

import secrets
from collections.abc import Iterator

import pytest
from stacks import Lab
from wire import Answer, Connection, build_request, wait_until


def workers(lab: Lab) -> set[str]:
    """The children of the supervisor."""
    return {p["Pid"] for p in lab.processes("gateway") if p["PPid"] == "1"}


def warm_up(lab: Lab) -> None:
    """Have nginx keep idle connections to both workers."""
    clients = [Connection(lab.address) for _ in range(24)]
    for _ in range(10):
        for client in clients:
            client.send(build_request(client.host, "/echo"))
        assert {client.read_answer().status for client in clients} == {200}
    for client in clients:
        client.close()


@pytest.fixture
def broken(disturbed_lab: Lab) -> Iterator[Lab]:
    """A lab with two workers that have served for a while."""
    wait_until(lambda: len(workers(disturbed_lab)) == 2, "two workers run")
    warm_up(disturbed_lab)
    yield disturbed_lab
    wait_until(lambda: len(workers(disturbed_lab)) == 2, "the workers are back")


def break_off(lab: Lab, method: str) -> Answer:
    """The answer to a request that ends its worker; it is asked once and ends one worker alone."""
    before, name = workers(lab), secrets.token_hex(8)
    answer = lab.fetch(f"/dies?{name}", method)
    record = lab.record("nginx", answer["X-Request-ID"])
    assert (record["upstream_status"], record["status"]) == ("502", 502)
    wait_until(lambda: len(workers(lab)) == 2, "it is replaced")
    assert len(before & workers(lab)) == 1
    assert lab.fetch("/dies/asked").json().count(name) == 1
    return answer


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_a_request_that_ends_its_worker_is_passed_on_once(broken: Lab, method: str):
    answer = break_off(broken, method)
    assert answer.status == 502
    assert "was passed on, but no answer came back" in answer.text
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
    assert "was not passed on" in sent.text
    for answer in (shown, sent):
        assert answer.status in (502, 504)
        assert answer["Retry-After"] == "5"
        assert answer["X-Request-ID"] in answer.text
        assert "<!--#" not in answer.text
        assert "error occurred" not in answer.text
