"""What a server and its children use, read from /proc. A server is known by its session id.

The scheduler's own count (schedstat, nanoseconds) is read, not the clock ticks of stat: it holds
user and system time of a thread.
"""

from pathlib import Path

PROC = Path("/proc")


def pids(session: int) -> list[int]:
    """The live processes of a session."""
    found = []
    for stat in PROC.glob("[0-9]*/stat"):
        try:
            # the name in parentheses may hold any bytes; after it: state, ppid, pgrp, session
            fields = stat.read_text("latin-1").rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def cpu_seconds(session: int) -> float:
    """User and system time of all live threads."""
    nanoseconds = 0
    for pid in pids(session):
        for schedstat in (PROC / str(pid) / "task").glob("*/schedstat"):
            try:
                nanoseconds += int(schedstat.read_text().split()[0])
            except OSError:
                continue
    return nanoseconds / 1e9


def memory_bytes(session: int) -> int:
    """Proportional set size: shared pages are counted once, divided among those who share them."""
    return sum(_kibibytes(pid, "smaps_rollup", "Pss:") for pid in pids(session))


def reset_peak(session: int) -> int:
    """Begin a new peak of resident memory; what is resident now, in bytes."""
    now = 0
    for pid in pids(session):
        (PROC / str(pid) / "clear_refs").write_text("5")
        now += _kibibytes(pid, "status", "VmRSS:")
    return now


def peak_bytes(session: int) -> int:
    """The sum of each process's peak of resident memory since ``reset_peak``."""
    return sum(_kibibytes(pid, "status", "VmHWM:") for pid in pids(session))


def _kibibytes(pid: int, name: str, key: str) -> int:
    try:
        lines = (PROC / str(pid) / name).read_text("latin-1").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), 0)
