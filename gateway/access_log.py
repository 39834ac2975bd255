"""Access records: one line for each request, on stdout, written once a turn of the event loop.

Owns their two formats; knows nothing of requests but what it is told. A record is made of texts
that were rendered before, as far as there are such, since it is on the way of every request.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from json.encoder import encode_basestring as quote
from typing import Any, NamedTuple

from gateway.logs import printable

# a write to a pipe is whole up to PIPE_BUF (4096 on Linux): workers share stdout
WHOLE_WRITE_BYTES = 4096
# longest text a client can put into a record, so that a record stays below WHOLE_WRITE_BYTES
_MAX_TARGET = 800
_MAX_TEXT = 200
_MAX_ERROR = 150
# bounds of what is remembered: clients choose their targets and what they call themselves
_MAX_REMEMBERED = 1024
_LONGEST_REMEMBERED = 400
# durations below this, in microseconds, are remembered
_SHORT_DURATION = 4096


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

    This one is off; ``open_access_log`` chooses. ``schedule(flush)`` arranges for that end.
    ``describe`` renders what was asked: a text that may be kept, for ``record``. A record holds:
    time, request_id, what was ``Asked``, client, status, bytes_in, bytes_out (head and content,
    both), duration in milliseconds, and error where there was a fault.
    """

    is_on = False

    def __init__(self, file_descriptor: int, schedule: Callable[..., object]) -> None:
        self._descriptor = file_descriptor
        self._schedule = schedule
        self._texts: list[str] = []
        self._second = 0
        self._date = self._clock = ""
        self._next = 0.0

    def describe(self, asked: Asked) -> str:
        """What a client may have sent is made harmless and cut."""
        return ""

    def record(
        self, request_id: str, client: str, described: str, status: int, bytes_in: int,
        bytes_out: int, started: float, ended: float, error: str,
    ) -> None:  # fmt: skip
        """Keep one request for the end of the turn. ``started`` and ``ended`` are monotonic, and
        this is the moment of ``ended``."""

    def flush(self) -> None:
        """Write all that is kept, in writes of whole records."""
        texts, self._texts = self._texts, []
        data = "".join(texts).encode("utf-8", "replace")
        start = 0
        while len(data) - start > WHOLE_WRITE_BYTES:
            # each record ends with its only line break
            end = data.rfind(b"\n", start, start + WHOLE_WRITE_BYTES) + 1
            end = end or start + WHOLE_WRITE_BYTES
            self._write(data[start:end])
            start = end
        self._write(data[start:])

    def _tell_time(self, moment: float) -> None:
        """Told anew only when a millisecond has passed."""
        now = time.time()
        second = int(now)
        millisecond = int((now - second) * 1000)
        if second != self._second:
            self._second = second
            self._date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        self._clock = self._render_clock(self._date, millisecond)
        self._next = moment + second + (millisecond + 1) / 1000 - now

    def _render_clock(self, date: str, millisecond: int) -> str:
        """ISO 8601 in UTC."""
        raise NotImplementedError

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                os.set_blocking(self._descriptor, True)  # a record is not lost for a full pipe
            except OSError:
                return  # nobody reads the log any more; serving goes on


class _JsonLog(AccessLog):
    """An object a line, of which each text begins and ends within a string or a number: six to a
    record, since nothing is as quick as to join them."""

    is_on = True

    def describe(self, asked: Asked) -> str:
        return (
            f'","mount":{_mounts[asked.mount]},{_questions[asked[1:4]]},{_clients[asked[4:]]},'
            f'"client":"'
        )

    def record(
        self, request_id: str, client: str, described: str, status: int, bytes_in: int,
        bytes_out: int, started: float, ended: float, error: str,
    ) -> None:  # fmt: skip
        if not self._texts:
            self._schedule(self.flush)
        if ended >= self._next:
            self._tell_time(ended)
        end = _ends[int((ended - started) * 1e6 + 0.5)]
        if error:
            end = f'{end[:-2]},"error":{quote(printable(error[:_MAX_ERROR]))}}}\n'
        self._texts += (
            self._clock, request_id, described, client, _counts[status, bytes_in, bytes_out], end,
        )  # fmt: skip

    def _render_clock(self, date: str, millisecond: int) -> str:
        return f'{{"time":"{date}.{millisecond:03d}Z","request_id":"'


class _TextLog(AccessLog):
    """For a person: when, status, how long, how much, what, and who."""

    is_on = True

    def describe(self, asked: Asked) -> str:
        return f"{asked.method[:32]} {asked.target[:_MAX_TARGET]}  <- {asked.mount or '-'}"

    def record(
        self, request_id: str, client: str, described: str, status: int, bytes_in: int,
        bytes_out: int, started: float, ended: float, error: str,
    ) -> None:  # fmt: skip
        if not self._texts:
            self._schedule(self.flush)
        if ended >= self._next:
            self._tell_time(ended)
        line = (
            f"{self._clock} {status} {(ended - started) * 1000:8.1f} ms {bytes_out:>9} B  "
            f"{described}  {client}"
        )
        if error:
            line += f"  [{error[:_MAX_ERROR]}]"
        self._texts.append(printable(line) + "\n")

    def _render_clock(self, date: str, millisecond: int) -> str:
        return date[11:]


def open_access_log(style: str, file_descriptor: int, schedule: Callable[..., object]) -> AccessLog:
    """One of ``style``: json, text or off."""
    kind = {"json": _JsonLog, "text": _TextLog, "off": AccessLog}[style]
    return kind(file_descriptor, schedule)


class _Remembered(dict[Any, str]):
    """What was rendered before, begun anew when there is too much; long texts are not kept."""

    def __init__(self, render: Callable[..., str]) -> None:
        super().__init__()
        self._render = render

    def __missing__(self, key: Any) -> str:
        text = self._render(*key) if isinstance(key, tuple) else self._render(key)
        if len(text) <= _LONGEST_REMEMBERED:
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


def _render_counts(status: int, bytes_in: int, bytes_out: int) -> str:
    return f'","status":{status},"bytes_in":{bytes_in},"bytes_out":{bytes_out},"duration_ms":'


class _Ends(dict[int, str]):
    """Microseconds to the end of a record; short ones are kept."""

    def __missing__(self, microseconds: int) -> str:
        end = f"{microseconds / 1000:.3f}}}\n"
        if microseconds < _SHORT_DURATION:
            self[microseconds] = end
        return end


_mounts = _Remembered(quote)
_questions = _Remembered(_quote_question)
_clients = _Remembered(_quote_client)
_counts = _Remembered(_render_counts)
_ends = _Ends()
