"""Records stay one line, valid and short, whatever a client or an app puts into them."""

import builtins
import io
import json
import logging
import os
import re
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import answers
import failures
import pytest
from harness import GET
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import access_log
from gateway.access_log import AccessLog
from gateway.logs import (
    choose_style,
    configure_logs,
    faults,
    lifecycle,
)
from gateway.outlet import WHOLE_WRITE_BYTES
from gateway.protocol.request import RequestHead

# raw in no record
HIDDEN = re.compile("[\x7f-\x9f\u2028\u2029]")
PLAIN: dict[str, Any] = {
    "request_id": "0123456789abcdef-1",
    "client": "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
    "mount": "/shop",
    "method": "GET",
    "target": "/shop/a?b=c",
    "protocol": "HTTP/1.1",
    "host": "a.example",
    "referer": "",
    "user_agent": "",
    "status": 200,
    "bytes_in": 5,
    "bytes_out": 123,
    "duration_ms": 1.5,
    "error": "",
}

# what can come from a client: latin-1 without control characters, save the tab
SENDABLE = "".join(chr(code) for code in (9, *range(0x20, 0x7F), *range(0x80, 0x100)))


def render(style: str, **values: Any) -> str:
    """A record of ``PLAIN`` with other ``values`` as it is written."""
    values = {**PLAIN, **values}
    with tempfile.TemporaryFile() as file:
        log = AccessLog(style, file.fileno())
        record_values(log, **values)
        log.flush()
        return os.pread(file.fileno(), 1 << 20, 0).decode()


def record_values(log: AccessLog, **values: Any) -> None:
    head = RequestHead()
    head.method, head.target, head.host = values["method"], values["target"], values["host"]
    head.is_http11 = values["protocol"] == "HTTP/1.1"
    head.fields = {"HTTP_REFERER": values["referer"], "HTTP_USER_AGENT": values["user_agent"]}
    log.record(
        (
            *(values[name] for name in ("request_id", "client", "mount")),
            head,
            *(values[name] for name in ("status", "bytes_in", "bytes_out")),
            1.0,
            1.0 + values["duration_ms"] / 1000,
            values["error"],
        )
    )


def as_json(**values: Any) -> dict[str, Any]:
    line = render("json", **values)
    assert line.endswith("\n")
    assert "\n" not in line[:-1]
    return json.loads(line)  # type: ignore[no-any-return]


# --- access records ---------------------------------------------------------------------------


def test_a_json_record_holds_what_it_was_given() -> None:
    record = as_json()
    assert record.pop("time")
    assert record == {k: v for k, v in PLAIN.items() if k != "error"}
    assert as_json(error="broken")["error"] == "broken"


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["mount", "target", "host", "referer", "user_agent", "method", "error"]),
        st.text(
            st.characters() | st.sampled_from('"\\\n\r\0\x1b\x7f\x85\u2028\ud800'), max_size=30
        ),
    )
)
def test_any_text_stays_one_line_of_json(values: dict[str, str]) -> None:
    line = render("json", **values)
    assert line.count("\n") == 1
    assert len(line.splitlines()) == 1
    assert not set(line) & set(map(chr, range(0x7F, 0xA0)))
    record = json.loads(line)
    for name, value in values.items():
        if name != "error":  # which may lose what does not print
            whole = value.encode("utf-8", "replace").decode()
            assert record[name] in (whole, HIDDEN.sub("?", whole))


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from(["mount", "target", "host", "error"]), st.text()))
def test_any_text_stays_one_line_that_a_terminal_only_shows(values: dict[str, str]) -> None:
    line = render("text", **values)
    assert line[:-1].isprintable()
    assert line[-1] == "\n"


@pytest.mark.parametrize("worst", ['"', "\\", "\xff", "\t", "a", "\x85"])
@pytest.mark.parametrize("fault", ["\0", '"', "\U0001f600", "\ud800"])
@pytest.mark.parametrize("style", ["json", "text"])
def test_a_record_is_never_longer_than_one_write(style: str, worst: str, fault: str) -> None:
    """Beyond PIPE_BUF the records of two workers on one pipe could mix."""
    values = {
        **PLAIN,
        "request_id": "x" * 128,
        "mount": "legacy.example.com/" + "x" * 100,
        "method": "X" * 10_000,
        "target": worst * 10_000,
        "host": "x" * 10_000,
        "referer": worst * 10_000,
        "user_agent": worst * 10_000,
        "error": fault * 10_000,
        "bytes_in": 10**15,
        "bytes_out": 10**15,
        "duration_ms": 1e9,
    }
    assert len(render(style, **values).encode()) <= WHOLE_WRITE_BYTES


@pytest.mark.parametrize("style", ["json", "text"])
def test_what_a_client_sends_stays_one_record(serve: Any, style: str) -> None:
    gateway = serve(answers.one_piece, access_log=style)
    target = bytes(code for code in range(0x21, 0x7F) if code not in b"#")
    client = gateway.connect()
    client.ask(
        b"GET /?%s HTTP/1.1\r\nHost: a\r\nUser-Agent: %s\r\nReferer: %s\r\n\r\n"
        % (target, SENDABLE.encode("latin-1").strip(), b'","status":999,"x":"\\')
    )
    written = os.pread(gateway._log.fileno(), 1 << 20, 0)
    assert written.count(b"\n") == 1
    if style == "json":
        [record] = gateway.records
        assert record["target"] == "/?" + target.decode()
        assert record["user_agent"] == HIDDEN.sub("?", SENDABLE.strip()[:200])
        assert record["referer"] == '","status":999,"x":"\\'
        assert record["status"] == 200


def test_a_target_s_control_characters_never_reach_the_log(serve: Any) -> None:
    gateway = serve(answers.one_piece)
    client = gateway.connect()
    assert client.ask(b"GET /\x1b[2J HTTP/1.1\r\nHost: a\r\n\r\n").status == 400
    assert "\x1b" not in json.dumps(gateway.records, ensure_ascii=False)


class Output:
    """Where records go; each write arrives by itself."""

    def __init__(self) -> None:
        self._reading, self._writing = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._reading.setblocking(False)
        self.log = AccessLog("json", self._writing.fileno())

    def write_records(self, count: int) -> list[bytes]:
        """Log as many answers; what was written."""
        for number in range(count):
            record_values(self.log, **{**PLAIN, "status": number})
        self.log.flush()
        self.log.flush()
        return list(self._receive())

    def _receive(self) -> Iterator[bytes]:
        with suppress(BlockingIOError):
            while True:
                yield self._reading.recv(1 << 20)

    def close(self) -> None:
        self._reading.close()
        self._writing.close()


@pytest.fixture
def output() -> Iterator[Output]:
    with closing(Output()) as made:
        yield made


def test_records_of_a_turn_are_written_together_in_whole_lines(output: Output) -> None:
    written = output.write_records(50)
    assert 1 < len(written) < 10
    for data in written:
        assert len(data) <= WHOLE_WRITE_BYTES
        assert data.endswith(b"}\n")
    statuses = [json.loads(line)["status"] for line in b"".join(written).splitlines()]
    assert statuses == list(range(50))


def test_time_is_utc_in_milliseconds(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log.time, "time", lambda: 1_767_323_045.678)
    monkeypatch.setattr(access_log.time, "monotonic", lambda: 1.0 + PLAIN["duration_ms"] / 1000)
    [written] = output.write_records(1)
    assert json.loads(written)["time"] in (
        "2026-01-02T03:04:05.677Z",
        "2026-01-02T03:04:05.678Z",
    )


# --- the gateway's own messages ---------------------------------------------------------------


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What the loggers wrote; they are as before afterwards."""
    before = lifecycle.handlers, lifecycle.level, lifecycle.propagate
    yield lambda: capsys.readouterr().err
    lifecycle.handlers, lifecycle.propagate = before[0], before[2]
    lifecycle.setLevel(before[1])


def test_a_fault_is_one_line_of_json_with_its_traceback(written: Callable[[], str]) -> None:
    configure_logs("json")
    try:
        raise ValueError('line\nbreak "quoted" \x1b')
    except ValueError as error:
        faults.error(
            "%s: %s", "/shop", "x", exc_info=error, extra={"request_id": "1", "mount": "/"}
        )
    [line, rest] = written().split("\n")
    assert rest == ""
    entry = json.loads(line)
    assert entry["level"] == "error"
    assert entry["logger"] == "gateway.error"
    assert entry["message"] == "/shop: x"
    assert (entry["request_id"], entry["mount"], entry["pid"]) == ("1", "/", os.getpid())
    assert entry["traceback"].startswith("Traceback (most recent call last):\n")
    assert 'line\nbreak "quoted"' in entry["traceback"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["time"])


def test_an_app_s_fault_is_logged_once_with_the_id_that_its_client_sees(
    written: Callable[[], str], serve: Any
) -> None:
    configure_logs("json")
    gateway = serve(failures.AtCall(ValueError("wombat")))
    answer = gateway.ask(GET)
    [line, rest] = written().split("\n")
    assert rest == ""
    entry = json.loads(line)
    assert entry["request_id"] == answer["x-request-id"]
    assert entry["traceback"].endswith("ValueError: wombat")
    assert "wombat" not in answer.content.decode()


def test_text_is_for_a_person(written: Callable[[], str]) -> None:
    configure_logs("text")
    lifecycle.info("listening on %s", "http://127.0.0.1:8000")
    lifecycle.debug("not shown")
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d INFO    listening on http://127\.0\.0\.1:8000\n", written()
    )


def test_other_loggers_are_left_alone(written: Callable[[], str]) -> None:
    root = logging.getLogger()
    before = list(root.handlers), root.level
    configure_logs("json")
    assert (list(root.handlers), root.level) == before
    logging.getLogger("an.app").warning("its own business")
    assert written() == ""


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize(
    ("access_log", "on_terminal", "elsewhere"),
    [
        ("auto", "text", "json"),
        ("json", "json", "json"),
        ("text", "text", "text"),
        ("off", "json", "json"),
    ],
)
def test_the_style_follows_the_table_and_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
    access_log: str,
    on_terminal: str,
    elsewhere: str,
    is_terminal: bool,
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal, raising=False)
    assert choose_style(access_log) == (on_terminal if is_terminal else elsewhere)


@pytest.mark.parametrize("style", ["json", "text"])
def test_a_traceback_is_written_whatever_an_app_has_made_of_print(
    style: str, written: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure_logs(style)
    monkeypatch.setattr(builtins, "print", lambda text: None)
    try:
        raise ValueError("the cause")
    except ValueError as error:
        faults.error("it failed", exc_info=error)
    told = written()
    assert "it failed" in told
    assert "Traceback (most recent call last):" in told
    assert "ValueError: the cause" in told


@pytest.mark.parametrize("style", ["json", "text"])
def test_an_exceptions_text_ends_no_line_of_the_error_log_and_orders_no_terminal(
    style: str,
) -> None:
    output = io.StringIO()
    handlers, propagate = lifecycle.handlers, lifecycle.propagate
    try:
        configure_logs(style, stream=output)
        faults.error("it said: %s", "a\x85b\u2028c\u2029d\x9be\x1bf\x7fgé")
    finally:
        lifecycle.handlers, lifecycle.propagate = handlers, propagate
    [line] = output.getvalue().splitlines()
    assert not set(line) & set(map(chr, [*range(0x20), *range(0x7F, 0xA0)]))
    assert line.isprintable()
    assert "é" in line


def test_a_few_controls_are_escaped_and_many_hidden_in_a_record() -> None:
    few, many = "Mozilla/5.0 \xc3\x80 (a long name of a browser)", "\x85" * 100
    assert json.loads(render("json", user_agent=few))["user_agent"] == few
    assert json.loads(render("json", user_agent=many))["user_agent"] == "?" * 100
