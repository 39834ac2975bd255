"""Process-wide changes by importing an app, which affect other apps: undone, or reported.

Owns the table of these changes. Undone is what would break responses or logs of others, and what no
app needs afterwards; reported and kept is what the app itself needs, such as the time zone that
Django sets. In a pool of one app, only changes that break the gateway are undone. Linux only
(/proc).
"""

from __future__ import annotations

import gc
import locale
import logging
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from gateway.streams import find_closed, find_files, reopen

# the worker's own, and SIGPIPE, whose default would end the worker when a client has left
_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGTERM)
# what only libraries that patch the standard library replace
_PATCHED = (
    *("socket.socket", "time.sleep", "select.select", "select.poll"),
    *("_thread.start_new_thread", "_thread.allocate_lock"),
)
_USUAL_RECURSION = sys.getrecursionlimit()


class GlobalState(NamedTuple):
    """State of a process that its apps share. ``find`` names the change between two values that
    ``read`` returned, "" for none that matters. ``undo`` gets the earlier value. ``is_needed``: by
    the gateway, too."""

    read: Callable[[], Any]
    find: Callable[[Any, Any], str]
    undo: Callable[[Any], object] | None = None
    is_needed: bool = False


class Footprint:
    """``modules`` are the top-level names of all apps' modules; ``is_shared``: there are several
    apps. ``states`` are what no app should change for others."""

    def __init__(self, modules: Collection[str], is_shared: bool) -> None:
        self._is_shared = is_shared
        states = (*GLOBAL_STATES, GlobalState(_read_path, _finder_of_shadows(modules)))
        self.states = [state for state in states if is_shared or state.is_needed]

    @contextmanager
    def watched(self, report: Callable[[str], object]) -> Iterator[None]:
        """Around loading an app. ``report`` is called with what it changed, if anything.

        A child that the app has forked ends here.
        """
        process = os.getpid()
        before = [state.read() for state in self.states]
        try:
            yield
        finally:
            if os.getpid() != process:
                os._exit(0)
            if text := self._settle(before):
                report(text)

    def _settle(self, before: list[Any]) -> str:
        left, undone = [], []
        for state, value in zip(self.states, before):
            change = state.find(value, state.read())
            if change and state.undo:
                with suppress(Exception):  # a change that cannot be undone is reported anyway
                    state.undo(value)
                undone.append(change)
            elif change:
                left.append(change)
        return self._describe(left, undone)

    def _describe(self, left: list[str], undone: list[str]) -> str:
        texts = []
        if left:
            texts.append(f"its import changes for every app of this process {', '.join(left)}")
        if undone:
            texts.append(f"what its import changed was undone: {', '.join(undone)}")
        advice = ' (with "pool: own" it keeps such changes to itself)'
        return "; ".join(texts) + (advice if texts and self._is_shared else "")


def _change(name: str, show: Callable[[Any], str] = lambda _: "") -> Callable[[Any, Any], str]:
    """Finds any change of ``name``; ``show`` returns the text of the new value."""

    def find(before: Any, after: Any) -> str:
        if before == after:
            return ""
        shown = show(after)
        return f"{name} ({shown})" if shown else name

    return find


# --- the file system and descriptors ----------------------------------------------------------


def _read_umask() -> int:
    status = Path("/proc/self/status").read_text()  # os.umask() would change it
    return int(status.partition("\nUmask:")[2].split()[0], 8)


def _read_directory() -> str:
    try:
        return os.getcwd()  # noqa: PTH109
    except OSError:
        return ""


def _read_streams() -> tuple[Any, ...]:
    return sys.stdin, sys.stdout, sys.stderr, getattr(sys.stdin, "closed", True)


def _undo_streams(before: tuple[Any, ...]) -> None:
    sys.stdin, sys.stdout, sys.stderr, _ = before
    if sys.stdin is None or sys.stdin.closed:
        sys.stdin = open(os.devnull)  # noqa: SIM115


# --- time and language ------------------------------------------------------------------------


def _read_time_zone() -> tuple[Any, ...]:
    return time.tzname, time.timezone, time.altzone


def _show_time_zone(_: object) -> str:
    return f"now {os.environ.get('TZ') or time.tzname[0]}"


# --- logging ----------------------------------------------------------------------------------


def _read_loggers() -> dict[str, logging.Logger]:
    """Those that are not disabled."""
    loggers = logging.root.manager.loggerDict
    found = {name: logger for name, logger in loggers.items() if isinstance(logger, logging.Logger)}
    return {name: logger for name, logger in found.items() if not logger.disabled}


def _find_silenced(before: dict[str, logging.Logger], after: dict[str, logging.Logger]) -> str:
    silenced = sorted(before.keys() - after.keys())
    names = ", ".join(silenced[:3]) + (" …" if len(silenced) > 3 else "")
    return f"loggers of others, disabled ({names})" if silenced else ""


def _undo_silence(before: dict[str, logging.Logger]) -> None:
    for logger in before.values():
        logger.disabled = False


def _find_lost_handlers(before: list[Any], after: list[Any]) -> str:
    is_lost = bool(before) and not after
    return "the root logger's handlers, removed" if is_lost else ""


def _find_other_handlers(before: list[Any], after: list[Any]) -> str:
    is_lost = any(handler not in after for handler in before)
    return "the root logger's handlers, replaced" if is_lost else ""


# --- the interpreter --------------------------------------------------------------------------


def _read_signals() -> dict[Any, Any]:
    """Without handlers that C code has set, which cannot be restored."""
    found = {number: signal.getsignal(number) for number in _SIGNALS}
    return {number: handler for number, handler in found.items() if handler is not None}


def _find_signals(before: dict[Any, Any], after: dict[Any, Any]) -> str:
    changed = [number.name for number in before if after.get(number) != before[number]]
    return f"signal handlers ({', '.join(changed)})" if changed else ""


def undo_signals(before: dict[Any, Any]) -> None:
    """Restore the handlers in ``before``, by number. Main thread only."""
    for number, handler in before.items():
        signal.signal(number, handler)


def _read_error_filters() -> list[Any]:
    """Filters that turn warnings from anywhere into errors."""
    return [each for each in warnings.filters if each[0] == "error" and each[1] == each[3] is None]


def _undo_error_filters(before: list[Any]) -> None:
    added = [each for each in _read_error_filters() if each not in before]
    warnings.filters[:] = [  # type: ignore[index]
        each for each in warnings.filters if each not in added
    ]


def _read_policy() -> Any:
    return getattr(sys.modules.get("asyncio.events"), "_event_loop_policy", None)


def _find_policy(before: Any, after: Any) -> str:
    if before is after or (before is None and type(after).__module__.startswith("asyncio.")):
        return ""  # asyncio makes its own when it is first needed
    return f"asyncio's event loop policy ({type(after).__module__}.{type(after).__qualname__})"


def _undo_policy(before: Any) -> None:
    sys.modules["asyncio.events"]._event_loop_policy = before  # type: ignore[attr-defined]


def _read_patched() -> dict[str, Any]:
    found = {}
    for name in _PATCHED:
        module, _, attribute = name.partition(".")
        if module in sys.modules:
            found[name] = getattr(sys.modules[module], attribute, None)
    return found


def _find_patched(before: dict[str, Any], after: dict[str, Any]) -> str:
    changed = [name for name in before if after.get(name) is not before[name]]
    return f"the standard library, patched ({', '.join(changed)})" if changed else ""


def _undo_patched(before: dict[str, Any]) -> None:
    for name, value in before.items():
        module, _, attribute = name.partition(".")
        setattr(sys.modules[module], attribute, value)


# --- sys.path ---------------------------------------------------------------------------------


def _read_path() -> list[str]:
    return [entry for entry in sys.path if isinstance(entry, str)]


def _find_lost_path(before: list[str], after: list[str]) -> str:
    lost = [entry for entry in before if entry not in after]
    return f"sys.path, without {', '.join(lost)}" if lost else ""


def _undo_lost_path(before: list[str]) -> None:
    sys.path += [entry for entry in before if entry not in sys.path]


def _finder_of_shadows(modules: Collection[str]) -> Callable[[list[str], list[str]], str]:
    """An app may add to sys.path, unless that hides another app's module."""

    def find(before: list[str], after: list[str]) -> str:
        first = after.index(before[0]) if before and before[0] in after else 0
        hidden = [
            f"{entry} first, which hides the module {module} of another app"
            for entry in after[:first]
            for module in sorted(modules)
            if entry not in before and _has_module(entry, module)
            and any(_has_module(other, module) for other in before)
        ]  # fmt: skip
        return f"sys.path ({', '.join(hidden)})" if hidden else ""

    return find


def _has_module(entry: str, module: str) -> bool:
    place = Path(entry, module)
    return place.is_dir() or place.with_name(f"{module}.py").is_file()


# closed descriptors first: files that are opened to undo other changes would take their numbers
GLOBAL_STATES = (
    GlobalState(
        find_closed,
        _change("standard descriptors, closed", lambda closed: ", ".join(map(str, closed))),
        lambda before: reopen(set(find_closed()) - set(before)),
        is_needed=True,
    ),
    GlobalState(find_files, _change("where the standard descriptors lead")),
    GlobalState(_read_streams, _change("the standard streams"), _undo_streams),
    GlobalState(_read_umask, _change("the umask", lambda value: f"{value:03o}"), os.umask),
    GlobalState(_read_directory, _change("the working directory", str), os.chdir),
    GlobalState(_read_time_zone, _change("the time zone", _show_time_zone)),
    GlobalState(lambda: locale.setlocale(locale.LC_ALL), _change("the locale", str)),
    GlobalState(_read_loggers, _find_silenced, _undo_silence),
    GlobalState(
        lambda: logging.root.manager.disable,
        _change("logging.disable()"),
        logging.disable,
    ),
    GlobalState(
        lambda: list(logging.root.handlers),
        _find_lost_handlers,
        lambda before: logging.root.handlers.extend(before),
    ),
    GlobalState(lambda: list(logging.root.handlers), _find_other_handlers),
    GlobalState(_read_signals, _find_signals, undo_signals, is_needed=True),
    GlobalState(
        lambda: min(sys.getrecursionlimit(), _USUAL_RECURSION),
        _change("the recursion limit", str),
        sys.setrecursionlimit,
        is_needed=True,
    ),
    GlobalState(
        socket.getdefaulttimeout,
        _change("socket.setdefaulttimeout()", lambda value: f"{value:g} s"),
        socket.setdefaulttimeout,
        is_needed=True,
    ),
    GlobalState(gc.isenabled, _change("the garbage collection, off"), lambda _: gc.enable()),
    GlobalState(
        _read_error_filters,
        _change("warnings, made errors"),
        _undo_error_filters,
    ),
    GlobalState(_read_policy, _find_policy, _undo_policy),
    GlobalState(_read_patched, _find_patched, _undo_patched),
    GlobalState(_read_path, _find_lost_path, _undo_lost_path),
)
