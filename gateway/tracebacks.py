"""What is shown of an app's exception: the lines that are the app's own.

Refuses to know who is shown them. Source: the traceback module.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from traceback import TracebackException, format_exception_only

_PACKAGE = f"{Path(__file__).parent}{os.sep}"


def describe_error(error: BaseException) -> str:
    """The traceback of an app's ``error`` and of what led to it, without the lines that are the
    gateway's or the import system's; "" where that leaves nothing to show."""
    report: TracebackException | None
    report = whole = TracebackException.from_exception(error)
    while report is not None:
        report.stack[:] = [frame for frame in report.stack if _is_own(frame.filename)]
        report = report.__cause__ or (None if report.__suppress_context__ else report.__context__)
    if not whole.stack and not isinstance(error, SyntaxError):
        return ""
    return "".join(whole.format()).rstrip()


def describe_fault(error: BaseException) -> str:
    """The same, and never nothing."""
    return describe_error(error) or "".join(format_exception_only(type(error), error)).rstrip()


def _is_own(file_name: str) -> bool:
    return file_name != importlib.__file__ and not file_name.startswith((_PACKAGE, "<frozen "))
