"""Has environments built, from an event loop that must not wait.

Refuses to know how: a process of its own does it, in a process group, so that an installer that
takes too long is ended with all that it has started.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.environments.cache import Cache, Environment
from gateway.errors import BuildError

MAX_LINE_BYTES = 2**20


async def find_or_build(
    *,
    root: Path,
    python: str,
    requirements: str,
    directory: Path,
    for_workers: bool = True,
    on_progress: Callable[[str], object],
    timeout_seconds: float,
) -> Environment:
    """The environment of a Python (a path, a version, "" for the gateway's own) with what a file
    asks for ("" for nothing), both relative to ``directory``; kept below ``root``. ``for_workers``
    adds what a worker needs.

    ``on_progress`` gets each line that there is to tell. Raises BuildError.
    """
    order = {
        "root": str(root),
        "python": python,
        "requirements": requirements,
        "directory": str(directory),
        "for_workers": for_workers,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway.environments"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout_seconds):
            return await _talk(process, order, on_progress)
    except TimeoutError:
        raise BuildError(
            f"{requirements or python}: was not built within {timeout_seconds:g} s "
            "(server.build_timeout)"
        ) from None
    finally:
        # whoever reaps all children may have been first: its exit code tells nothing
        await asyncio.to_thread(process.wait)


async def _talk(
    process: subprocess.Popen[bytes], order: dict[str, Any], on_progress: Callable[[str], object]
) -> Environment:
    assert process.stdin is not None  # noqa: S101  for the type checker
    with process.stdin:
        process.stdin.write(json.dumps(order).encode())
    fault = "the process that builds environments ended without an outcome"
    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), process.stdout
    )
    try:
        while line := await reader.readline():
            message = json.loads(line)
            if "error" in message:
                fault = message["error"]
                break
            if "environment" in message:
                found = message["environment"]
                return Environment(**{**found, "uses": tuple(found["uses"])})
            on_progress(message["progress"])
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # it has not ended: nothing was read of that
        raise
    finally:
        transport.close()
    raise BuildError(fault)


async def collect(root: Path, keep: frozenset[str]) -> list[str]:
    """Remove the environments that ``keep`` (their ``uses``) does not name; which."""
    return await asyncio.to_thread(lambda: Cache(root).collect(keep))
