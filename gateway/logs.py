"""The log on stderr: logger names and formats.

``gateway`` is lifecycle, ``gateway.build`` the progress of building environments, ``gateway.error``
faults, with the request id that the client was shown.
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
# C0 without tab and newline, DEL, C1, and the line and paragraph separators
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_LEVELS = {level: logging.getLevelName(level) for level in range(10, 60, 10)}


def configure_logs(style: str, generation: str = "", stream: TextIO | None = None) -> None:
    """Send the gateway's loggers to ``stream``, by default stderr, as ``json`` or ``text``; other
    loggers are left alone.

    ``generation`` is that of a worker; each JSON entry has it.
    """
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter(generation) if style == "json" else _TextFormatter())
    lifecycle.handlers = [handler]
    lifecycle.setLevel(logging.INFO)
    lifecycle.propagate = False


def keep_from_apps() -> None:
    """Hide the gateway's loggers from apps: its records are written whatever logging configuration
    an app sets up, disables or shuts down."""
    private = logging.Manager(logging.RootLogger(logging.WARNING))
    for logger in (lifecycle, builds, faults):
        logging.root.manager.loggerDict.pop(logger.name, None)
        private.loggerDict[logger.name] = logger
        logger.manager = private
        # an app's record factory may rely on the app's own requests
        logger.makeRecord = _make_record  # type: ignore[assignment,method-assign]


def _make_record(*usual: Any) -> logging.LogRecord:
    """As ``Logger.makeRecord``, but always with the class ``logging.LogRecord``."""
    name, level, path, line, message, arguments, exc_info, function, extra, stack = usual
    record = logging.LogRecord(
        name, level, path, line, message, arguments, exc_info, function, stack
    )
    record.levelname = _LEVELS[record.levelno]  # an app may have renamed the levels
    record.__dict__.update(extra or {})
    return record


def prepare_entries() -> Callable[..., bytes]:
    """A function that formats a message as a log entry, for native threads outside of gevent, which
    may not take the locks of ``logging``; its ``extra`` is ``mount`` and ``request_id``."""
    # a new LogRecord looks up the current thread, which takes a lock
    template = logging.LogRecord(lifecycle.name, logging.WARNING, "", 0, "", (), None)
    formatter: Any = lifecycle.handlers[0].formatter

    def make(message: str, **extra: str) -> bytes:
        record = copy.copy(template)
        record.__dict__.update(extra, msg=message, created=time.time())
        text: str = formatter.format(record)
        return (text + "\n").encode("utf-8", "replace")

    make("")  # do its imports now
    return make


def report_dropped(errors: Outlet, records: Outlet | None = None) -> None:
    """Log how many lines of the log (``errors``) and of the access log (``records``) were dropped,
    once the reader of the log reads again."""
    make = prepare_entries()
    why = "were dropped: the log was not read in time"
    errors.on_room = lambda n: errors.put(make(f"{n} lines of this log {why}"))
    if records is not None:
        records.on_room = lambda n: errors.put(make(f"{n} access records {why}"))


def choose_style(access_log: str) -> str:
    """``json`` or ``text``, by the table's ``access_log``; auto is text on a terminal."""
    if access_log == "auto":
        return "text" if sys.stdout.isatty() else "json"
    return "text" if access_log == "text" else "json"


@contextmanager
def forwarding(logger: logging.Logger, receive: Callable[[str], object]) -> Iterator[None]:
    """Within the block, also call ``receive`` with each message of ``logger``."""
    handler = _Forwarder()
    handler.receive = receive
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Forwarder(logging.Handler):
    receive: Callable[[str], object]

    def emit(self, record: logging.LogRecord) -> None:
        self.receive(record.getMessage())


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """A record that cannot be written must not fail a request."""
        with suppress(Exception):
            self.stream.write(traceback.format_exc())


class _Formatter(logging.Formatter):
    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Without the builtin print, which logging uses and an app may have replaced."""
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
        # control characters and line separators
        return hide_controls(super().format(record))


def _iso(seconds: float) -> str:
    whole = int(seconds)
    clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{clock}.{int((seconds - whole) * 1000):03d}Z"


def escape_controls(quoted: str) -> str:
    """JSON with C1 controls and line separators (U+0085, U+2028, U+2029) escaped: terminals obey
    some of them, and a record must be one line by any definition of lines."""
    if quoted.isascii() and "\x7f" not in quoted:
        return quoted
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)


def hide_controls(text: str) -> str:
    """``text`` with a question mark for each control character and line separator."""
    return _CONTROLS.sub("?", text)


def hide_unprintable(text: str) -> str:
    """``text`` with a question mark for each character that is not printable."""
    return "".join(c if c.isprintable() else "?" for c in text)
