"""The exit of a worker's process, which code of apps cannot delay without bounds.

Does what the interpreter does at exit, but waits for threads of apps at most ``THREAD_SECONDS``,
and for their exit handlers at most ``HANDLER_SECONDS``. Source: the documentation of ``threading``
and ``atexit``.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import sys
import threading
import time
from typing import Any

from gateway.logs import lifecycle

THREAD_SECONDS = 0.5
HANDLER_SECONDS = 2.0
LOOK_SECONDS = 0.01
MAX_NAMES = 10


def end_apps(crash_descriptor: int) -> None:
    """Wait for threads of apps, log those that are still running, and call the exit handlers. If a
    handler does not return, its stack is written to ``crash_descriptor``, and the process exits."""
    _let_pools_end()
    ends = time.monotonic() + THREAD_SECONDS
    while (left := _find_threads()) and time.monotonic() < ends:
        time.sleep(LOOK_SECONDS)
    if left:
        names = ", ".join(thread.name for thread in left[:MAX_NAMES])
        more = f" and {len(left) - MAX_NAMES} more" if len(left) > MAX_NAMES else ""
        lifecycle.warning(
            "this worker exits while threads that apps have started are still running: %s%s",
            *(names, more),
        )
    faulthandler.dump_traceback_later(HANDLER_SECONDS, exit=True, file=crash_descriptor)
    with contextlib.suppress(BaseException):  # atexit has printed it
        atexit._run_exitfuncs()
    faulthandler.cancel_dump_traceback_later()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # an app may have replaced them
            stream.flush()


def _find_threads() -> list[threading.Thread]:
    """The threads that the interpreter would wait for."""
    here = (threading.main_thread(), threading.current_thread())
    return [t for t in threading.enumerate() if not t.daemon and t not in here]


def _let_pools_end() -> None:
    """End idle threads of ``concurrent.futures``, as its own exit handler does, which then waits
    for the others without a limit."""
    module: Any = sys.modules.get("concurrent.futures.thread")
    with contextlib.suppress(AttributeError):  # internals of another Python version
        module._shutdown = True
        for queue in list(module._threads_queues.values()):
            queue.put(None)
