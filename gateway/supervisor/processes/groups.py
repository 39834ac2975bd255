"""The process groups of commands, which must end with the supervisor even if that is killed. A
process of its own, the group killer, sees to that; it is started before the first group.

The list of groups is in memory that both processes share: it is complete whenever the supervisor
ends, and for a group killer that replaces another.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
from pathlib import Path

from gateway.logs import lifecycle
from gateway.supervisor.backoff import double
from gateway.supervisor.processes.launch import select_variables

KILLER = Path(__file__).with_name("group_killer.py")
# of a line of the list, so that each is written in one piece
LINE_BYTES = 32
# the pause before a group killer that has ended is replaced
FIRST_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 60.0
# for the group killer to end by itself
CLOSE_SECONDS = 5.0


class Groups:
    """The groups of one supervisor. Call ``keep_watch`` before ``add``, and ``remove`` before the
    group's leader is reaped: after that its number may be another group's."""

    def __init__(self) -> None:
        self._places: list[int] = []  # the group at each place of the list, 0 for none
        self._list = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._ends = 0
        self._is_closed = False

    def keep_watch(self) -> None:
        """Start the group killer unless it runs. Raises OSError."""
        if self._process is not None:
            return
        if self._list < 0:
            self._list = os.memfd_create("gateway-groups")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(KILLER), str(self._list)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(self._list,),
            cwd="/",
            env=select_variables(()),
            start_new_session=True,
        )

    def add(self, group: int, grace_seconds: float) -> None:
        """Have this group ended when the supervisor ends: by SIGTERM, and after ``grace_seconds``
        by SIGKILL."""
        if 0 not in self._places:
            self._places.append(0)
        place = self._places.index(0)
        self._places[place] = group
        self._write(place, f"{group} {grace_seconds * 1000:.0f}")

    def remove(self, group: int) -> None:
        """The group has ended, or is about to; safe to call twice."""
        if group in self._places:
            place = self._places.index(group)
            self._places[place] = 0
            self._write(place, "")

    def _write(self, place: int, line: str) -> None:
        text = line.ljust(LINE_BYTES - 1) + "\n"
        os.pwrite(self._list, text.encode(), place * LINE_BYTES)

    def note_reaped(self, pid: int) -> None:
        """A process of no pool was reaped; if it was the group killer, start another."""
        if self._process is None or self._process.pid != pid or self._is_closed:
            return
        self._let_go(self._process)
        pause = double(FIRST_PAUSE_SECONDS, self._ends, MAX_PAUSE_SECONDS)
        self._ends += 1
        lifecycle.warning(
            "process %d, which ends commands if the gateway is killed, has ended; it is started "
            "again",
            pid,
        )
        asyncio.get_running_loop().call_later(pause, self._watch_again)

    def _watch_again(self) -> None:
        if not any(self._places) or self._is_closed:
            return  # the next ``keep_watch`` starts it
        try:
            self.keep_watch()
        except OSError:
            asyncio.get_running_loop().call_later(MAX_PAUSE_SECONDS, self._watch_again)

    def _let_go(self, process: "subprocess.Popen[bytes]") -> None:
        self._process, process.returncode = None, 0
        if process.stdin is not None:
            process.stdin.close()

    def close(self) -> None:
        """End the groups that are left, and the group killer. Waits CLOSE_SECONDS at most."""
        self._is_closed = True
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(CLOSE_SECONDS)
        if self._list >= 0:
            os.close(self._list)
            self._list = -1
