"""Decides which deadline of a connection has passed, by its state and the time.

Source: RFC 9110 §15.5.9 (408), §15.6.5 (504); RFC 9112 §9.6 (the end of a connection).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from gateway.errors import ClientDisconnected, ClientLeft, RequestEnded, RequestTimeout
from gateway.http.states import HEAD, IDLE, LINGERING, READING, RUNNING, WRITING, State
from gateway.limits import Limits

LINGER_SECONDS = 2.0
# how long a stream whose client has closed may be silent; with the sweep, two seconds at most
LEFT_SECONDS = 0.5


class Passed(Enum):
    """A deadline that has passed; its ``value`` is the error in the access record."""

    KEEP_ALIVE = "no request came in time"
    LINGER = "the client did not close in time"
    HEAD = "the head was not complete in time"
    CONTENT = "no content came in time"
    RATE = "the content came too slowly"
    SEND = "the client left its response unread"
    LEFT = "the client left"
    TIMEOUT = "no byte moved for {:g} s"


class Progress(NamedTuple):
    """The progress of a request since the last sweep. ``timeout`` is the mount's, in seconds, 0 for
    none; ``has_moved`` is whether bytes were received or sent; ``is_slow`` whether content arrives
    below the minimum rate. ``has_left()`` is whether it is a stream whose client has closed, which
    costs a system call."""

    timeout: float = 0.0
    has_moved: bool = False
    is_slow: bool = False
    has_left: Callable[[], bool] = bool


def find_passed(
    state: State, waited: float, limits: Limits, progress: Progress | None
) -> Passed | None:
    """The deadline that has passed for a connection that has been in ``state`` for ``waited``
    seconds; ``progress`` is None without a request in flight."""
    passed = None
    if state is IDLE:
        passed = Passed.KEEP_ALIVE if waited > limits.keep_alive_seconds else None
    elif state is HEAD:
        passed = Passed.HEAD if waited > limits.head_timeout_seconds else None
    elif state is LINGERING:
        passed = Passed.LINGER if waited > LINGER_SECONDS else None
    elif progress is None:
        pass
    elif state is READING:
        slow = Passed.RATE if progress.is_slow else None
        passed = Passed.CONTENT if waited > limits.body_timeout_seconds else slow
    elif state is WRITING:
        passed = Passed.SEND if waited > limits.send_timeout_seconds else None
    elif state is RUNNING and not progress.has_moved:
        if waited > LEFT_SECONDS and progress.has_left():
            passed = Passed.LEFT
        elif progress.timeout and waited > progress.timeout:
            passed = Passed.TIMEOUT
    return passed


def build_ending(passed: Passed, timeout: float) -> BaseException:
    """The exception that ends a request whose deadline has passed."""
    if passed is Passed.LEFT:
        return ClientLeft()
    if passed is Passed.SEND:
        return ClientDisconnected(passed.value)
    if passed is Passed.TIMEOUT:
        fault = passed.value.format(timeout)
        return RequestEnded(fault, "504 Gateway Timeout", "The app took too long to answer.")
    return RequestTimeout(passed.value)
