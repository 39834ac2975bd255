"""The states of a client connection and the legal transitions.

A state says what the connection waits for, and so which deadline applies (``http/deadlines.py``).
"""

from __future__ import annotations

from gateway import states


class State(states.State):
    IDLE = "idle", "waits for the first byte of a request"
    HEAD = "head", "waits for the rest of a head, or of a PROXY header"
    RUNNING = "running", "a request is being answered"
    READING = "reading", "its app waits for content"
    WRITING = "writing", "its app waits for the client to read the response"
    LINGERING = "lingering", "the last response is sent; waits for the client to close"
    CLOSED = "closed", "the socket is closed"

    # by identity: Enum's is written in Python, and each request makes two transitions
    __hash__ = object.__hash__


IDLE, HEAD, RUNNING, READING = State.IDLE, State.HEAD, State.RUNNING, State.READING
WRITING, LINGERING, CLOSED = State.WRITING, State.LINGERING, State.CLOSED

BETWEEN_REQUESTS = frozenset((IDLE, HEAD))
IN_FLIGHT = frozenset((RUNNING, READING, WRITING))
# a greenlet that an app has started may still wait for the client when its request ends
_AFTER = frozenset((IDLE, LINGERING, CLOSED))
TRANSITIONS: dict[State, frozenset[State]] = {
    IDLE: frozenset((HEAD, RUNNING, CLOSED)),
    HEAD: frozenset((IDLE, RUNNING, CLOSED)),
    RUNNING: _AFTER | {READING, WRITING},
    READING: _AFTER | {RUNNING, WRITING},
    WRITING: _AFTER | {RUNNING, READING},
    LINGERING: frozenset((CLOSED,)),
    CLOSED: frozenset(),
}
CONNECTION = states.Machine("connection", IDLE, TRANSITIONS)
