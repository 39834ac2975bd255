"""What is told on stderr: lifecycle and faults.

Owns logger names and formats; knows nothing of the rest. ``gateway`` is lifecycle,
``gateway.build`` what building environments tells meanwhile, ``gateway.error`` faults with the
request id that the client was shown.
"""

from __future__ import annotations

import copy
import json
import logging
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from gateway.outlet import Outlet

lifecycle = logging.getLogger("gateway")
builds = logging.getLogger("gateway.build")
faults = logging.getLogger("gateway.error")
# C0 but for tab and newline, DEL, C1 and the separators of lines and paragraphs
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_LEVELS = {level: logging.getLevelName(level) for level in range(10, 60, 10)}


def configure_logs(style: str, generation: str = "", stream: TextIO | None = None) -> None:
    """Send the gateway's loggers to ``stream``, or stderr, as ``json`` or ``text``; leave others
    alone.

    ``generation`` is that of a worker, and told by each JSON entry.
    """
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter(generation) if style == "json" else _TextFormatter())
    lifecycle.handlers = [handler]
    lifecycle.setLevel(logging.INFO)
    lifecycle.propagate = False


def keep_from_apps() -> None:
    """Take the gateway's loggers out of those that apps can see: whatever an app configures,
    disables or shuts down, the gateway's own records are written."""
    private = logging.Manager(logging.RootLogger(logging.WARNING))
    for logger in (lifecycle, builds, faults):
        logging.root.manager.loggerDict.pop(logger.name, None)
        private.loggerDict[logger.name] = logger
        logger.manager = private
        # an app's record factory may need what only its own requests have
        logger.makeRecord = _make_record  # type: ignore[assignment,method-assign]


def _make_record(*usual: Any) -> logging.LogRecord:
    """What ``Logger.makeRecord`` does, with logging's own kind of record."""
    name, level, path, line, message, arguments, exc_info, function, extra, stack = usual
    record = logging.LogRecord(
        name, level, path, line, message, arguments, exc_info, function, stack
    )
    record.levelname = _LEVELS[record.levelno]  # which an app may have renamed
    record.__dict__.update(extra or {})
    return record


def prepare_entries() -> Callable[..., bytes]:
    """What makes an entry of a message in a thread that gevent knows nothing of, and that may wait
    for no lock of ``logging``; ``extra`` is ``mount`` and ``request_id``."""
    # a record made by logging itself asks for the current thread, and so for a lock
    template = logging.LogRecord(lifecycle.name, logging.WARNING, "", 0, "", (), None)
    formatter: Any = lifecycle.handlers[0].formatter

    def make(message: str, **extra: str) -> bytes:
        record = copy.copy(template)
        record.__dict__.update(extra, msg=message, created=time.time())
        text: str = formatter.format(record)
        return (text + "\n").encode("utf-8", "replace")

    make("")  # what this imports is imported now
    return make


def report_dropped(errors: Outlet, records: Outlet | None = None) -> None:
    """Have what is dropped of the log that goes to ``errors``, and of access records, reported
    there once somebody reads again."""
    make = prepare_entries()
    why = "were dropped, since nobody read the log in time"
    errors.on_room = lambda n: errors.put(make(f"{n} lines of this log {why}"))
    if records is not None:
        records.on_room = lambda n: errors.put(make(f"{n} access records {why}"))


def choose_style(access_log: str) -> str:
    """``json`` or ``text`` for the table's ``access_log``; auto is text on a terminal."""
    if access_log == "auto":
        return "text" if sys.stdout.isatty() else "json"
    return "text" if access_log == "text" else "json"


@contextmanager
def forwarding(logger: logging.Logger, tell: Callable[[str], object]) -> Iterator[None]:
    """Have ``tell`` get what ``logger`` is told meanwhile, too."""
    handler = _Forwarder()
    handler.tell = tell
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Forwarder(logging.Handler):
    tell: Callable[[str], object]

    def emit(self, record: logging.LogRecord) -> None:
        self.tell(record.getMessage())


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """A record that cannot be written costs nobody an answer."""
        with suppress(Exception):
            self.stream.write(traceback.format_exc())


class _Formatter(logging.Formatter):
    def formatException(self, ei: Any) -> str:  # noqa: N802
        """As usual, but without the builtin print, which an app may have replaced."""
        return "".join(traceback.format_exception(*ei)).rstrip("\n")


class _JsonFormatter(_Formatter):
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
        return escape_controls(json.dumps(entry, ensure_ascii=False))


class _TextFormatter(_Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        # what a terminal would obey, or a reader take for the end of a line
        return hide_controls(super().format(record))


def _iso(seconds: float) -> str:
    whole = int(seconds)
    clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{clock}.{int((seconds - whole) * 1000):03d}Z"


def escape_controls(quoted: str) -> str:
    """JSON without raw C1 controls and line separators (U+0085, U+2028, U+2029): terminals obey
    some of them, and a record is one line however lines are split."""
    if quoted.isascii() and "\x7f" not in quoted:
        return quoted
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)


def hide_controls(text: str) -> str:
    """``text`` with a question mark for each of these."""
    return _CONTROLS.sub("?", text)


def hide_unprintable(text: str) -> str:
    """``text`` without what a terminal would obey, such as control characters."""
    return "".join(c if c.isprintable() else "?" for c in text)
