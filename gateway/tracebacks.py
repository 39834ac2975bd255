"""Tracebacks of apps without the gateway's own frames. Source: the traceback module."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from traceback import TracebackException, format_exception_only

# a message may contain all that an app has read; it goes into the log and into ``gateway status``
MAX_CHARACTERS = 16_000
_PACKAGE = f"{Path(__file__).parent}{os.sep}"


def describe_error(error: BaseException) -> str:
    """The traceback of an app's ``error`` and its causes, without frames of the gateway and of the
    import system; "" if no frame is left."""
    report: TracebackException | None
    report = whole = TracebackException.from_exception(error)
    while report is not None:
        report.stack[:] = [frame for frame in report.stack if _is_own(frame.filename)]
        report = report.__cause__ or (None if report.__suppress_context__ else report.__context__)
    if not whole.stack and not isinstance(error, SyntaxError):
        return ""
    return cut_middle("".join(whole.format()).rstrip(), MAX_CHARACTERS)


def cut_middle(text: str, most: int) -> str:
    """``text`` without its middle, if it is longer than ``most`` characters."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def describe_fault(error: BaseException) -> str:
    """As ``describe_error``; the message alone if no frame is left."""
    message = "".join(format_exception_only(type(error), error)).rstrip()
    return describe_error(error) or cut_middle(message, MAX_CHARACTERS)


def _is_own(file_name: str) -> bool:
    return file_name != importlib.__file__ and not file_name.startswith((_PACKAGE, "<frozen "))
