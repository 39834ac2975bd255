"""The event loop looks on after a request that came at once, for a moment and not in vain again."""

from collections.abc import Iterator
from time import monotonic
from typing import Any

import answers
import pytest
from gevent.event import Event
from harness import GET, wait_until

from gateway.http.lookout import LOOK_SECONDS, REST_SECONDS, Lookout


@pytest.fixture
def lookout() -> Iterator[Lookout]:
    lookout = Lookout()
    yield lookout
    lookout.close()


def test_a_first_request_is_not_expected_to_be_followed(lookout: Lookout) -> None:
    lookout.note_turn(1.0, 1.1)
    assert not lookout.is_looking


def test_a_request_soon_after_an_answer_has_the_loop_look_on(lookout: Lookout) -> None:
    lookout.note_turn(1.0, 1.1)
    lookout.note_turn(1.1 + LOOK_SECONDS / 2, 1.2)
    assert lookout.is_looking


def test_a_request_later_than_that_does_not(lookout: Lookout) -> None:
    lookout.note_turn(1.0, 1.1)
    lookout.note_turn(1.1 + LOOK_SECONDS * 2, 1.2)
    assert not lookout.is_looking


def test_a_look_in_vain_ends_and_a_rest_follows(lookout: Lookout) -> None:
    lookout.note_turn(1.0, 1.1)
    lookout.note_turn(1.1, 1.2)
    before = monotonic()
    wait_until(lambda: not lookout.is_looking, "1.2 has passed long since")
    lookout.note_turn(before, before)
    lookout.note_turn(before, before)
    assert not lookout.is_looking
    rested = monotonic() + REST_SECONDS
    lookout.note_turn(rested, rested)
    lookout.note_turn(rested, rested)
    assert lookout.is_looking


def test_a_server_looks_on_after_one_request_and_not_after_several(serve: Any) -> None:
    gateway = serve(answers.one_piece)
    lookout = gateway.service.greenlets.lookout
    turns: list[float] = []
    lookout.note_turn = lambda began, _: turns.append(began)
    first, second = gateway.connect(), gateway.connect()
    first.ask(GET)
    assert len(turns) == 1
    for client in (first, second):
        client._socket.sendall(GET)  # the loop does not turn in between
    assert first.read_answer().status == second.read_answer().status == 200
    assert len(turns) == 1


def test_a_request_that_waits_for_others_leaves_them_the_processor(serve: Any) -> None:
    may_go = Event()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/wait":
            may_go.wait(5)
        start_response("200 OK", [])
        return [b"x"]

    gateway = serve(app)
    turns: list[float] = []
    gateway.service.greenlets.lookout.note_turn = lambda began, _: turns.append(began)
    client = gateway.connect()
    client.send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
    may_go.set()
    assert client.read_answer().status == 200
    assert not turns
    assert client.ask(GET).status == 200
    assert len(turns) == 1
