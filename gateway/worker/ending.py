"""The end of a worker's process: what apps have left running does not keep it.

Does what the interpreter does at its exit, but waits for threads of apps no longer than
``THREAD_SECONDS``, and for their exit handlers no longer than ``HANDLER_SECONDS``. Refuses to know
what a worker is. Source: the documentation of ``threading`` and ``atexit``.
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
MOST_NAMES = 10


def end_apps(crash_descriptor: int) -> None:
    """Wait for their threads, say which go on all the same, and call their exit handlers. A handler
    that does not come back ends the process, and its stack is written to ``crash_descriptor``."""
    _let_pools_end()
    ends = time.monotonic() + THREAD_SECONDS
    while (left := _find_threads()) and time.monotonic() < ends:
        time.sleep(LOOK_SECONDS)
    if left:
        names = ", ".join(thread.name for thread in left[:MOST_NAMES])
        more = f" and {len(left) - MOST_NAMES} more" if len(left) > MOST_NAMES else ""
        lifecycle.warning(
            "this worker ends although threads that apps have started are still running: %s%s",
            *(names, more),
        )
    faulthandler.dump_traceback_later(HANDLER_SECONDS, exit=True, file=crash_descriptor)
    with contextlib.suppress(BaseException):  # atexit has told of it
        atexit._run_exitfuncs()
    faulthandler.cancel_dump_traceback_later()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # an app may have put anything there
            stream.flush()


def _find_threads() -> list[threading.Thread]:
    """Those for which the interpreter would wait."""
    here = (threading.main_thread(), threading.current_thread())
    return [t for t in threading.enumerate() if not t.daemon and t not in here]


def _let_pools_end() -> None:
    """Have threads of ``concurrent.futures`` that wait for work end, as its own exit handler does;
    that one waits for the others without a limit."""
    module: Any = sys.modules.get("concurrent.futures.thread")
    with contextlib.suppress(AttributeError):  # where it is made in another way
        module._shutdown = True
        for queue in list(module._threads_queues.values()):
            queue.put(None)
