"""Non-blocking writes to a log's descriptor.

Lines for which the pipe has no room are queued, up to a bound, and written by a native thread;
further lines are dropped and counted. Owns how each kind of file is written to without blocking.
Source: pipe(7), open(2), proc_pid_fd(5), pwritev2(2).
"""

from __future__ import annotations

import os
import stat
import sys
from _queue import Empty, SimpleQueue
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from time import monotonic
from typing import Any

# writes to a pipe are atomic up to PIPE_BUF (4096 on Linux): workers share stdout and stderr
WHOLE_WRITE_BYTES = 4096
# maximum size of the queue
MAX_BYTES = 1024 * 1024
# how long an exiting process waits for its queues to be written
FINISH_SECONDS = 0.5
_LOOK_SECONDS = 0.002


class Outlet:
    """``put`` writes to an open ``descriptor``, from any thread.

    ``dropped`` counts the lines that were not written because the log was not read in time. Once
    the queue has been written, ``on_room`` is called with the number not yet reported, in a native
    thread. The flags of ``descriptor`` are not changed: other processes share its open file
    description. ``crash_descriptor`` is for writes of a crashing process; they block only if they
    must.
    """

    def __init__(self, descriptor: int) -> None:
        self.dropped = 0
        self.on_room: Callable[[int], object] = id
        self._reported = 0
        self.descriptor = descriptor
        self._try, self.crash_descriptor = _find_write(descriptor)
        self.sleep = _find_native("time", "sleep")
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = _find_native("_thread", "RLock")()  # a signal handler may print
        self._queue: SimpleQueue[bytes] = SimpleQueue()
        # bytes queued and written; each is changed by one side only
        self._kept = self._taken = 0
        # whether the start of a line is queued and its end still to come; whether its end must be
        # dropped
        self._is_begun = self._is_cut = False
        self._has_thread = False

    def put(self, data: bytes) -> None:
        """Write lines; up to WHOLE_WRITE_BYTES of one call are written atomically."""
        if self._kept == self._taken and not self._is_cut:
            try:
                sent = self._try(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                return  # the reader has closed the pipe
            if sent == len(data):
                return
            data = data[sent:]
        if self._process != os.getpid():
            self._begin()  # an app has forked: the thread is gone, the lock may be held
        with self._lock:
            self._keep(data)

    def _keep(self, data: bytes) -> None:
        if self._is_cut:
            _, end, data = data.partition(b"\n")
            self._is_cut = not end
            if not data:
                return
        if self._kept - self._taken > MAX_BYTES:
            self._is_cut = not data.endswith(b"\n")
            self.dropped += data.count(b"\n") + self._is_cut
            if not self._is_begun:
                return
            data = b"\n"
        self._is_begun = not data.endswith(b"\n")
        self._kept += len(data)
        self._queue.put(data)
        if not self._has_thread:
            self._has_thread = True
            _find_native("_thread", "start_new_thread")(self._run, ())

    def _run(self) -> None:
        while True:
            data = self._queue.get()
            size = len(data)
            while data:
                data = data[self._write(data[:WHOLE_WRITE_BYTES]) :]
            self._taken += size
            if self.dropped != self._reported and self.is_empty:
                dropped, self._reported = self.dropped - self._reported, self.dropped
                self.on_room(dropped)

    def _write(self, data: bytes) -> int:
        while True:
            try:
                return os.write(self.descriptor, data)
            except BlockingIOError:
                self.sleep(_LOOK_SECONDS)  # another process has set O_NONBLOCK
            except OSError:
                return len(data)

    @property
    def is_empty(self) -> bool:
        """Whether the queue has been written."""
        return self._kept == self._taken

    def give_up(self) -> None:
        """Count what is still queued as dropped."""
        with suppress(Empty):
            while True:
                self.dropped += self._queue.get_nowait().count(b"\n")


def finish(*outlets: Outlet) -> None:
    """Wait at most FINISH_SECONDS for the queues to be written; the rest is dropped."""
    ends = monotonic() + FINISH_SECONDS
    while not all(outlet.is_empty for outlet in outlets) and monotonic() < ends:
        outlets[0].sleep(_LOOK_SECONDS)
    for outlet in outlets:
        outlet.give_up()


def _find_native(module: str, name: str) -> Any:
    """The original of a function that gevent may have patched."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey.get_original(module, name) if monkey else getattr(import_module(module), name)


def _find_write(descriptor: int) -> tuple[Callable[[bytes], int], int]:
    """A function that writes at once or raises BlockingIOError, and the descriptor that a crashing
    process writes to."""
    try:
        kind = os.fstat(descriptor).st_mode
    except OSError:
        return partial(os.write, descriptor), descriptor  # raises EBADF
    if stat.S_ISREG(kind) or (stat.S_ISCHR(kind) and not os.isatty(descriptor)):
        return partial(os.write, descriptor), descriptor  # writes to files do not block
    try:
        # another open file description of the same pipe or terminal, with flags of its own
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        opened = os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:  # another user's file, or a socket, such as journald's
        return partial(_write_nowait, descriptor), descriptor
    return partial(os.write, opened), opened


def _write_nowait(descriptor: int, data: bytes) -> int:
    try:
        return os.pwritev(descriptor, [data], -1, os.RWF_NOWAIT)
    except (BlockingIOError, BrokenPipeError):
        raise
    except OSError as error:  # not supported for this file: the thread writes
        raise BlockingIOError from error
