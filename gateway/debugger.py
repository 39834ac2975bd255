"""Debuggers in apps, in dev mode: the terminal that they read from, and where one waits.

Refuses to know requests and which debugger it is, but that it is made of the standard library's.
Sources: tty(4), PEP 553.
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
    """Have this worker read from the terminal that the gateway runs in; without one, breakpoints
    are passed over."""
    # pdb handles it after a "continue", but what Ctrl-C means is the supervisor's to say
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        descriptor = os.open(TERMINAL, os.O_RDWR)
    except OSError:
        sys.breakpointhook = _pass_over
        return
    # number 0, from which readline reads
    os.dup2(descriptor, 0)
    os.close(descriptor)
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # type: ignore[misc] # noqa: SIM115


def _pass_over(*arguments: Any, **named: Any) -> Any:
    if os.environ.get("PYTHONBREAKPOINT"):
        return sys.__breakpointhook__(*arguments, **named)
    frame = sys._getframe(1)
    place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    lifecycle.warning("breakpoint() at %s is passed over: there is no terminal", place)
    return None


def find_breakpoint(frame: FrameType | None) -> str:
    """The file and line at which a debugger holds the stack that ``frame`` ends; "" for none."""
    is_held = False
    while frame is not None:
        if frame.f_globals.get("__name__") in _MODULES:
            is_held = True
        elif is_held:
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


class Terminal:
    """The terminal as it was found. A debugger that is killed leaves it as readline has it, where
    what is typed does not show."""

    def __init__(self) -> None:
        self._settings: list[Any] = []
        with suppress(OSError, termios.error), open(TERMINAL, "rb", buffering=0) as terminal:
            self._settings = termios.tcgetattr(terminal)

    def restore(self) -> None:
        """Make it that again, unless it is another program's now."""
        if not self._settings:
            return
        with suppress(OSError, termios.error), open(TERMINAL, "rb", buffering=0) as terminal:
            if os.tcgetpgrp(terminal.fileno()) == os.getpgrp():
                termios.tcsetattr(terminal, termios.TCSADRAIN, self._settings)
