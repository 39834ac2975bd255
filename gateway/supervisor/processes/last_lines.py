"""The last lines that a process has written to a pipe, kept as the reason of its exit."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import IO, Any

from gateway.supervisor.tasks import guarded

READ_BYTES = 65536
MAX_LINES, MAX_LINE_BYTES = 10, 500


class LastLines:
    """The last lines of ``pipe``. ``pass_on`` gets all that is written, in whole lines."""

    def __init__(
        self,
        pipe: IO[bytes] | None,
        pass_on: Callable[[bytes], object],
        most_lines: int = MAX_LINES,
    ) -> None:
        self._pipe = pipe
        self._pass_on = pass_on
        self._lines: deque[str] = deque(maxlen=most_lines)

    @property
    def text(self) -> str:
        """The lines, each with a line end before it."""
        return "".join(f"\n{line}" for line in self._lines)

    async def read(self) -> None:
        """Read until no process has the other end open."""
        reader = asyncio.StreamReader()
        transport: Any
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self._pipe
        )
        rest = b""
        try:
            while data := await reader.read(READ_BYTES):
                lines, _, rest = (rest + data).rpartition(b"\n")
                if len(rest) > READ_BYTES:
                    lines, rest = lines + b"\n" + rest if lines else rest, b""
                if lines:
                    self._take(lines)
        finally:
            if rest:
                self._take(rest)
            transport.close()

    def _take(self, lines: bytes) -> None:
        for line in lines.splitlines()[-(self._lines.maxlen or 0) :]:
            self._lines.append(line[:MAX_LINE_BYTES].decode(errors="replace"))
        # a fault must not end the reading: the process would wait for room in the pipe forever
        with guarded("the lines that a process has written"):
            self._pass_on(lines)
