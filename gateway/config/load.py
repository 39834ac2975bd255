"""A table's file to a Config: the I/O before the parser.

Does not know what a table contains. Source: YAML 1.2 §5.2 (UTF-8 in files).
"""

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from gateway.config.model import Config
from gateway.config.parse import parse_config
from gateway.config.text.problems import refuse_whole
from gateway.errors import ConfigError
from gateway.file_tasks import FileTask, UnreachableError, touching

T = TypeVar("T")

MAX_BYTES = 16 * 1024 * 1024  # 10,000 full mounts are 1 MiB
MAX_READS = (
    16  # at a time: one that waits for a file that never answers keeps a thread and its memory
)

_reads: list[FileTask[Any]] = []


def read_in_time(read: Callable[[], T], most_seconds: float | None = None) -> T:
    """What ``read`` returns, run in its own thread. Raises ConfigError, also if a file that it
    needs does not answer within ``most_seconds``; None is the usual time."""
    task = _begin(read)
    try:
        return task.wait(most_seconds)
    except UnreachableError as error:
        raise ConfigError([str(error)]) from error


def read_table(path: Path, most_seconds: float | None = None) -> Config:
    """``read_config`` for a command: with this process's environment, and a time limit."""
    return read_in_time(lambda: read_config(path, os.environ), most_seconds)


async def read_aside(read: Callable[[], T]) -> T:
    """``read_in_time``, for event loops."""
    task = _begin(read)
    try:
        return await task.finish()
    except UnreachableError as error:
        raise ConfigError([str(error)]) from error


def _begin(read: Callable[[], T]) -> FileTask[T]:
    _reads[:] = [each for each in _reads if not each.is_done]
    if len(_reads) >= MAX_READS:
        raise ConfigError(
            [f"{len(_reads)} readings of the table still wait for files that do not answer"]
        )
    task = FileTask(read)
    _reads.append(task)
    return task


def read_config(path: str | Path, environ: Mapping[str, str]) -> Config:
    """The table in the file ``path``; messages name it as given. Raises ConfigError."""
    source = str(path)
    try:
        with touching(lambda: source):
            content = _read(path, source)
    except (OSError, ValueError) as exc:
        refuse_whole(source, _why_unreadable(exc), exc)
    if len(content) > MAX_BYTES:
        refuse_whole(source, "larger than 16 MiB: this is not a table")
    # Not resolve(): that would follow a link away from the directory where the table is.
    directory = Path(os.path.abspath(path)).parent  # noqa: PTH100
    return parse_config(_decoded(content, source), source, directory, environ)


def _read(path: str | Path, source: str) -> bytes:
    if stat.S_ISFIFO(os.stat(path).st_mode):  # noqa: PTH116  a path may hold NUL here
        refuse_whole(source, "a pipe: name a file with -c FILE")  # reading it could wait forever
    with open(path, "rb") as file:
        return file.read(MAX_BYTES + 1)


def _why_unreadable(exc: Exception) -> str:
    if isinstance(exc, FileNotFoundError):
        return "no such file: name the table with -c FILE"
    if isinstance(exc, IsADirectoryError):
        return "a directory: name the table in it with -c FILE"
    if isinstance(exc, PermissionError):
        # by name only: in a container, the path differs
        folder = Path(os.path.abspath(str(exc.filename))).parent.name  # noqa: PTH100
        return f'user {os.geteuid()} may not read it: try "chmod -R a+rX {folder}"'
    reason = getattr(exc, "strerror", None) or "not a path"
    return f"cannot be read: {reason.lower()}"


def _decoded(content: bytes, source: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as exc:
        before = content[: exc.start]
        line = before.count(b"\n") + 1
        column = len(before.rpartition(b"\n")[2].decode()) + 1
        bad = content[exc.start]
        refuse_whole(
            f"{source}:{line}:{column}", f"not UTF-8 (byte 0x{bad:02X}): save it as UTF-8", exc
        )
