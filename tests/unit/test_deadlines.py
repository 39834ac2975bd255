"""Deadlines as a function of state and time, heads as a function of bytes: without a socket."""

from typing import Any

import pytest

from gateway.errors import (
    ClientDisconnected,
    ClientLeft,
    HeaderFieldsTooLarge,
    MalformedRequest,
    RequestEnded,
    RequestError,
    RequestTimeout,
    UriTooLong,
)
from gateway.http.deadlines import (
    LEFT_SECONDS,
    LINGER_SECONDS,
    Passed,
    Progress,
    build_ending,
    find_passed,
)
from gateway.http.head_reader import HeadReader, build_unreadable_head
from gateway.http.states import State
from gateway.limits import Limits
from gateway.protocol.request import HeadParser

LIMITS = Limits(
    keep_alive_seconds=10.0,
    head_timeout_seconds=20.0,
    body_timeout_seconds=30.0,
    send_timeout_seconds=40.0,
)
MOUNT_SECONDS = 50.0
# of each state: after how many seconds which deadline has passed
DEADLINES = [
    (State.IDLE, 10.0, Passed.KEEP_ALIVE),
    (State.HEAD, 20.0, Passed.HEAD),
    (State.READING, 30.0, Passed.CONTENT),
    (State.WRITING, 40.0, Passed.SEND),
    (State.RUNNING, MOUNT_SECONDS, Passed.TIMEOUT),
    (State.LINGERING, LINGER_SECONDS, Passed.LINGER),
]


def progress_of(state: State, **facts: Any) -> Progress | None:
    is_in_flight = state in (State.READING, State.WRITING, State.RUNNING)
    return Progress(**{"timeout": MOUNT_SECONDS, **facts}) if is_in_flight else None


def test_each_state_that_waits_has_a_deadline() -> None:
    assert {state for state, _, _ in DEADLINES} == set(State) - {State.CLOSED}


@pytest.mark.parametrize(("state", "seconds", "passed"), DEADLINES)
def test_a_deadline_passes_after_its_seconds_and_not_before(
    state: State, seconds: float, passed: Passed
) -> None:
    progress = progress_of(state)
    assert find_passed(state, seconds, LIMITS, progress) is None
    assert find_passed(state, seconds + 0.001, LIMITS, progress) is passed


def test_nothing_is_waited_for_on_a_closed_connection() -> None:
    assert find_passed(State.CLOSED, 1e9, LIMITS, None) is None


def test_a_request_whose_turn_has_not_come_has_no_deadline() -> None:
    assert find_passed(State.RUNNING, 1e9, LIMITS, None) is None


def test_a_mount_without_a_timeout_may_be_silent() -> None:
    assert find_passed(State.RUNNING, 1e9, LIMITS, Progress(timeout=0.0)) is None


@pytest.mark.parametrize(("has_moved", "passed"), [(True, None), (False, Passed.TIMEOUT)])
def test_bytes_that_have_moved_are_progress(has_moved: bool, passed: Passed | None) -> None:
    progress = Progress(timeout=MOUNT_SECONDS, has_moved=has_moved, has_left=lambda: has_moved)
    assert find_passed(State.RUNNING, MOUNT_SECONDS + 1, LIMITS, progress) is passed


@pytest.mark.parametrize("state", [State.READING, State.WRITING, State.RUNNING])
def test_the_least_rate_counts_while_content_is_waited_for(state: State) -> None:
    passed = Passed.RATE if state is State.READING else None
    assert find_passed(state, 1.0, LIMITS, progress_of(state, is_slow=True)) is passed


@pytest.mark.parametrize("state", [State.READING, State.WRITING, State.RUNNING])
@pytest.mark.parametrize("has_left", [True, False])
def test_only_a_quiet_stream_is_ended_when_its_client_has_left(
    state: State, has_left: bool
) -> None:
    progress = progress_of(state, has_left=lambda: has_left)
    passed = Passed.LEFT if state is State.RUNNING and has_left else None
    assert find_passed(state, LEFT_SECONDS, LIMITS, progress) is None
    assert find_passed(state, LEFT_SECONDS + 0.001, LIMITS, progress) is passed


def test_whether_a_client_has_left_is_not_looked_at_for_nothing() -> None:
    def has_left() -> bool:
        raise AssertionError("a system call")

    find_passed(State.RUNNING, LEFT_SECONDS, LIMITS, Progress(has_left=has_left))
    find_passed(State.READING, 1.0, LIMITS, Progress(has_left=has_left))


@pytest.mark.parametrize(
    ("passed", "kind", "status"),
    [
        (Passed.CONTENT, RequestTimeout, "408 Request Timeout"),
        (Passed.RATE, RequestTimeout, "408 Request Timeout"),
        (Passed.SEND, ClientDisconnected, ""),
        (Passed.LEFT, ClientLeft, ""),
        (Passed.TIMEOUT, RequestEnded, "504 Gateway Timeout"),
    ],
)
def test_a_deadline_ends_a_request_by_what_it_stands_for(
    passed: Passed, kind: type, status: str
) -> None:
    ending = build_ending(passed, 1.5)
    assert type(ending) is kind
    assert getattr(ending, "status", "") == status
    assert str(ending) == passed.value.format(1.5)


# --- bytes to heads -----------------------------------------------------------------------------

HEAD = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
SMALL = Limits(max_request_line_bytes=40, max_head_bytes=80)


@pytest.fixture
def reader() -> HeadReader:
    return HeadReader(SMALL, HeadParser(SMALL).parse)


@pytest.mark.parametrize("before", [b"", b"\r\n", b"\r\n\r\n\r\n"])
@pytest.mark.parametrize("behind", [b"", b"GET", HEAD])
def test_a_head_is_taken_off_and_the_rest_is_left(
    reader: HeadReader, before: bytes, behind: bytes
) -> None:
    head, rest = reader.read(before + HEAD + behind, False)
    assert head is not None
    assert (head.target, rest) == ("/x", behind)


@pytest.mark.parametrize("size", range(len(HEAD)))
def test_part_of_a_head_is_kept_until_the_rest_comes(reader: HeadReader, size: int) -> None:
    assert reader.read(HEAD[:size], False) == (None, HEAD[:size])


def test_empty_lines_alone_are_not_kept(reader: HeadReader) -> None:
    assert reader.read(b"\r\n\r\n", False) == (None, b"")


@pytest.mark.parametrize(
    ("valid", "invalid", "kind"),
    [
        (b"GET /" + b"x" * 36, b"GET /" + b"x" * 37, UriTooLong),
        (
            b"GET / HTTP/1.1\r\n" + b"x" * 64,
            b"GET / HTTP/1.1\r\n" + b"x" * 65,
            HeaderFieldsTooLarge,
        ),
        (b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\n", MalformedRequest),
        (b"G", b"\x16\x03\x01", MalformedRequest),
    ],
)
def test_what_no_further_byte_can_mend_is_refused_at_once(
    reader: HeadReader, valid: bytes, invalid: bytes, kind: type[RequestError]
) -> None:
    assert reader.read(valid, False) == (None, valid)
    with pytest.raises(kind):
        reader.read(invalid, False)


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"GET /x HTTP/9.9\r\nHost", ("GET", "/x")),
        (b"\r\n\r\nGET /x HTTP/9.9\r\nHost", ("GET", "/x")),
        (b"GET /\x1b HTTP/1.1", ("GET", "/?")),
        (b"\x16\x03\x01", ("", "")),
        (b"", ("", "")),
    ],
)
def test_a_refusal_shows_the_request_line_if_there_is_one(
    data: bytes, shown: tuple[str, str]
) -> None:
    head = build_unreadable_head(data)
    assert (head.method, head.target) == shown
    assert not head.persistent
