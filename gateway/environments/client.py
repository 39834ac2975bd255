"""Builds environments from the supervisor's event loop, without blocking it.

A separate process builds, as the pool's user and in its own process group, so that an installer
that takes too long is killed with all that it has started. The supervisor trusts that process no
more than its user, and checks its reports.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import gateway
from gateway.environments.cache import OURS, Environment
from gateway.environments.homes import find_homes, open_home
from gateway.environments.interpreter import RUNTIME
from gateway.errors import BuildError
from gateway.file_tasks import FileTask, naming

Turn = Callable[[int], AbstractAsyncContextManager[object]]

MAX_LINE_BYTES = 2**20
# directories of an environment: its own, and the packages that a worker needs
MAX_HELD = 2
COLLECT_SECONDS = 600.0
# how long to wait for a process to exit after its report
END_SECONDS = 5.0
NO_OUTCOME = "the process that builds environments exited without a result"
_UNPRINTABLE = re.compile(r"[^\t\n\x20-\x7e\xa0-\U0010ffff]")
_START = (
    "import sys; sys.path += sys.argv[1:]; from gateway.environments.__main__ import main; main()"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldEnvironment(Environment):
    """An environment that is not removed while it is held; ``held`` are descriptors with its
    locks."""

    held: tuple[int, ...] = field(compare=False)

    def let_go(self) -> None:
        """Allow its removal. Call it once."""
        for descriptor in self.held:
            os.close(descriptor)


async def find_or_build(
    *,
    root: Path,
    python: str,
    requirements: str,
    directory: Path,
    for_workers: bool = True,
    surroundings: Mapping[str, Any],
    turn: Turn,
    on_progress: Callable[[str], object],
    timeout_seconds: float,
) -> HeldEnvironment:
    """The environment of ``python`` (a path, a version, "" for the gateway's own) with the packages
    of a ``requirements`` file ("" for none); both paths are relative to ``directory``. It is kept
    below ``root``. ``for_workers`` adds the packages that a worker needs.

    ``surroundings`` are arguments of ``subprocess.Popen``: user and environment variables.
    ``turn``, called with the pid of the building process, is entered before the build, which then
    has ``timeout_seconds``, and left after it. ``on_progress`` gets lines for the log. Raises
    BuildError, and UnreachableError if the file system of ``root`` does not respond.
    """
    who = surroundings.get("user", -1), surroundings.get("group", -1)
    home = await FileTask(naming(str(root), partial(open_home, root, *who))).finish()
    order = {
        "root": str(home),
        "python": python,
        "requirements": requirements,
        "directory": str(directory),
        "for_workers": for_workers,
        "collects": False,
    }
    try:
        return await _build(order, surroundings, turn, on_progress, timeout_seconds)
    except TimeoutError:
        raise BuildError(
            f"{requirements or python}: was not built within {timeout_seconds:g} s "
            "(server.build_timeout)"
        ) from None


async def _build(
    order: dict[str, Any],
    surroundings: Mapping[str, Any],
    turn: Turn,
    on_progress: Callable[[str], object],
    timeout_seconds: float,
) -> HeldEnvironment:
    """See ``find_or_build``. Also raises TimeoutError."""
    ours, theirs = socket.socketpair()
    async with asyncio.timeout(timeout_seconds) as limit, AsyncExitStack() as stack:

        async def take_turn(pid: int) -> None:
            limit.reschedule(None)
            await stack.enter_async_context(turn(pid))
            limit.reschedule(asyncio.get_running_loop().time() + timeout_seconds)

        with ours, theirs:
            found = await _run_builder(
                {**order, "handover": theirs.fileno()},
                {**surroundings, "pass_fds": (theirs.fileno(),)},
                on_progress,
                take_turn,
            )
            return _read_environment(found.get("environment"), _take(ours))


async def collect(root: Path, surroundings: Mapping[str, Any]) -> list[str]:
    """Remove unused environments, those of other users as these users; returns their names. Raises
    UnreachableError."""
    removed = []
    homes = await FileTask(naming(str(root), partial(find_homes, root))).finish()
    for home, user, group in homes:
        who = {"user": user, "group": group, "extra_groups": []} if user >= 0 else {}
        order = {"root": str(home), "collects": True}
        with contextlib.suppress(BuildError, TimeoutError):
            async with asyncio.timeout(COLLECT_SECONDS):
                report = await _run_builder(order, {**surroundings, **who}, id)
            names = report.get("removed")
            names = names if isinstance(names, list) else []
            removed += [name for name in names if isinstance(name, str) and OURS.fullmatch(name)]
    return removed


async def _no_turn(_: int) -> None:
    """The turn of a process that builds nothing."""


async def _run_builder(
    order: dict[str, Any],
    surroundings: Mapping[str, Any],
    on_progress: Callable[[str], object],
    take_turn: Callable[[int], Awaitable[None]] = _no_turn,
) -> dict[str, Any]:
    """Start a process for ``order``; returns its last report. Raises BuildError."""
    try:
        process = subprocess.Popen(
            # its imports must not depend on variables or the working directory
            [sys.executable, "-I", "-S", "-c", _START, *_find_places()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
            **surroundings,
        )
    except OSError as error:
        raise BuildError(f"environments cannot be built: {error}") from error
    try:
        return await _talk(process, order, on_progress, take_turn)
    except BuildError:
        raise  # it exits by itself, or has exited
    except BaseException:
        _kill(process)
        raise
    finally:
        with contextlib.suppress(OSError):
            process.stdin.close()  # type: ignore[union-attr]
        await asyncio.to_thread(_wait, process)


def _find_places() -> list[str]:
    """The ``sys.path`` entries for the gateway and the packages that a worker needs."""
    places = {str(Path(gateway.__file__).parents[1]): None}
    return list(places | {str(distribution(name).locate_file("")): None for name in RUNTIME})


async def _talk(
    process: subprocess.Popen[bytes],
    order: dict[str, Any],
    on_progress: Callable[[str], object],
    take_turn: Callable[[int], Awaitable[None]],
) -> dict[str, Any]:
    _write_line(process, json.dumps(order))
    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), process.stdout
    )
    last_words, has_turn = "", False
    try:
        while line := await reader.readline():
            message = _read_message(line)
            if message is None:
                last_words = _printable(line.decode(errors="replace").strip())
            elif "error" in message:
                raise BuildError(_printable(str(message["error"])))
            elif "progress" in message:
                on_progress(_printable(str(message["progress"])))
            elif "waits" in message:
                if not has_turn:  # only once, whatever it sends
                    await take_turn(process.pid)
                has_turn = True
                _write_line(process, "go")
            else:
                return message
    except ValueError as error:
        raise BuildError("the process that builds environments reports too much") from error
    finally:
        transport.close()
    raise BuildError(f"{NO_OUTCOME}: {last_words}" if last_words else NO_OUTCOME)


def _write_line(process: subprocess.Popen[bytes], line: str) -> None:
    """A closed pipe is ignored: the process has reported an error, or exits without a result."""
    assert process.stdin is not None  # noqa: S101  for the type checker
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(line.encode() + b"\n")
        process.stdin.flush()


def _read_message(line: bytes) -> dict[str, Any] | None:
    """The report in ``line``; None for other output, such as a traceback."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _read_environment(found: object, held: tuple[int, ...]) -> HeldEnvironment:
    """Raises BuildError if ``found`` is not an environment."""
    if isinstance(found, dict):
        texts = [found.get(name) for name in ("python", "version", "runtime")]
        uses = found.get("uses")
        uses = uses if isinstance(uses, list) else [None]
        if all(isinstance(text, str) and "\0" not in text for text in (*texts, *uses)):
            python, version, runtime = map(str, texts)
            return HeldEnvironment(
                python=python, version=version, runtime=runtime, uses=tuple(uses), held=held
            )
    for descriptor in held:
        os.close(descriptor)
    raise BuildError(NO_OUTCOME)


def _take(handover: socket.socket) -> tuple[int, ...]:
    """The received descriptors, at most MAX_HELD."""
    handover.setblocking(False)  # recv_fds ignores its flags
    try:
        _, descriptors, _, _ = socket.recv_fds(handover, 1, MAX_HELD)
    except BlockingIOError:
        return ()
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return tuple(descriptors)


def _printable(text: str) -> str:
    return _UNPRINTABLE.sub("?", text)


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Wait for its exit; the exit code is not used."""
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        _kill(process)
        process.wait()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
