"""What is shown of an app's exception: the lines that are the app's own.

Refuses to know who is shown them. Source: the traceback module.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from traceback import TracebackException, format_exception_only

# an exception may carry all that an app has read; its report goes through the log and `status`
MOST_CHARACTERS = 16_000
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
    return cut_middle("".join(whole.format()).rstrip(), MOST_CHARACTERS)


def cut_middle(text: str, most: int) -> str:
    """``text`` without its middle where it is longer than ``most``."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def describe_fault(error: BaseException) -> str:
    """The same, and never nothing."""
    told = "".join(format_exception_only(type(error), error)).rstrip()
    return describe_error(error) or cut_middle(told, MOST_CHARACTERS)


def _is_own(file_name: str) -> bool:
    return file_name != importlib.__file__ and not file_name.startswith((_PACKAGE, "<frozen "))
