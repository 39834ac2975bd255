"""Uncaught exceptions: records in the error log instead of tracebacks of Python, asyncio or gevent.

Owns the hooks of these three, and distinguishes the gateway's own faults from those of apps, which
start threads and greenlets in its processes. Source: ``sys`` and ``threading`` (excepthook,
unraisablehook), asyncio's "Error Handling API", gevent's ``Hub.handle_error``.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from traceback import format_exception_only
from types import TracebackType
from typing import Any

from gateway.logs import faults, lifecycle

# packages that call other code: their frames do not show whose fault it is
_CARRIERS = frozenset(("asyncio", "concurrent", "gevent", "greenlet", "threading", "socketserver"))


def summarize(error: BaseException) -> str:
    """An exception in one line, also if its ``__str__`` fails."""
    line = format_exception_only(type(error), error)[-1].strip()
    return line.removeprefix(f"{type(error).__module__}.")


def report_own(what: str, error: BaseException | None) -> None:
    """Log a fault of the gateway's own. Never raises."""
    cause = f": {summarize(error)}" if error is not None else ""
    with suppress(Exception):
        faults.error("a fault of the gateway's own: %s%s", what, cause, exc_info=error)


def report_apps(what: str, error: BaseException, **extra: str) -> None:
    """Log a fault of an app outside of a request; ``extra`` is ``mount`` and ``request_id``."""
    with suppress(Exception):
        faults.error("%s: %s", what, summarize(error), exc_info=error, extra=extra)


def report(what: str, error: BaseException, traceback: TracebackType | None) -> None:
    """Log a fault as the gateway's own or an app's, by the code that was called first."""
    if is_own(traceback):
        report_own(what, error)
    else:
        report_apps(f"{what}, which an app has started", error)


def is_own(traceback: TracebackType | None) -> bool:
    """Whether the first frame, not counting those of ``_CARRIERS``, is the gateway's."""
    while traceback is not None:
        room = str(traceback.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if room not in _CARRIERS:
            return room == "gateway"
        traceback = traceback.tb_next
    return False


def report_uncaught() -> None:
    """Log exceptions that end this process or one of its threads, or that Python ignores."""

    def on_end(kind: type[BaseException], error: BaseException, where: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, where)
        else:
            report_own("this process exits", error)

    def on_thread(ended: threading.ExceptHookArgs) -> None:
        if not issubclass(ended.exc_type, SystemExit):  # which ends a thread silently, as in Python
            name = ended.thread.name if ended.thread else "?"
            error = ended.exc_value or ended.exc_type()
            report(f"the thread {name} failed", error, ended.exc_traceback)

    def on_ignored(ignored: sys.UnraisableHookArgs) -> None:
        what = f"{ignored.err_msg or 'an exception was ignored in'}"
        error = ignored.exc_value or ignored.exc_type()
        report(f"{what} {_name(ignored.object)}", error, ignored.exc_traceback)

    sys.excepthook, threading.excepthook, sys.unraisablehook = on_end, on_thread, on_ignored


def report_asyncio(loop: Any) -> None:
    """Log exceptions of this event loop, in a process that runs no apps."""

    def on_fault(_: object, context: Mapping[str, Any]) -> None:
        report_own(str(context["message"]), context.get("exception"))

    loop.set_exception_handler(on_fault)
    # asyncio's own messages would go to stderr unformatted
    logging.getLogger("asyncio").handlers = list(lifecycle.handlers)
    logging.getLogger("asyncio").propagate = False


def report_hub(hub: Any, find_request: Callable[[Any], tuple[str, str]]) -> None:
    """Log exceptions of greenlets. None ends the process, not even SystemExit, which gevent would
    obey: a worker runs many apps.

    ``find_request`` returns mount and id of the request that runs in a greenlet, "" and "" for
    none.
    """

    def on_fault(context: Any, kind: Any, error: Any, where: Any) -> None:
        if issubclass(kind, hub.NOT_ERROR):
            return  # such as GreenletExit
        error = error if isinstance(error, BaseException) else kind(error)
        owner: Any = getattr(getattr(context, "callback", None), "__self__", None)
        if hasattr(owner, "abandon"):
            owner.abandon(error.with_traceback(where))  # a connection
            return
        if is_own(where):
            report_own(f"in {_name(context)}", error.with_traceback(where))
            return
        starter = getattr(context, "spawning_greenlet", None)
        mount, request_id = find_request(starter()) if starter else ("", "")
        extra = {"mount": mount, "request_id": request_id} if mount else {}
        what = f"{mount or 'an app'}: {_name(context)}, which it left running, failed"
        report_apps(what, error.with_traceback(where), **extra)

    hub.handle_error = on_fault


def _name(thing: Any) -> str:
    """The function of a greenlet or a watcher; its attributes may raise."""
    try:
        called = getattr(thing, "_run", None) or getattr(thing, "callback", None) or thing
        name = getattr(called, "__qualname__", None)
        if name is None:
            return f"a {type(called).__qualname__}"
        kind = "the greenlet " if hasattr(thing, "spawning_greenlet") else ""
        return f"{kind}{called.__module__}.{name}"
    except Exception:  # noqa: BLE001  it is an app's object
        return "something"
