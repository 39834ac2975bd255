"""The control socket: whatever is asked is answered, and whoever asks, the next one is, too."""

import asyncio
import json
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from running import Running, wait_until

from gateway.supervisor.listeners.control import LONGEST_QUESTION_BYTES, serve_control

Start = Callable[..., Running]
NOT_A_COMMAND = {
    "no JSON": b"status\n",
    "no text": b"\xff\xfe\n",
    "deeply nested": b"[" * 60_000 + b"\n",
    "a list": b"[1]\n",
    "a number": b"1\n",
    "no name": b"{}\n",
    "a name that is a list": b'{"command": ["status"]}\n',
    "unheard of": b'{"command": "dance"}\n',
    "too long": b"x" * (LONGEST_QUESTION_BYTES + 1) + b"\n",
    "far too long": b"x" * 2**20 + b"\n",
}


def send(gateway: Running, question: bytes) -> list[dict[str, Any]]:
    """The lines that come before the connection is closed."""
    with gateway.connect("control.sock") as client:
        client.sendall(question)
        with client.makefile("rb") as answer:
            return [json.loads(line) for line in answer]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Any:
    running = Running(tmp_path_factory.mktemp("control"))
    yield running
    running.end()


@pytest.mark.parametrize("question", NOT_A_COMMAND.values(), ids=NOT_A_COMMAND)
def test_what_is_not_a_command_is_answered_and_recorded(gateway: Running, question: bytes) -> None:
    before = gateway.log_text.count("the control socket: not a command")
    [answer] = send(gateway, question)
    assert answer["exit_code"] == 1
    assert "expected" in answer["messages"][0]
    assert gateway.log_text.count("the control socket: not a command") == before + 1
    assert gateway.control("status")["status"] == "ready"


@pytest.mark.parametrize("what", ["raises", "answers what is no JSON"])
def test_a_command_that_fails_is_answered_and_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """No command of the gateway does so as far as is known: these are made up."""

    async def fail(_: Any, tell: Callable[[str], object]) -> dict[str, Any]:
        tell("at work")
        if what == "raises":
            raise LookupError("in it")
        return {"exit_code": {1, 2}}

    async def succeed(_: Any, __: Any) -> dict[str, Any]:
        return {"exit_code": 0}

    async def run() -> list[list[dict[str, Any]]]:
        path = tmp_path / "control.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            server = await serve_control(listener, {"fail": fail, "succeed": succeed})
            lines = []
            for command in ("fail", "succeed"):
                reader, writer = await asyncio.open_unix_connection(str(path))
                writer.write(json.dumps({"command": command}).encode() + b"\n")
                lines.append([json.loads(line) async for line in reader])
                writer.close()
            server.close()
        return lines

    [progress, failed], [succeeded] = asyncio.run(run())
    assert progress == {"progress": "at work"}
    assert failed["exit_code"] == 1
    assert "a fault of the gateway's own, see its log" in failed["messages"][0]
    assert succeeded == {"exit_code": 0}
    assert "the control socket cannot answer b'{" in caplog.text
    assert "Traceback" in caplog.text


def count_sockets(gateway: Running) -> int:
    status = gateway.control("status")
    assert status["status"] == "ready"
    count = 0
    for link in Path(f"/proc/{gateway.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # which has gone meanwhile
            count += str(link.readlink()).startswith("socket:")
    return count


@pytest.mark.parametrize(
    "question", [b"", b'{"command": "sta', b'{"command": "status"}\n', b'{"command": "plan"}\n']
)
def test_who_goes_away_costs_nothing(gateway: Running, question: bytes) -> None:
    before = count_sockets(gateway)
    for _ in range(5):
        with gateway.connect("control.sock") as client:
            client.sendall(question)
            client.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: count_sockets(gateway) <= before, "nothing is left of them")
    assert "Traceback" not in gateway.log_text
