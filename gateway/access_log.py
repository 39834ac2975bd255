"""The access log: one record for each request, on stdout, in JSON or text.

Records are formatted and written together at the end of each event loop iteration, since this is
on the hot path.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from json.encoder import encode_basestring

from gateway.logs import escape_controls, hide_controls, hide_unprintable
from gateway.outlet import WHOLE_WRITE_BYTES, Outlet
from gateway.protocol.request import RequestHead

# maximum characters of what a client sent, so that a record stays below WHOLE_WRITE_BYTES
_MAX_METHOD = 32
_MAX_TARGET = 800
_MAX_TEXT = 200
_MAX_ERROR = 150
# request id, client, mount ("" for none), head, status, bytes received and sent (head and content),
# start and end (monotonic), error ("" for none)
Record = tuple[str, str, str, RequestHead, int, int, int, float, float, str]


class AccessLog:
    """Collects records until ``flush`` writes them. ``record`` is a C method, since every request
    calls it. ``style`` is json, text or off.

    Text that a client sent is escaped and cut to a maximum length.
    """

    def __init__(self, style: str, file_descriptor: int) -> None:
        self.is_on = style != "off"
        self._render = _render_text if style == "text" else _render_json
        self.outlet = Outlet(file_descriptor)
        self._records: list[Record] = []
        self.record: Callable[[Record], None] = self._records.append

    def flush(self) -> None:
        """Write the collected records; no write ends within a record."""
        if not self._records:
            return
        records = self._records.copy()
        self._records.clear()
        text = self._render(records, time.time() - time.monotonic())
        data = text.encode("utf-8", "replace")
        put, start = self.outlet.put, 0
        while len(data) - start > WHOLE_WRITE_BYTES:
            # a record contains one line break, at its end
            end = data.rfind(b"\n", start, start + WHOLE_WRITE_BYTES) + 1
            end = end or start + WHOLE_WRITE_BYTES
            put(data[start:end])
            start = end
        put(data[start:] if start else data)


@lru_cache(maxsize=2)
def _format_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def quote_json(text: str) -> str:
    """A JSON string without control characters and line separators: they are escaped, or replaced
    by question marks if a record would become too long for one write."""
    quoted = encode_basestring(text)
    escaped = escape_controls(quoted)
    is_short = escaped is quoted or len(escaped.encode("utf-8", "replace")) <= 2 * len(text) + 2
    return escaped if is_short else hide_controls(quoted)


def _quote_all(texts: tuple[str, ...]) -> tuple[str, ...]:
    """``quote_json`` of each, without the surrounding quotation marks."""
    together = "".join(texts)
    # of printable ASCII only two characters need escaping
    is_plain = together.isascii() and together.isprintable()
    if is_plain and '"' not in together and "\\" not in together:
        return texts
    return tuple([quote_json(text)[1:-1] for text in texts])


def _render_json(records: list[Record], epoch: float) -> str:
    """One JSON object a line. ``epoch`` is the Unix time at which the monotonic clock was 0."""
    lines: list[str] = []
    clock, next_clock = "", 0.0
    for request_id, client, mount, head, status, received, sent, started, ended, error in records:
        if ended >= next_clock:
            millisecond = int((ended + epoch) * 1000)
            next_clock = (millisecond + 1) / 1000 - epoch
            clock = f"{_format_second(millisecond // 1000)}.{millisecond % 1000:03d}Z"
        fields = head.fields
        mount, method, target, host, referer, agent = _quote_all(
            (
                mount,
                head.method[:_MAX_METHOD],
                head.target[:_MAX_TARGET],
                head.host[:_MAX_TEXT],
                fields["HTTP_REFERER"][:_MAX_TEXT] if "HTTP_REFERER" in fields else "",
                fields["HTTP_USER_AGENT"][:_MAX_TEXT] if "HTTP_USER_AGENT" in fields else "",
            )
        )
        protocol = "HTTP/1.1" if head.is_http11 else "HTTP/1.0"
        fault = f',"error":{quote_json(hide_unprintable(error[:_MAX_ERROR]))}' if error else ""
        lines.append(
            f'{{"time":"{clock}","request_id":"{request_id}","mount":"{mount}","method":"{method}",'
            f'"target":"{target}","protocol":"{protocol}","host":"{host}","referer":"{referer}",'
            f'"user_agent":"{agent}","client":"{client}","status":{status},"bytes_in":{received},'
            f'"bytes_out":{sent},"duration_ms":{(ended - started) * 1000:.3f}{fault}}}\n'
        )
    return "".join(lines)


def _render_text(records: list[Record], epoch: float) -> str:
    """For a person: time, status, duration, size, request line, mount and client."""
    lines = []
    for _, client, mount, head, status, _, sent, started, ended, error in records:
        clock = _format_second(int(ended + epoch))[11:]
        duration = f"{(ended - started) * 1000:8.1f} ms"
        request = f"{head.method[:_MAX_METHOD]} {head.target[:_MAX_TARGET]}  <- {mount or '-'}"
        line = f"{clock} {status} {duration} {sent:>9} B  {request}  {client}"
        lines.append(hide_unprintable(f"{line}  [{error[:_MAX_ERROR]}]" if error else line) + "\n")
    return "".join(lines)
