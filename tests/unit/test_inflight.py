"""What a worker has in flight, seen from its own side and from the supervisor's."""

import os
import time
from ipaddress import ip_network
from typing import Any

import pytest
from gevent.event import Event
from harness import PEER, Gateway, wait_until

from gateway.inflight import InFlight, InFlightReader, InFlightRequest, encode_mount

LINE = b"GET /notes/7?a=1 HTTP/1.1"


def test_a_request_is_seen_until_it_ends() -> None:
    board = InFlightReader(8)
    worker = InFlight(board.descriptor)
    slot = worker.take()
    assert (board.requests(), board.count()) == ([], 0)
    worker.write(worker.memory, slot, 12.5, b"id-1", b"192.0.2.7", encode_mount("/notes") + LINE)
    [request] = board.requests()
    assert request == InFlightRequest(
        12.5, "id-1", "192.0.2.7", "/notes", "GET", "/notes/7?a=1", "HTTP/1.1"
    )
    assert board.count() == 1
    worker.memory[slot] = 0
    assert (board.requests(), board.count()) == ([], 0)


def test_the_oldest_come_first_and_a_slot_is_used_again() -> None:
    board = InFlightReader(8)
    worker = InFlight(board.descriptor)
    slots = [worker.take() for _ in range(3)]
    for slot, moment in zip(slots, (9.0, 7.0, 8.0), strict=True):
        worker.write(worker.memory, slot, moment, b"%d" % moment, b"", LINE)
    assert [request.request_id for request in board.requests()] == ["7", "8", "9"]
    worker.memory[slots[1]] = 0
    worker.give_back(slots[1])
    assert worker.take() == slots[1]


def test_what_does_not_fit_is_cut_and_disturbs_no_other() -> None:
    board = InFlightReader(8)
    worker = InFlight(board.descriptor)
    first, second = worker.take(), worker.take()
    worker.write(worker.memory, second, 2.0, b"second", b"b", encode_mount("/") + LINE)
    place = encode_mount("/" + "ä" * 300) + b"GET /" + b"x" * 9000
    worker.write(worker.memory, first, 1.0, b"first", b"a" * 100, place)
    one, other = board.requests()
    assert (one.request_id, one.protocol, other.request_id) == ("first", "", "second")
    assert one.mount.startswith("/ä")
    assert one.mount.endswith("ä")
    assert 10 < len(one.client) < 100
    assert 150 < len(one.target) < 400


def test_a_request_too_many_has_no_slot() -> None:
    board = InFlightReader(2)
    worker = InFlight(board.descriptor)
    slots = [worker.take() for _ in range(4)]
    for slot in slots:
        worker.write(worker.memory, slot, 1.0, b"x", b"", LINE)
    assert board.count() == 2
    for slot in slots:
        worker.give_back(slot)
    assert sorted({worker.take() for _ in range(4)}) == sorted(set(slots))


def test_counts_are_published_with_the_beat() -> None:
    board = InFlightReader(2)
    worker = InFlight(board.descriptor)
    worker.requests, worker.failures = 7, 2
    assert board.counts() == (0.0, 0, 0, 0)
    worker.beat(3.5)
    assert board.counts() == (3.5, 7, 2, 0)


def test_memory_that_was_never_touched_takes_no_room() -> None:
    board = InFlightReader(100_000)
    worker = InFlight(board.descriptor)
    worker.beat(1.0)
    assert (board.count(), board.requests()) == (0, [])
    assert os.fstat(board.descriptor).st_blocks * 512 <= 2 * os.sysconf("SC_PAGE_SIZE")


def test_a_descriptor_is_closed_with_its_last_user() -> None:
    board = InFlightReader(1)
    descriptor = board.descriptor
    del board
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


# --- connections ------------------------------------------------------------------------------


def test_a_connection_tells_what_it_runs(serve: Any) -> None:
    may_go = Event()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        may_go.wait(5)
        start_response("200 OK", [])
        return [environ["gateway.request_id"].encode()]

    board = InFlightReader(8)
    gateway: Gateway = serve({"/notes": app}, in_flight=InFlight(board.descriptor))
    client = gateway.connect()
    client.send(b"GET /notes/7 HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_until(lambda: board.count() == 1)
    [request] = board.requests()
    assert request[2:] == ("192.0.2.7", "/notes", "GET", "/notes/7", "HTTP/1.1")
    assert time.monotonic() - 5 < request.started <= time.monotonic()
    may_go.set()
    assert client.read_answer().content.decode() == request.request_id
    wait_until(lambda: board.count() == 0)


def test_each_request_of_a_connection_is_told_with_its_own_client(serve: Any) -> None:
    """The same head, which a trusted proxy sends with a word on the client, and without."""
    board = InFlightReader(8)
    seen: list[InFlightRequest] = []

    def app(_: Any, start_response: Any) -> list[bytes]:
        seen.extend(board.requests())
        start_response("200 OK", [])
        return [b"x"]

    trusted = (ip_network(PEER),)
    gateway: Gateway = serve(app, in_flight=InFlight(board.descriptor), trusted_proxies=trusted)
    client = gateway.connect()
    told = b"X-Forwarded-For: 198.51.100.%d\r\nX-Request-ID: told-%d\r\n"
    for line in (b"",) * 3 + (told % (1, 1), told % (2, 2), b"", b"", told % (3, 3)):
        client.ask(b"GET / HTTP/1.1\r\nHost: a\r\n%bAccept: b\r\n\r\n" % line)
    proxy, first, second, third = PEER, "198.51.100.1", "198.51.100.2", "198.51.100.3"
    clients = [proxy, proxy, proxy, first, second, proxy, proxy, third]
    assert [request.client for request in seen] == clients
    assert [request.request_id for request in seen if request.client != PEER] == [
        *("told-1", "told-2", "told-3")
    ]
    assert len({request.request_id for request in seen}) == len(seen)
    assert {request.target for request in seen} == {"/"}


def test_a_moment_that_can_be_none_is_no_request() -> None:
    board = InFlightReader(8)
    worker = InFlight(board.descriptor)
    for moment in (float("inf"), float("nan"), -1.0, 1e300, 5.0):
        worker.write(worker.memory, worker.take(), moment, b"id", b"a", LINE)
    assert [request.started for request in board.requests()] == [5.0]


@pytest.mark.parametrize(
    ("path", "status", "failures"), [("/", 200, 0), ("/broken", 500, 1), ("/missing", 404, 0)]
)
def test_answers_are_counted(serve: Any, path: str, status: int, failures: int) -> None:
    def good(_: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK" if path == "/" else "404 Not Found", [])
        return [b"x"]

    def broken(_: Any, start_response: Any) -> list[bytes]:
        start_response("500 Internal Server Error", [])
        return [b"x"]

    gateway: Gateway = serve({"/": good, "/broken": broken})
    assert gateway.ask(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()).status == status
    in_flight = gateway.service.in_flight
    assert (in_flight.requests, in_flight.failures) == (1, failures)


def test_connections_give_their_slots_back(serve: Any) -> None:
    def app(_: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"x"]

    board = InFlightReader(2)
    gateway: Gateway = serve(app, in_flight=InFlight(board.descriptor))
    for _ in range(5):
        assert gateway.ask().status == 200
    assert gateway.service.in_flight.take() == 512


def test_what_has_ended_lately_is_remembered_by_its_connection() -> None:
    worker = InFlight()
    slots = [worker.take() for _ in range(4)]
    # monotonic moments on both sides of 2**17 seconds, from which on the first byte is another
    for began in (5.5, 131_000.5, 131_080.5, 9_000_000.5):
        for slot, mount in zip(slots, "abcd", strict=True):
            worker.write(
                worker.memory, slot, began, b"id", b"client", encode_mount(mount) + b"GET /"
            )
        assert worker.running() == dict.fromkeys(slots, began)
        was_running = {slots[0]: began}
        for slot in slots[:3]:
            worker.memory[slot] = 0
        # in flight is d; the others have ended, and began since, or were running then
        assert worker.recall(began - 1, began + 1, {}) == ({"a", "b", "c", "d"}, 3)
        assert worker.recall(began + 1, began + 2, was_running) == ({"a", "d"}, 1)
        assert worker.recall(began + 1, began + 2, {slots[0]: began - 1}) == ({"d"}, 0)
        assert worker.running() == {slots[3]: began}
