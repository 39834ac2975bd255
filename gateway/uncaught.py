"""What nobody has caught: a record in the error log, and no bare traceback of Python, asyncio or
gevent.

Owns the hooks of these three, and tells the gateway's own faults from those of apps, which start
threads and greenlets in its processes. Refuses to know what was going on. Source: ``sys`` and
``threading`` (excepthook, unraisablehook), asyncio's "Error Handling API", gevent's
``Hub.handle_error``.
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

# who calls what others have written: their frames do not say whose fault it is
_CARRIERS = frozenset(("asyncio", "concurrent", "gevent", "greenlet", "threading", "socketserver"))


def summarize(error: BaseException) -> str:
    """One line for a fault; an exception may fail to print itself."""
    line = format_exception_only(type(error), error)[-1].strip()
    return line.removeprefix(f"{type(error).__module__}.")


def report_own(what: str, error: BaseException | None) -> None:
    """A fault of the gateway's own. Never raises: it is called where nothing may go wrong any
    more."""
    cause = f": {summarize(error)}" if error is not None else ""
    with suppress(Exception):
        faults.error("a fault of the gateway's own: %s%s", what, cause, exc_info=error)


def report_apps(what: str, error: BaseException, **extra: str) -> None:
    """A fault of what an app has left running; ``extra`` is ``mount`` and ``request_id``."""
    with suppress(Exception):
        faults.error("%s: %s", what, summarize(error), exc_info=error, extra=extra)


def report(what: str, error: BaseException, traceback: TracebackType | None) -> None:
    """A fault of whoever's code was begun with."""
    if is_own(traceback):
        report_own(what, error)
    else:
        report_apps(f"{what}, which an app has started or left behind", error)


def is_own(traceback: TracebackType | None) -> bool:
    """Whether what ``traceback`` is of was begun by the gateway's code."""
    while traceback is not None:
        room = str(traceback.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if room not in _CARRIERS:
            return room == "gateway"
        traceback = traceback.tb_next
    return False


def report_uncaught() -> None:
    """From now on, of this process: exceptions that end it or a thread, or that Python ignores."""

    def on_end(kind: type[BaseException], error: BaseException, where: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, where)
        else:
            report_own("it ends this process", error)

    def on_thread(ended: threading.ExceptHookArgs) -> None:
        if not issubclass(ended.exc_type, SystemExit):  # as Python has it: the end of that thread
            name = ended.thread.name if ended.thread else "?"
            error = ended.exc_value or ended.exc_type()
            report(f"the thread {name} has failed", error, ended.exc_traceback)

    def on_ignored(ignored: sys.UnraisableHookArgs) -> None:
        what = f"{ignored.err_msg or 'nobody can be told of an exception in'}"
        error = ignored.exc_value or ignored.exc_type()
        report(f"{what} {_name(ignored.object)}", error, ignored.exc_traceback)

    sys.excepthook, threading.excepthook, sys.unraisablehook = on_end, on_thread, on_ignored


def report_asyncio(loop: Any) -> None:
    """From now on, of this event loop, in a process in which no app runs."""

    def on_fault(_: object, context: Mapping[str, Any]) -> None:
        report_own(str(context["message"]), context.get("exception"))

    loop.set_exception_handler(on_fault)
    # what asyncio itself tells, which would go to stderr as it is
    logging.getLogger("asyncio").handlers = list(lifecycle.handlers)
    logging.getLogger("asyncio").propagate = False


def report_hub(hub: Any, find_request: Callable[[Any], tuple[str, str]]) -> None:
    """From now on, of gevent's hub. Nothing that a greenlet raises ends the process, as gevent
    would have it for SystemExit: an app is one of many.

    ``find_request`` gives mount and id of the request that runs in a greenlet, "" and "" for none.
    """

    def on_fault(context: Any, kind: Any, error: Any, where: Any) -> None:
        if issubclass(kind, hub.NOT_ERROR):
            return  # the end of that greenlet, and nothing else
        error = error if isinstance(error, BaseException) else kind(error)
        owner: Any = getattr(getattr(context, "callback", None), "__self__", None)
        if hasattr(owner, "abandon"):
            owner.abandon(error.with_traceback(where))  # a connection that can do no more
            return
        if is_own(where):
            report_own(f"in {_name(context)}", error.with_traceback(where))
            return
        starter = getattr(context, "spawning_greenlet", None)
        mount, request_id = find_request(starter()) if starter else ("", "")
        extra = {"mount": mount, "request_id": request_id} if mount else {}
        what = f"{mount or 'an app'}: {_name(context)}, which it has left running, has failed"
        report_apps(what, error.with_traceback(where), **extra)

    hub.handle_error = on_fault


def _name(thing: Any) -> str:
    """What runs in a greenlet or is called by a watcher; it may fail to print itself."""
    try:
        called = getattr(thing, "_run", None) or getattr(thing, "callback", None) or thing
        name = getattr(called, "__qualname__", None)
        if name is None:
            return f"a {type(called).__qualname__}"
        kind = "the greenlet " if hasattr(thing, "spawning_greenlet") else ""
        return f"{kind}{called.__module__}.{name}"
    except Exception:  # noqa: BLE001  it is an app's object
        return "something"
