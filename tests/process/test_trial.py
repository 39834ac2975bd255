"""New workers on trial: a reload whose responses are worse is taken back by itself."""

from collections.abc import Callable
from typing import Any

import pytest
from running import APP, Running, wait_until

Start = Callable[..., Running]
WATCHED = "  reload_on_edit: false\n  watch: {for: 1h, max_error_rate: 5%}\n"
FAILING = APP.replace(
    'start_response("200 OK", [])',
    'start_response("500 No" if environ["QUERY_STRING"] else "200 OK", [])',
)


def ask(gateway: Running, requests: int, failures: int) -> None:
    """So many requests, of which so many fail where the app is the failing one."""
    for number in range(requests):
        gateway.ask("/?fail" if number < failures else "/")


def last_trigger(gateway: Running) -> Any:
    return gateway.control("status")["last_reload"]["trigger"]


def test_too_many_errors_take_a_reload_back(start: Start) -> None:
    gateway = start(server=WATCHED)
    workers = gateway.children()
    gateway.write("good.py", FAILING)
    assert gateway.control("reload")["generation"] == "g2"
    ask(gateway, 40, 10)
    wait_until(lambda: last_trigger(gateway) == "watch", "the reload is taken back")
    assert gateway.generation() == "g1"
    assert workers < gateway.children()
    last = gateway.control("status")["last_reload"]
    assert last["exit_code"] == 0
    assert "10 of 4" in last["messages"][0]
    assert (
        "5.0% are allowed (server.watch), and 0.0% were those of the previous workers"
        in (last["messages"][0])
    )
    assert "the last reload is taken back: pool main: 10 of" in gateway.log_text
    ask(gateway, 40, 40)
    assert gateway.generation() == "g1"


@pytest.mark.parametrize(("requests", "failures"), [(19, 19), (100, 5)])
def test_few_errors_or_few_responses_do_not(start: Start, requests: int, failures: int) -> None:
    gateway = start(server=WATCHED)
    gateway.write("good.py", FAILING)
    gateway.control("reload")
    ask(gateway, requests, failures)
    counted = wait_until(
        lambda: [
            worker["requests"]
            for generation in gateway.control("status")["generations"]
            if generation["generation"] == "g2"
            for worker in generation["workers"]
            if worker["requests"] >= requests
        ],
        "the responses are counted",
    )
    assert counted == [requests]
    assert last_trigger(gateway) == "gateway reload"
    assert gateway.generation() == "g2"


def test_workers_that_are_no_worse_than_those_before_stay(start: Start) -> None:
    gateway = start(server=WATCHED, good=FAILING)
    ask(gateway, 40, 20)
    gateway.control("reload")
    ask(gateway, 40, 10)
    assert last_trigger(gateway) == "gateway reload"
    ask(gateway, 60, 60)
    wait_until(lambda: last_trigger(gateway) == "watch", "now they are worse")
    assert gateway.generation() == "g1"


def test_without_the_setting_nothing_is_taken_back(start: Start) -> None:
    gateway = start(server="  reload_on_edit: false\n")
    gateway.write("good.py", FAILING)
    gateway.control("reload")
    ask(gateway, 40, 40)
    assert last_trigger(gateway) == "gateway reload"
    assert gateway.generation() == "g2"
