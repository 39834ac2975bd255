"""Debuggers in apps, in dev mode: the terminal that they read from, and the line where one stops.

Knows debuggers that are built on the standard library's ``bdb``. Source: tty(4), PEP 553.
"""

from __future__ import annotations

import os
import signal
import sys
import termios
from contextlib import suppress
from types import FrameType
from typing import Any

from gateway.logs import lifecycle

TERMINAL = "/dev/tty"
_MODULES = frozenset(("bdb", "pdb"))


def give_terminal() -> None:
    """Connect this worker's stdin to the terminal that the gateway runs in; without a terminal,
    breakpoints are skipped."""
    # pdb handles SIGINT after "continue", but Ctrl-C is for the supervisor
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        descriptor = os.open(TERMINAL, os.O_RDWR)
    except OSError:
        sys.breakpointhook = _pass_over
        return
    # readline reads from descriptor 0
    os.dup2(descriptor, 0)
    os.close(descriptor)
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # type: ignore[misc] # noqa: SIM115


def _pass_over(*arguments: Any, **named: Any) -> Any:
    if os.environ.get("PYTHONBREAKPOINT"):
        return sys.__breakpointhook__(*arguments, **named)
    frame = sys._getframe(1)
    place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    lifecycle.warning("breakpoint() at %s is skipped: there is no terminal", place)
    return None


def find_breakpoint(frame: FrameType | None) -> str:
    """The file and line at which a debugger has stopped the stack that ends with ``frame``; "" if
    none has."""
    is_held = False
    while frame is not None:
        if frame.f_globals.get("__name__") in _MODULES:
            is_held = True
        elif is_held:
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


class Terminal:
    """The settings of the terminal at the start. A debugger that is killed leaves those of readline
    behind, with which typed text is invisible."""

    def __init__(self) -> None:
        self._settings: list[Any] = []
        with suppress(OSError, termios.error), open(TERMINAL, "rb", buffering=0) as terminal:
            self._settings = termios.tcgetattr(terminal)

    def restore(self) -> None:
        """Restore the settings, unless another program is in the foreground."""
        if not self._settings:
            return
        with suppress(OSError, termios.error), open(TERMINAL, "rb", buffering=0) as terminal:
            if os.tcgetpgrp(terminal.fileno()) == os.getpgrp():
                termios.tcsetattr(terminal, termios.TCSADRAIN, self._settings)
