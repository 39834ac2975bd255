"""Accepting, the sweep, and the drain of one worker."""

import errno
import time
from email.utils import parsedate_to_datetime
from typing import Any

import answers
import gevent
import pytest
from gevent.event import Event
from harness import GET, Client, Cut, Gateway, Listener, wait_until

from gateway.http.server import ACCEPTS_PER_TURN
from gateway.http.states import State
from gateway.limits import Limits, MountLimits

SLOW = b"GET /slow HTTP/1.1\r\nHost: a.example\r\n\r\n"


class Held:
    """An app that holds its requests until it is told to go on."""

    def __init__(self) -> None:
        self.go_on = Event()
        self.waiting = 0
        self.cleaned_up = 0

    def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        self.waiting += 1
        try:
            self.go_on.wait()
        finally:
            self.cleaned_up += 1
        start_response("200 OK", [])
        return [b"done"]


def drain_in_background(gateway: Gateway, timeout_seconds: float) -> Any:
    drain = gevent.spawn(gateway.server.drain, timeout_seconds)
    wait_until(lambda: gateway.service.is_draining)
    return drain


def send_unseen(client: Client, data: bytes) -> None:
    """Into the kernel's buffer, without a turn for the server to read it."""
    client._socket.send(data)


# --- accepting --------------------------------------------------------------------------------


def test_many_connections_at_once_are_all_served(serve: Any) -> None:
    gateway = serve(answers.one_piece)
    clients = [Client(gateway.listener.connect("192.0.2.1")) for _ in range(ACCEPTS_PER_TURN * 5)]
    for client in clients:
        send_unseen(client, GET)
    assert all(client.read_answer().content == answers.CONTENT for client in clients)
    for client in clients:
        client.close()


def test_connections_beyond_the_limit_wait_their_turn(serve: Any) -> None:
    gateway = serve(answers.one_piece, limits=Limits(max_connections=2))
    first, second, third = (gateway.connect() for _ in range(3))
    assert first.ask(GET).status == second.ask(GET).status == 200
    third.send(GET)
    third.expect_open()
    assert len(gateway.service.connections) == 2
    first.close()
    assert third.read_answer().status == 200
    assert second.ask(GET).status == 200


def test_a_peer_is_what_accept_says(serve: Any) -> None:
    gateway = serve(answers.environ_as_text)
    client = gateway.connect("203.0.113.9")
    content = client.ask(GET).content
    assert b"REMOTE_ADDR='203.0.113.9'\nREMOTE_PORT='50000'\n" in content


def test_a_connection_that_was_aborted_in_the_queue_is_passed_over(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = serve(answers.one_piece)
    fail_once(monkeypatch, gateway.listener, ConnectionAbortedError())
    assert gateway.ask(GET).status == 200


def test_accepting_goes_on_after_descriptors_ran_out(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = serve(answers.one_piece, limits=Limits(keep_alive_seconds=0.1))
    fail_once(monkeypatch, gateway.listener, OSError(errno.EMFILE, "Too many open files"))
    assert gateway.ask(GET).status == 200  # a sweep later


def fail_once(monkeypatch: pytest.MonkeyPatch, listener: Listener, error: OSError) -> None:
    accept = listener._accept

    def failing() -> Any:
        monkeypatch.setattr(listener, "_accept", accept)
        raise error

    monkeypatch.setattr(listener, "_accept", failing)


# --- the sweep --------------------------------------------------------------------------------


def test_deadlines_are_kept_by_the_clock(serve: Any) -> None:
    held = Held()
    gateway = serve(
        {"/slow": held, "/": answers.one_piece},
        limits=Limits(keep_alive_seconds=0.1),
        mount_limits=MountLimits(timeout_seconds=0.2),
    )
    idle, busy = gateway.connect(), gateway.connect()
    began = time.monotonic()
    idle.ask(GET)
    busy.send(SLOW)
    idle.expect_end()
    assert busy.read_answer().status == 504
    assert time.monotonic() - began > 0.2
    assert held.cleaned_up == 1


def test_date_is_now(serve: Any) -> None:
    began = time.time()
    date = parsedate_to_datetime(serve(answers.one_piece).ask(GET)["date"])
    assert int(began) <= date.timestamp() <= time.time()


# --- the drain --------------------------------------------------------------------------------


def test_a_drain_ends_idle_connections_and_finishes_requests(serve: Any) -> None:
    held = Held()
    gateway = serve({"/slow": held, "/": answers.one_piece})
    idle, busy = gateway.connect(), gateway.connect()
    idle.ask(GET)
    busy.send(SLOW)
    drain = drain_in_background(gateway, 5)
    idle.expect_end()
    busy.expect_open()
    held.go_on.set()
    answer = busy.read_answer()
    assert answer.content == b"done"
    busy.expect_end()
    assert drain.get(timeout=5) == 0
    assert [record["status"] for record in gateway.records] == [200, 200]


def test_a_draining_worker_accepts_no_more(serve: Any) -> None:
    held = Held()
    gateway = serve(held)
    busy = gateway.connect()
    busy.send(SLOW)
    drain = drain_in_background(gateway, 5)
    late = gateway.connect()
    late.send(GET)
    late.expect_open()
    held.go_on.set()
    assert busy.read_answer().status == 200
    assert drain.get(timeout=5) == 0
    late.expect_open()  # it waits in the queue, for another worker


def test_what_was_queued_before_the_drain_is_answered(serve: Any) -> None:
    gateway = serve(answers.one_piece)
    clients = [Client(gateway.listener.connect("192.0.2.1")) for _ in range(ACCEPTS_PER_TURN * 2)]
    for client in clients:
        send_unseen(client, GET)
    assert gateway.server.drain(5) == 0
    assert [client.read_answer().is_last for client in clients] == [True] * len(clients)
    for client in clients:
        client.close()


def test_a_request_that_arrives_as_the_drain_begins_is_answered(serve: Any) -> None:
    gateway = serve(answers.one_piece)
    client = gateway.connect()
    client.ask(GET)
    send_unseen(client, GET)
    assert gateway.server.drain(5) == 0
    assert client.read_answer().is_last
    client.expect_end()


def test_a_new_connection_may_still_ask(serve: Any) -> None:
    gateway = serve(answers.one_piece)
    client = gateway.connect()
    drain = drain_in_background(gateway, 5)
    assert client.ask(GET).is_last
    assert drain.get(timeout=5) == 0


def test_a_head_that_has_begun_is_waited_for(serve: Any) -> None:
    gateway = serve(answers.one_piece)
    client = gateway.connect()
    client.send(GET[:20])
    drain = drain_in_background(gateway, 5)
    client.expect_open()
    assert client.ask(GET[20:]).is_last
    assert drain.get(timeout=5) == 0


@pytest.mark.parametrize("state", [State.RUNNING, State.READING, State.WRITING])
def test_a_request_that_outlasts_the_drain_is_cut_with_a_record(serve: Any, state: State) -> None:
    held = Held()
    counted = answers.Counted([b"x" * 65536] * 100)
    apps = {"/slow": held, "/read": lambda e, s: e["wsgi.input"].read(), "/write": counted}
    gateway = serve(apps)
    client = gateway.connect(buffer_bytes=4096)
    client.send(
        {
            State.RUNNING: SLOW,
            State.READING: b"POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n123",
            State.WRITING: SLOW.replace(b"/slow", b"/write"),
        }[state]
    )
    assert gateway.connection.state is state
    assert gateway.server.drain(0.05) == 1
    if state is State.WRITING:
        with pytest.raises(Cut):
            client.read_answer()
    else:
        assert client.read_answer().is_last
    [record] = gateway.records
    assert record["error"]
    if state is State.RUNNING:
        assert held.cleaned_up == 1
    if state is State.WRITING:
        assert counted.closed == 1


def test_an_app_that_ignores_its_end_does_not_hold_the_drain(serve: Any) -> None:
    go_on = Event()
    ended: list[BaseException] = []

    def stubborn(environ: Any, start_response: Any) -> list[bytes]:
        try:
            go_on.wait()
        except BaseException as error:  # noqa: BLE001  as apps do
            ended.append(error)
        go_on.wait()
        start_response("200 OK", [])
        return [b"too late"]

    gateway = serve(stubborn)
    client = gateway.connect()
    client.send(GET)
    assert gateway.server.drain(0.05) == 1
    assert len(ended) == 1
    with pytest.raises(Cut):
        client.read_answer()
    go_on.set()
    wait_until(lambda: gateway.records, "it has its record all the same")


def test_a_connection_that_is_being_drained_can_be_cut(serve: Any) -> None:
    gateway = serve(answers.one_piece, mount_limits=MountLimits(request_buffering="off"))
    client = gateway.connect()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n123")
    assert client.read_answer().status == 200
    assert gateway.connection.state is State.READING
    assert gateway.server.drain(0.05) == 1
    [record] = gateway.records
    assert record["error"].startswith("cut")


# --- the retirement ---------------------------------------------------------------------------


def test_a_retired_worker_leaves_idle_connections_open_and_answers_once_more(serve: Any) -> None:
    gateway = serve(answers.one_piece)
    client = gateway.connect()
    assert not client.ask(GET).is_last
    gateway.server.retire()
    gateway.pass_time(Limits().keep_alive_seconds - 1)
    client.expect_open()
    assert not gateway.server.has_retired()
    assert client.ask(GET).is_last
    client.expect_end()
    assert gateway.server.has_retired()


def test_an_idle_connection_ends_by_keep_alive_after_the_retirement(serve: Any) -> None:
    gateway = serve(answers.one_piece)
    client = gateway.connect()
    client.ask(GET)
    gateway.server.retire()
    gateway.pass_time(Limits().keep_alive_seconds + 1)
    client.expect_end()
    assert gateway.server.has_retired()


def test_a_retired_worker_leaves_what_is_queued_to_others(serve: Any) -> None:
    gateway = serve(answers.one_piece)
    gateway.server.retire()
    late = gateway.connect()
    late.send(GET)
    late.expect_open()
    assert gateway.server.drain(5) == 0
    late.expect_open()
    assert gateway.records == []


@pytest.mark.parametrize(("drain_seconds", "status", "cut"), [(0.2, 503, 1), (5.0, 200, 0)])
def test_a_request_may_outlast_the_retirement_by_drain_timeout(
    serve: Any, drain_seconds: float, status: int, cut: int
) -> None:
    held = Held()
    limits = Limits(drain_timeout_seconds=drain_seconds, keep_alive_seconds=0.2)
    gateway = serve({"/slow": held, "/": answers.one_piece}, limits=limits)
    busy = gateway.connect()
    busy.send(SLOW)
    gateway.server.retire()
    gevent.sleep(0.5)
    held.go_on.set()
    assert busy.read_answer().status == status
    busy.expect_end()
    assert gateway.server.drain(0) == cut
    assert [record["status"] for record in gateway.records] == [status]
