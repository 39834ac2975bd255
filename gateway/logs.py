"""What is written down: lifecycle and faults on stderr, one access record a request on stdout.

Owns logger names and formats; knows nothing of the rest. ``gateway`` is lifecycle,
``gateway.build`` what building environments tells meanwhile, ``gateway.error`` faults with the
request id that the client was shown.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from json.encoder import encode_basestring as quote
from typing import Any, NamedTuple

lifecycle = logging.getLogger("gateway")
builds = logging.getLogger("gateway.build")
faults = logging.getLogger("gateway.error")

# a write to a pipe is whole up to PIPE_BUF (4096 on Linux): workers share stdout
WHOLE_WRITE_BYTES = 4096
# longest text a client can put into a record, so that a record stays below WHOLE_WRITE_BYTES
_MAX_TARGET = 800
_MAX_TEXT = 200
_MAX_ERROR = 150
# bounds of what is remembered: clients choose their targets and what they call themselves
_MAX_REMEMBERED = 1024
_LONGEST_REMEMBERED = 400
# clock, request id, client, what was asked, status, bytes in and out, milliseconds, error
Record = tuple[str, str, str, str, int, int, int, float, str]


def configure_logs(style: str, generation: str = "") -> None:
    """Send the gateway's loggers to stderr, as ``json`` or ``text``; leave others alone.

    ``generation`` is that of a worker, and told by each JSON entry.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter(generation) if style == "json" else _TextFormatter())
    lifecycle.handlers = [handler]
    lifecycle.setLevel(logging.INFO)
    lifecycle.propagate = False


def choose_style(access_log: str) -> str:
    """``json`` or ``text`` for the table's ``access_log``; auto is text on a terminal."""
    if access_log == "auto":
        return "text" if sys.stdout.isatty() else "json"
    return "text" if access_log == "text" else "json"


@contextmanager
def passing_on(logger: logging.Logger, tell: Callable[[str], object]) -> Iterator[None]:
    """Have ``tell`` get what ``logger`` is told meanwhile, too."""
    handler = _Teller()
    handler.tell = tell
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Teller(logging.Handler):
    tell: Callable[[str], object]

    def emit(self, record: logging.LogRecord) -> None:
        self.tell(record.getMessage())


class _JsonFormatter(logging.Formatter):
    def __init__(self, generation: str) -> None:
        super().__init__()
        self._generation = generation

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": _iso(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        if self._generation:
            entry["generation"] = self._generation
        for name in ("mount", "request_id"):
            if hasattr(record, name):
                entry[name] = getattr(record, name)
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


class _TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")


def _iso(seconds: float) -> str:
    whole = int(seconds)
    clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{clock}.{int((seconds - whole) * 1000):03d}Z"


class Asked(NamedTuple):
    """What a record tells of a request that comes again: the same each time. ``mount`` is "" for
    none."""

    mount: str
    method: str
    target: str
    protocol: str
    host: str
    referer: str
    user_agent: str


class AccessLog:
    """Access records, kept until the end of a turn of the event loop and then written together.

    ``style`` is json, text or off; ``schedule(flush)`` arranges for that end. A record holds: time,
    request_id, client, what was ``Asked``, status, bytes_in, bytes_out (head and content, both),
    duration in milliseconds, and error where there was a fault.

    ``describe`` renders what was asked; a text that may be kept, for ``record``.
    """

    def __init__(self, style: str, file_descriptor: int, schedule: Callable[..., object]) -> None:
        self.is_on = style != "off"
        self.describe: Callable[[Asked], str]
        self._format: Callable[[Record], str]
        self.describe, self._quote_error, self._format = TEXT if style == "text" else JSON
        self._descriptor = file_descriptor
        self._schedule = schedule
        self._records: list[Record] = []
        self._second = 0
        self._date = self._clock = ""
        self._next = 0.0

    def record(
        self, request_id: str, client: str, described: str, status: int, bytes_in: int,
        bytes_out: int, started: float, ended: float, error: str,
    ) -> None:  # fmt: skip
        """Keep one request for the end of the turn. ``started`` and ``ended`` are monotonic, and
        this is the moment of ``ended``."""
        if not self._records:
            self._schedule(self.flush)
        if ended >= self._next:
            self._tell(ended)
        self._records.append((
            self._clock, request_id, client, described, status, bytes_in, bytes_out,
            (ended - started) * 1000, self._quote_error(error) if error else "",
        ))  # fmt: skip

    def flush(self) -> None:
        """Write all that is kept, in writes of whole records."""
        records, self._records = self._records, []
        data = "".join(map(self._format, records)).encode("utf-8", "replace")
        start = 0
        while len(data) - start > WHOLE_WRITE_BYTES:
            # each record ends with its only line break
            end = data.rfind(b"\n", start, start + WHOLE_WRITE_BYTES) + 1
            end = end or start + WHOLE_WRITE_BYTES
            self._write(data[start:end])
            start = end
        self._write(data[start:])

    def _tell(self, moment: float) -> None:
        """ISO 8601 in UTC, to the millisecond; told anew only when that has passed."""
        now = time.time()
        second = int(now)
        millisecond = int((now - second) * 1000)
        if second != self._second:
            self._second = second
            self._date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        self._clock = f"{self._date}.{millisecond:03d}Z"
        self._next = moment + second + (millisecond + 1) / 1000 - now

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                os.set_blocking(self._descriptor, True)  # a record is not lost for a full pipe
            except OSError:
                return  # nobody reads the log any more; serving goes on


class _Remembered(dict[Any, str]):
    """What was quoted before, begun anew when there is too much; long texts are not kept."""

    def __init__(self, render: Callable[..., str]) -> None:
        super().__init__()
        self._render = render

    def __missing__(self, key: Any) -> str:
        text = self._render(*key) if isinstance(key, tuple) else self._render(key)
        if sum(map(len, key)) <= _LONGEST_REMEMBERED:
            if len(self) >= _MAX_REMEMBERED:
                self.clear()
            self[key] = text
        return text


def _quote_question(method: str, target: str, protocol: str) -> str:
    return (
        f'"method":{quote(method[:32])},"target":{quote(target[:_MAX_TARGET])},'
        f'"protocol":"{protocol}"'
    )


def _quote_client(host: str, referer: str, user_agent: str) -> str:
    return (
        f'"host":{quote(host[:_MAX_TEXT])},"referer":{quote(referer[:_MAX_TEXT])},'
        f'"user_agent":{quote(user_agent[:_MAX_TEXT])}'
    )


_mounts = _Remembered(quote)
_questions = _Remembered(_quote_question)
_clients = _Remembered(_quote_client)


def _describe_json(asked: Asked) -> str:
    """What a client may have sent is quoted and cut."""
    return f'"mount":{_mounts[asked.mount]},{_questions[asked[1:4]]},{_clients[asked[4:]]}'


def _quote_error_json(error: str) -> str:
    return f',"error":{quote(printable(error[:_MAX_ERROR]))}'


# a line, of a record: by C alone
_format_json = (
    '{"time":"%s","request_id":"%s","client":"%s",%s,"status":%d,"bytes_in":%d,"bytes_out":%d,'
    '"duration_ms":%.3f%s}\n'
).__mod__


def _describe_text(asked: Asked) -> str:
    return f"{asked.method[:32]} {asked.target[:_MAX_TARGET]}  <- {asked.mount or '-'}"


def _quote_error_text(error: str) -> str:
    return f"  [{error[:_MAX_ERROR]}]"


def _format_text(record: Record) -> str:
    """For a person: when, status, how long, how much, what, and who."""
    clock, _, client, described, status, _, bytes_out, duration_ms, error = record
    line = (
        f"{clock[11:19]} {status} {duration_ms:8.1f} ms {bytes_out:>9} B  {described}  "
        f"{client}{error}"
    )
    return printable(line) + "\n"


# how what was asked, an error, and a record of both are written
JSON = _describe_json, _quote_error_json, _format_json
TEXT = _describe_text, _quote_error_text, _format_text


def printable(text: str) -> str:
    """``text`` without what a terminal would obey, such as control characters."""
    return "".join(c if c.isprintable() else "?" for c in text)
