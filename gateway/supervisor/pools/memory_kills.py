"""Whether the kernel has killed processes because memory had run out.

Source: cgroups(7), the kernel's cgroup-v1/memory and cgroup-v2 documents (``oom_kill`` in
``memory.oom_control`` and ``memory.events``), proc_vmstat(5).
"""

import re
import time
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
# how long a kill is recent: a large process takes a while to end
RECENT_SECONDS = 5.0
_COUNT = re.compile(r"^oom_kill ([0-9]+)$", re.MULTILINE)


class MemoryKills:
    """Counts the kills in this process's control group, or on the machine if it has none."""

    def __init__(self) -> None:
        self._file = find_counter()
        self._count = self._read()
        self._last = float("-inf")

    def look(self) -> None:
        """Read the count. To be called twice a second, so that an old kill is not mistaken for a
        new one."""
        count = self._read()
        if count > self._count:
            self._last = time.monotonic()
        self._count = count

    def is_recent(self) -> bool:
        """A process was killed within RECENT_SECONDS."""
        self.look()
        return time.monotonic() - self._last < RECENT_SECONDS

    def _read(self) -> int:
        try:
            found = _COUNT.search(self._file.read_text())
        except OSError:
            return 0
        return int(found[1]) if found else 0


def find_counter() -> Path:
    """The file with the count."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    candidates = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            # in a container the path is the host's, and the container's own group is the root
            for place in (path.lstrip("/"), ""):
                candidates.append(CGROUPS / "memory" / place / "memory.oom_control")
        elif not controllers:
            candidates.append(CGROUPS / path.lstrip("/") / "memory.events")
    for candidate in candidates:
        try:
            if _COUNT.search(candidate.read_text()):
                return candidate
        except OSError:
            continue
    return Path("/proc/vmstat")
