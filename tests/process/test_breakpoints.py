"""``breakpoint()`` in dev mode: who stops there has the terminal, and nothing ends the wait."""

import fcntl
import os
import pty
import signal
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from running import WAIT_SECONDS, Running, wait_until

LOOKS = """
def app(environ, start_response):
    number = 40
    STOP
    start_response("200 OK", [])
    return [str(number).encode()]
"""
BREAKPOINT = LOOKS.replace("STOP", "breakpoint()")
SET_TRACE = LOOKS.replace("STOP", "import pdb; pdb.set_trace()")
# what would end a request or its worker long before a test is done
IMPATIENT = "  block_warn: 200ms\n  block_timeout: 300ms\n"
POOLS = {
    "shared worker": "{app: looks:app, timeout: 200ms}\n",
    "greenlet pool": "{app: looks:app, timeout: 200ms, pool: own}\n",
    "threads": (
        "{app: looks:app, timeout: 200ms, pool: slow}\npools:\n  slow: {concurrency: threads}\n"
    ),
}


class Terminal:
    """A terminal of a gateway's own: what it shows is ``text``, and ``type`` types a line."""

    def __init__(self) -> None:
        self._master, self._slave = pty.openpty()
        self._shown = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # the last who had it open has gone
            while data := os.read(self._master, 4096):
                self._shown += data

    def take(self) -> None:
        """In the gateway's process, before it begins."""
        os.setsid()
        fcntl.ioctl(self._slave, termios.TIOCSCTTY, 0)
        for number in (0, 1, 2):
            os.dup2(self._slave, number)

    @property
    def text(self) -> str:
        return self._shown.decode(errors="replace")

    @property
    def has_echo(self) -> bool:
        return bool(termios.tcgetattr(self._slave)[3] & termios.ECHO)

    def wait_for(self, text: str, count: int = 1) -> None:
        wait_until(lambda: self.text.count(text) >= count, f"the terminal shows {text!r}")

    def type(self, line: str) -> None:
        os.write(self._master, f"{line}\n".encode())

    def press(self, key: bytes) -> None:
        os.write(self._master, key)

    def close(self) -> None:
        os.close(self._slave)
        self._reader.join(WAIT_SECONDS)
        os.close(self._master)


class Request(threading.Thread):
    """A GET that goes on while the test does; its ``answer``."""

    def __init__(self, gateway: Running, target: str) -> None:
        super().__init__()
        self._gateway, self._target = gateway, target
        self.answer = b""
        self.start()

    def run(self) -> None:
        with suppress(OSError):
            self.answer = self._gateway.ask(self._target)


Start = Callable[..., Running]


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


@pytest.fixture
def start(request: pytest.FixtureRequest, tmp_path: Path, terminal: Terminal) -> Iterator[Start]:
    started: list[Running] = []

    def start(code: str, mount: str, before: "Callable[[], None] | None" = None) -> Running:
        options: dict[str, Any] = {"option": "--dev", "server": IMPATIENT, "looks": code}
        mounts = f"  /: good:app\n  /looks: {mount}"
        started.append(Running(tmp_path, mounts, before=before or terminal.take, **options))
        request.addfinalizer(started[-1].end)
        return started[-1]

    yield start
    for running in started:
        running.end()


@pytest.mark.parametrize("code", [BREAKPOINT, SET_TRACE], ids=["breakpoint", "set_trace"])
@pytest.mark.parametrize("kind", POOLS)
def test_a_debugger_in_an_app_has_the_terminal_for_as_long_as_it_takes(
    start: Start, terminal: Terminal, kind: str, code: str
) -> None:
    gateway = start(code, POOLS[kind])
    request = Request(gateway, "/looks")
    terminal.wait_for("(Pdb) ")
    if kind != "threads":  # there nothing waits for it but its own request
        terminal.wait_for(f"has stopped in a debugger at {gateway.folder}/looks.py:")
    # longer than each deadline of the table, by the gateway's own clock
    silences = [worker["age"] for worker in workers(gateway)]
    wait_until(
        lambda: [worker["age"] for worker in workers(gateway)] > [age + 1 for age in silences],
        "a second passes",
    )
    terminal.type("p number + 2")
    terminal.wait_for("42")
    terminal.type("number = 7")
    terminal.wait_for("(Pdb) ", 3)
    terminal.type("c")
    request.join(WAIT_SECONDS)
    assert request.answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert request.answer.endswith(b"\r\n\r\n7")
    assert "is killed" not in terminal.text
    # after it, too, Ctrl-C is the gateway's
    terminal.press(b"\x03")
    assert gateway.process.wait(WAIT_SECONDS) == 0
    assert "Program interrupted" not in terminal.text


def workers(gateway: Running) -> list[dict[str, Any]]:
    return [w for g in gateway.control("status")["generations"] for w in g["workers"]]


def test_an_edit_ends_a_worker_that_waits_in_a_debugger_and_leaves_the_terminal_its_echo(
    start: Start, terminal: Terminal
) -> None:
    gateway = start(BREAKPOINT, POOLS["shared worker"])
    assert terminal.has_echo
    Request(gateway, "/looks")
    terminal.wait_for("(Pdb) ")
    [stopped] = gateway.children()
    gateway.write("looks.py", LOOKS.replace("STOP", "number = 9"))
    wait_until(lambda: stopped not in gateway.children(), "the old worker has gone")
    assert gateway.ask("/looks").endswith(b"\r\n\r\n9")
    wait_until(lambda: terminal.has_echo, "what is typed shows")


def test_python_breakpoint_has_its_say(start: Start) -> None:
    mount = '{app: looks:app, env: {PYTHONBREAKPOINT: "0"}}\n'
    gateway = start(BREAKPOINT, mount)
    assert gateway.ask("/looks").endswith(b"\r\n\r\n40")


@pytest.mark.parametrize("kind", POOLS)
def test_without_a_terminal_a_breakpoint_is_passed_over_and_the_log_says_where(
    start: Start, kind: str
) -> None:
    gateway = start(BREAKPOINT, POOLS[kind], before=os.setsid)
    assert gateway.ask("/looks").endswith(b"\r\n\r\n40")
    told = f"breakpoint() at {gateway.folder}/looks.py:4 is skipped: there is no terminal"
    wait_until(lambda: told in gateway.log_text, "the log says so")


def test_without_dev_mode_a_breakpoint_waits_for_nobody(tmp_path: Path) -> None:
    gateway = Running(tmp_path, "  /looks: looks:app\n", looks=BREAKPOINT)
    try:
        assert gateway.ask("/looks").startswith(b"HTTP/1.1 500 ")
    finally:
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.end() == 0
