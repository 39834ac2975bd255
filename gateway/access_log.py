"""Access records: one line for each request, on stdout, written once a turn of the event loop.

Owns their two formats; knows nothing of requests but what it is told. A record is made of texts
that were rendered before, as far as there are such, since it is on the way of every request.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Any, NamedTuple

from gateway.logs import escape_controls, hide_controls, printable
from gateway.outlet import WHOLE_WRITE_BYTES, Outlet

# longest text a client can put into a record, so that a record stays below WHOLE_WRITE_BYTES
_MAX_METHOD = 32
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


# request id, client, what was asked as ``describe`` gives it, status, bytes in and out (head and
# content), monotonic times of begin and end, error ("" for none)
Record = tuple[str, str, str, int, int, int, float, float, str]


class AccessLog:
    """Access records, kept until ``flush`` and then written together: what is on the way of a
    request is ``record``, a C method. ``style`` is json, text or off.

    ``describe`` renders what was asked, in which what a client may have sent is made harmless and
    cut: a text that may be kept. A record is written with the time, and what ``Record`` holds.
    """

    def __init__(self, style: str, file_descriptor: int) -> None:
        self.is_on = style != "off"
        self.describe: Callable[[Asked], str]
        self._render: Callable[[list[Record], float], str]
        self.describe, self._render = TEXT if style == "text" else JSON
        self.outlet = Outlet(file_descriptor)
        self._records: list[Record] = []
        self.record: Callable[[Record], None] = self._records.append

    def flush(self) -> None:
        """Write all that is kept, in writes of whole records."""
        if not self._records:
            return
        records = self._records.copy()
        self._records.clear()
        text = self._render(records, time.time() - time.monotonic())
        data = text.encode("utf-8", "replace")
        put, start = self.outlet.put, 0
        while len(data) - start > WHOLE_WRITE_BYTES:
            # each record ends with its only line break
            end = data.rfind(b"\n", start, start + WHOLE_WRITE_BYTES) + 1
            end = end or start + WHOLE_WRITE_BYTES
            put(data[start:end])
            start = end
        put(data[start:] if start else data)


@lru_cache(maxsize=2)
def _tell_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


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


def quote(text: str) -> str:
    """As JSON has it, with nothing raw that a terminal obeys or that ends a line: escaped, or a
    question mark where that would make a record too long for one write."""
    quoted = encode_basestring(text)
    escaped = escape_controls(quoted)
    is_short = escaped is quoted or len(escaped.encode("utf-8", "replace")) <= 2 * len(text) + 2
    return escaped if is_short else hide_controls(quoted)


def _quote_question(method: str, target: str, protocol: str) -> str:
    return f'"method":{quote(method)},"target":{quote(target)},"protocol":"{protocol}"'


def _quote_client(host: str, referer: str, user_agent: str) -> str:
    return f'"host":{quote(host)},"referer":{quote(referer)},"user_agent":{quote(user_agent)}'


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


def _describe_json(asked: Asked) -> str:
    # cut before it is looked for: what is remembered keeps its key, too
    question = _questions[asked.method[:_MAX_METHOD], asked.target[:_MAX_TARGET], asked.protocol]
    client = _clients[
        asked.host[:_MAX_TEXT], asked.referer[:_MAX_TEXT], asked.user_agent[:_MAX_TEXT]
    ]
    return f'","mount":{_mounts[asked.mount]},{question},{client},"client":"'


def _render_json(records: list[Record], epoch: float) -> str:
    """An object a line, joined of six texts that begin and end within a string or a number: most
    were rendered before. ``epoch`` is when the monotonic clock was 0, in Unix time."""
    texts: list[str] = []
    clock, next_clock = "", 0.0
    for request_id, client, asked, status, bytes_in, bytes_out, started, ended, error in records:
        if ended >= next_clock:
            millisecond = int((ended + epoch) * 1000)
            next_clock = (millisecond + 1) / 1000 - epoch
            date = _tell_second(millisecond // 1000)
            clock = f'{{"time":"{date}.{millisecond % 1000:03d}Z","request_id":"'
        end = _ends[int((ended - started) * 1e6 + 0.5)]
        if error:
            end = f'{end[:-2]},"error":{quote(printable(error[:_MAX_ERROR]))}}}\n'
        texts += clock, request_id, asked, client, _counts[status, bytes_in, bytes_out], end
    return "".join(texts)


def _describe_text(asked: Asked) -> str:
    return f"{asked.method[:_MAX_METHOD]} {asked.target[:_MAX_TARGET]}  <- {asked.mount or '-'}"


def _render_text(records: list[Record], epoch: float) -> str:
    """For a person: when, status, how long, how much, what, and who."""
    lines = []
    for _, client, asked, status, _, bytes_out, started, ended, error in records:
        clock = _tell_second(int(ended + epoch))[11:]
        duration = f"{(ended - started) * 1000:8.1f} ms"
        line = f"{clock} {status} {duration} {bytes_out:>9} B  {asked}  {client}"
        lines.append(printable(f"{line}  [{error[:_MAX_ERROR]}]" if error else line) + "\n")
    return "".join(lines)


# how what was asked, and records, are written
JSON = _describe_json, _render_json
TEXT = _describe_text, _render_text
