"""``workers:``, a number or ``auto``.

Knows nothing of processes. Source: sched_getaffinity(2); cgroup v2's cpu.max, where a container's
CPU quota stands.
"""

import os
import re
from pathlib import Path

from gateway.config.text.problems import BadValueError

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
WORKERS_PATTERN = r"auto|[1-9][0-9]{0,8}"


def parse_workers(text: str) -> int:
    """How many. Raises BadValueError."""
    if text == "auto":
        # One worker alone could not serve while it is being replaced.
        return max(2, usable_cores())
    if re.fullmatch(f"0|{WORKERS_PATTERN}", text):
        return int(text)
    raise BadValueError


def usable_cores() -> int:
    """How many cores the scheduler lets this process use."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # Linux alone has it
        cores = os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text().split()
        return min(cores, -(-int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup v2, or "max", which is no quota
        return cores
