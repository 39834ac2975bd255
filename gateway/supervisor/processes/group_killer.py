"""The group killer, a process of its own: once its supervisor has ended, for whatever reason, it
ends the process groups that are left, by SIGTERM and, after a grace, by SIGKILL.

Runs without ``site`` and without the gateway's modules, to stay small. The end of its stdin says
that the supervisor has ended. Its argument is the descriptor of a file with a line for each group:
its number, and the grace in milliseconds; an empty line is no group. Source: pipe(7), kill(2).
"""

import os
import signal
import sys
import time

LOOK_SECONDS = 0.05
# signals that a terminal, a session or a service sends to all its processes: not meant for this one
IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def main(table: int) -> None:
    """Wait for the end of stdin, and then until all groups have ended."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 1):
        pass
    now, groups = time.monotonic(), {}
    for line in os.pread(table, os.fstat(table).st_size, 0).splitlines():
        if words := line.split():
            groups[int(words[0])] = now + int(words[1]) / 1000
    left = {group: end for group, end in groups.items() if is_sent(group, signal.SIGTERM)}
    while left:
        time.sleep(LOOK_SECONDS)
        left = {group: end for group, end in left.items() if is_to_stay(group, end)}


def is_to_stay(group: int, end: float) -> bool:
    """The group still exists, and has to be looked at again; it is killed if its time is over."""
    if time.monotonic() >= end:
        is_sent(group, signal.SIGKILL)
        return False
    return is_sent(group, 0)


def is_sent(group: int, number: int) -> bool:
    """Send a signal to a group; False if there is none that may be sent signals."""
    try:
        os.killpg(group, number)
    except OSError:  # also a process that has become another user's
        return False
    return True


if __name__ == "__main__":
    main(int(sys.argv[1]))
