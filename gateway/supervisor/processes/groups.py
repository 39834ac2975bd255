"""The process groups that are to end with this process, even where it is killed: another process
sees to that, which is started before the first of them.

Refuses to know what runs in a group. The list is in memory that both have, so that it holds in
whatever moment this process ends, and whoever takes the other's place has it at once.
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
# of a group in the list, so that each is written in one piece
LINE_BYTES = 32
# before another is started in the place of one that was ended
FIRST_PAUSE_SECONDS = 0.1
MOST_PAUSE_SECONDS = 60.0
# for it to see that nothing is left to be done
CLOSE_SECONDS = 5.0


class Groups:
    """Those of one supervisor. ``keep_watch`` comes before ``add``; what is not there any more has
    to be removed before its leader is reaped, since its number may be another's then."""

    def __init__(self) -> None:
        self._places: list[int] = []  # the group at each place of the list, 0 for none
        self._list = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._ends = 0
        self._is_closed = False

    def keep_watch(self) -> None:
        """Have the process that ends them run. Raises OSError."""
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
        """End it where this process ends: by SIGTERM, and after ``grace_seconds`` by SIGKILL."""
        if 0 not in self._places:
            self._places.append(0)
        place = self._places.index(0)
        self._places[place] = group
        self._write(place, f"{group} {grace_seconds * 1000:.0f}")

    def remove(self, group: int) -> None:
        """It has ended, or is about to; safe to call twice."""
        if group in self._places:
            place = self._places.index(group)
            self._places[place] = 0
            self._write(place, "")

    def _write(self, place: int, line: str) -> None:
        text = line.ljust(LINE_BYTES - 1) + "\n"
        os.pwrite(self._list, text.encode(), place * LINE_BYTES)

    def note_reaped(self, pid: int) -> None:
        """A process has ended that is none of the pools': perhaps the one that watches."""
        if self._process is None or self._process.pid != pid or self._is_closed:
            return
        self._let_go(self._process)
        pause = double(FIRST_PAUSE_SECONDS, self._ends, MOST_PAUSE_SECONDS)
        self._ends += 1
        lifecycle.warning(
            "process %d, which ends commands where the gateway is killed, has ended; it is started "
            "again",
            pid,
        )
        asyncio.get_running_loop().call_later(pause, self._watch_again)

    def _watch_again(self) -> None:
        if not any(self._places) or self._is_closed:
            return  # it is started before the next group is
        try:
            self.keep_watch()
        except OSError:
            asyncio.get_running_loop().call_later(MOST_PAUSE_SECONDS, self._watch_again)

    def _let_go(self, process: "subprocess.Popen[bytes]") -> None:
        self._process, process.returncode = None, 0
        if process.stdin is not None:
            process.stdin.close()

    def close(self) -> None:
        """End what is left of them, and the process that does it. Waits for that, not for long."""
        self._is_closed = True
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(CLOSE_SECONDS)
        if self._list >= 0:
            os.close(self._list)
            self._list = -1
