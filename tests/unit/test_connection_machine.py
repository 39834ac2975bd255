"""One connection, driven at random: no byte of one message is ever read as another.

Every request carries a marker of its own and content that no other has; the app tells what it was
given. A model says what must come back. What a client may not have sent ("evil") is everywhere in
the contents, where only a connection out of step would find it.
"""

import logging
import os
import random
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any

import echo
import gevent
import hypothesis.strategies as st
import pytest
from echo import ANSWERS, Echo, summary
from harness import Answer, Cut, Gateway
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gateway.limits import MountLimits

SEED = int(os.environ.get("HYPOTHESIS_SEED", random.randrange(2**32)))
EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", "50"))

EVIL = b"\r\n\r\nGET /evil?read=all&answer=whole HTTP/1.1\r\nHost: a\r\n\r\n0\r\n\r\n"

BAD_HEADS = [
    b"GET /evil HTTP/1.1\r\n\r\n",
    b"GET /evil HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /evil HTTP/2.0\r\nHost: a\r\n\r\n",
    b"GET  /evil HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /evil HTTP/1.1\nHost: a\r\n\r\n",
    b"GET /evil HTTP/1.1\r\nHost : a\r\n\r\n",
    b"GET /evil HTTP/1.1\r\nHost: a\r\n X: b\r\n\r\n",
    b"POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n12345",
    b"POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
    b"POST /evil HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\n\r\n",
    b"POST /evil HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"POST /evil HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
]
BAD_CHUNKS = [
    b"Z\r\n",
    b"-1\r\n",
    b"0x1\r\nx\r\n",
    b"1\r\nxx\r\n",
    b"1\nx\r\n",
    b"f" * 20 + b"\r\n",
]


@dataclass(frozen=True, repr=False)
class Request:
    """What was sent, and what has to come of it; ``content`` is as far as it was valid."""

    marker: str
    raw: bytes
    head_size: int = 0
    content: bytes = b""
    method: str = "GET"
    read: str = "all"
    answer: str = "whole"
    is_http11: bool = True
    keeps: bool = True  # whether the connection goes on behind it
    is_valid: bool = True

    def __repr__(self) -> str:
        return f"{self.raw[:150]!r}, {len(self.raw)} bytes"


@st.composite
def requests(draw: st.DrawFn, marker: str, streams: bool) -> Request:
    """A request that is valid, save perhaps for its chunks, to a mount whose content ``streams`` or
    is taken in."""
    method = draw(st.sampled_from(["GET", "POST", "HEAD", "PUT"]))
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    is_http11 = framing == "chunked" or draw(st.integers(0, 3)) > 0
    connection = draw(st.sampled_from([b"", b"", b"", b"close", b"keep-alive"]))
    read = draw(st.sampled_from(echo.READS))
    answer = draw(st.sampled_from(list(ANSWERS)))
    size = 0 if framing == "none" else draw(st.sampled_from([0, 1, 3, 40, 300, 5000, 20_000]))
    content = (marker.encode() + EVIL + bytes(range(256)) * 80)[:size]
    expects = framing != "none" and draw(st.booleans())
    is_valid = True

    lines = [
        f"{method} /{marker}?read={read}&answer={answer} HTTP/1.{int(is_http11)}".encode(),
        b"Host: a.example",
        *([b"Connection: " + connection] if connection else []),
        *([b"Expect: 100-continue"] if expects else []),
    ]
    framed = content
    if framing == "length":
        lines.append(b"Content-Length: %d" % size)
    elif framing == "chunked":
        lines.append(b"Transfer-Encoding: chunked")
        cuts = [0, *sorted(draw(st.sets(st.integers(1, size), max_size=4))), size] if size else [0]
        framed = b"".join(
            b"%x%s\r\n%s\r\n" % (b - a, draw(st.sampled_from([b"", b";x=y"])), content[a:b])
            for a, b in pairwise(cuts)
            if a != b
        )
        is_valid = draw(st.integers(0, 4)) > 0
        framed += (
            b"0\r\n" + draw(st.sampled_from([b"", b"X: y\r\n"])) + b"\r\n" if is_valid else b""
        )
        if not is_valid:
            framed += draw(st.sampled_from(BAD_CHUNKS)) + b"0\r\n\r\n"
            content += b"x"  # what one of them holds before its fault
    head = b"\r\n".join(lines) + b"\r\n\r\n"

    keeps = is_valid and connection != b"close" and (is_http11 or connection == b"keep-alive")
    if streams and framing == "chunked" and (read == "none" or (read == "some" and size >= 3)):
        # how much is left of them is not known; what the gateway answers itself waits for them
        keeps = keeps and answer == "fails" and not (expects and read == "none")
    if streams and expects and is_http11 and read == "none" and size:
        keeps = False  # RFC 9110 §10.1.1: whether content follows is not known
    if method != "HEAD" and (
        ANSWERS[answer] == "cut" or (ANSWERS[answer] == "chunked" and not is_http11)
    ):
        keeps = False
    return Request(
        marker, head + framed, len(head), content, method, read, answer, is_http11, keeps, is_valid
    )


def bad_heads(marker: str) -> st.SearchStrategy[Request]:
    return st.sampled_from(BAD_HEADS).map(
        lambda raw: Request(marker, raw, len(raw), keeps=False, is_valid=False)
    )


class ConnectionMachine(RuleBasedStateMachine):
    """``unsent`` is what the client has not sent yet; ``answered`` counts what was answered."""

    buffering = "on"

    def __init__(self) -> None:
        super().__init__()
        self.app = Echo()
        limits = MountLimits(request_buffering=self.buffering)
        self.gateway = Gateway(self.app, mount_limits=limits)
        self.client = self.gateway.connect()
        self.requests: list[Request] = []
        self.unsent = b""
        self.sent = 0
        self.answered = 0
        self.markers = count()
        self.has_ended = False

    # --- what the client does -----------------------------------------------------------------

    @precondition(lambda self: not self.has_ended and len(self.requests) < 6)
    @rule(data=st.data(), is_bad=st.integers(0, 9).map(lambda n: n == 9))
    def ask(self, data: Any, is_bad: bool) -> None:
        marker = f"m{next(self.markers)}"
        request = data.draw(
            bad_heads(marker) if is_bad else requests(marker, self.buffering == "off")
        )
        self.requests.append(request)
        self.unsent += request.raw

    @precondition(lambda self: self.unsent and not self.has_ended)
    @rule(size=st.sampled_from([1, 2, 5, 20, 60, 200, 3000, 100_000]), times=st.integers(1, 8))
    def send(self, size: int, times: int) -> None:
        for _ in range(times):
            piece, self.unsent = self.unsent[:size], self.unsent[size:]
            self.sent += len(piece)
            try:
                self.client.send(piece)
            except OSError:
                assert self.has_been_closed
                self.unsent = b""

    @precondition(lambda self: self.next is not None and self.is_sent(self.next))
    @rule()
    def read(self) -> None:
        assert self.next is not None
        self.expect(self.next)

    @rule()
    def wait(self) -> None:
        gevent.sleep(0.0001)

    @precondition(lambda self: self.requests and not self.has_ended)
    @rule()
    def half_close(self) -> None:
        self.has_ended = True
        self.client.end()

    # --- what has to come of it ---------------------------------------------------------------

    @property
    def next(self) -> Request | None:
        """The request whose answer comes next, if the connection has not ended before it."""
        behind = self.requests[: self.answered]
        if self.answered == len(self.requests) or (behind and not behind[-1].keeps):
            return None
        return self.requests[self.answered]

    def start_of(self, request: Request) -> int:
        before = self.requests[: self.requests.index(request)]
        return sum(len(each.raw) for each in before)

    def is_sent(self, request: Request) -> bool:
        return request.is_valid and self.sent >= self.start_of(request) + len(request.raw)

    @property
    def has_been_closed(self) -> bool:
        """Whether a request has been sent, even in part, after which the server may close."""
        return any(not each.keeps and self.sent > self.start_of(each) for each in self.requests)

    def expect(self, request: Request) -> None:
        """The whole answer to a valid request that was sent in full."""
        self.answered += 1
        kind = ANSWERS[request.answer]
        is_headless = request.method == "HEAD" or kind == "none"
        try:
            answer = self.client.read_answer(request.method)
        except Cut as cut:
            if kind != "cut" or cut.head is None:
                raise
            answer = cut.head
            answer.content = cut.content
        if request.answer == "fails":
            assert answer.status == 500
            return
        assert answer["x-marker"] == request.marker
        read = {"none": 0, "some": 3}.get(request.read, len(request.content))
        expected = summary(request.marker, request.content[:read])
        if is_headless or request.answer == "nothing":
            expected = b""
        assert answer.content == expected
        assert answer.is_last <= (not request.keeps)
        if not is_headless and kind == "chunked":
            assert answer.framing == ("chunked" if request.is_http11 else "close")

    def expect_tail(self) -> None:
        """Behind the last whole request: at most one answer to what was refused or incomplete."""
        request = self.next
        method = "GET"  # a head that was never whole has none
        if request is not None and self.sent >= self.start_of(request) + request.head_size:
            method = request.method
        answers: list[Answer] = []
        while True:
            try:
                answers.append(self.client.read_answer(method))
            except Cut as cut:
                if cut.head is not None:
                    answers.append(cut.head)
                break
            except ConnectionResetError:
                assert self.has_been_closed
                break
        assert len(answers) <= (request is not None)
        if request is not None and answers:
            assert answers[0].status >= 400 or answers[0]["x-marker"] == request.marker

    @invariant()
    def every_call_is_a_request_that_was_sent(self) -> None:
        gevent.idle()
        calls = self.app.calls
        assert [marker for marker, _ in calls] == [
            each.marker for each in self.requests if each.head_size and not self.is_bad_head(each)
        ][: len(calls)]
        for request, (marker, content) in zip(self.of_calls(), calls, strict=False):
            assert request.marker == marker
            assert self.sent >= self.start_of(request) + request.head_size
            assert request.content.startswith(content)

    def of_calls(self) -> list[Request]:
        return [each for each in self.requests if not self.is_bad_head(each)]

    def is_bad_head(self, request: Request) -> bool:
        return not request.is_valid and request.raw in BAD_HEADS

    def teardown(self) -> None:
        try:
            if not self.has_ended:
                self.half_close()
            while self.next is not None and self.is_sent(self.next):
                self.expect(self.next)
            self.expect_tail()
            records = self.gateway.records
            assert len(self.app.calls) <= len(records) <= len(self.app.calls) + 1
            self.every_call_is_a_request_that_was_sent()
        finally:
            self.gateway.close()


class StreamingMachine(ConnectionMachine):
    buffering = "off"


@pytest.mark.parametrize("machine", [ConnectionMachine, StreamingMachine])
def test_no_byte_of_one_message_is_read_as_another(
    machine: type[ConnectionMachine], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "gateway.error")  # apps that fail are meant here
    print(f"HYPOTHESIS_SEED={SEED}")
    run_state_machine_as_test(
        seed(SEED)(machine),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=20,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
