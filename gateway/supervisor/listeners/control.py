"""The control socket, both sides: a line of JSON with a command, one with the answer, and the
connection ends. Before the answer there may be lines with ``{"progress": ...}``.

Only the gateway's own user can connect, by the mode of the file.
"""

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from gateway.errors import GatewayError
from gateway.logs import lifecycle
from gateway.peers import find_peer_user
from gateway.uncaught import report_own, summarize

Question = dict[str, Any]
Answer = dict[str, Any]
Notify = Callable[[str], object]
Command = Callable[[Question, Notify], Awaitable[Answer]]

LONGEST_QUESTION_BYTES = 64 * 1024
QUESTION_SECONDS = 5
# for the client to read the answer
ANSWER_SECONDS = 60
# of a command that is not valid, in the log
SHOWN_BYTES = 100


async def serve_control(
    listener: socket.socket, commands: Mapping[str, Command]
) -> asyncio.AbstractServer:
    """Answer on an open, listening Unix socket from now on."""

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await _read_question(reader)
            answer = await _answer(line, commands, partial(_send_progress, writer))
            async with asyncio.timeout(ANSWER_SECONDS):
                writer.write(answer)
                await writer.drain()
        except (OSError, EOFError):
            pass  # the client has left, sent nothing, or does not read
        except asyncio.CancelledError:
            pass  # the gateway ends, which is the answer to `stop`
        finally:
            writer.close()

    return await asyncio.start_unix_server(
        on_connection, sock=listener, limit=LONGEST_QUESTION_BYTES
    )


def _send_progress(writer: asyncio.StreamWriter, progress: str) -> None:
    if not writer.is_closing():
        writer.write(json.dumps({"progress": progress}).encode() + b"\n")


async def _read_question(reader: asyncio.StreamReader) -> bytes:
    """The line with the command; "" if it is too long. Raises OSError and EOFError."""
    async with asyncio.timeout(QUESTION_SECONDS):
        try:
            return await reader.readuntil(b"\n")
        except asyncio.LimitOverrunError:
            # closing with unread input would reset the connection, and lose the answer
            while (more := await reader.read(LONGEST_QUESTION_BYTES)) and b"\n" not in more:
                pass
            return b""


async def _answer(line: bytes, commands: Mapping[str, Command], notify: Notify) -> bytes:
    """The line with the answer, also if the command fails."""
    try:
        return _to_line(await _obey(line, commands, notify))
    except Exception as error:  # noqa: BLE001  whatever it is
        report_own(f"the control socket cannot answer {line[:SHOWN_BYTES]!r}", error)
        messages = [f"a fault of the gateway's own, see its log: {summarize(error)}"]
        return _to_line({"exit_code": 1, "messages": messages})


async def _obey(line: bytes, commands: Mapping[str, Command], notify: Notify) -> Answer:
    try:
        asked = json.loads(line)
        command = commands[asked["command"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        known = ", ".join(commands)
        lifecycle.warning("the control socket: not a command: %r", line[:SHOWN_BYTES])
        return {"exit_code": 1, "messages": [f'expected {{"command": ...}}, one of: {known}']}
    return await command(asked, notify)


def _to_line(answer: Answer) -> bytes:
    return json.dumps(answer).encode() + b"\n"


def send_command(
    path: Path,
    command: str,
    on_progress: Notify = str,
    *,
    patience_seconds: float | None = None,
    **more: str | list[str],
) -> Answer:
    """The answer of the gateway whose control socket is at ``path``, once it has obeyed; empty if
    it ends instead. Raises GatewayError if there is none, if it is silent for longer than
    ``patience_seconds``, or if the socket is another user's.

    ``on_progress`` is called with each line of progress.
    """
    answer: Answer = {}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(patience_seconds)
        try:
            connection.connect(str(path))
            _check_peer(connection, path)
            connection.sendall(json.dumps({"command": command, **more}).encode() + b"\n")
            with connection.makefile("rb") as answers:
                for line in answers:
                    answer = json.loads(line)
                    if "progress" in answer:
                        on_progress(answer.pop("progress"))
        except OSError as error:
            reason = error.strerror or str(error)
            hint = "is it running, from this table (-c FILE) and as this user?"
            raise GatewayError(f"no gateway answers at {path}: {reason}: {hint}") from error
    return answer


def _check_peer(connection: socket.socket, path: Path) -> None:
    """Raises GatewayError unless the other side is the caller, root, or the owner of the directory,
    who decides what is in it."""
    user = find_peer_user(connection)
    if user not in (os.geteuid(), 0, path.parent.stat().st_uid):
        raise GatewayError(
            f"what answers at {path} belongs to another user ({user}): it may not be the gateway; "
            "if it is, run the command as that user"
        )
