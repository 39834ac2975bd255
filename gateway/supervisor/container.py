"""Whether a container ends with this process, and what whoever stops it has to know then.

Refuses to know which engine runs the container: from within, its restart policy cannot be seen.
"""

import os
from pathlib import Path

RESTARTED = (
    "the container ends with the gateway, and is started again if it has a restart policy, as in "
    'docker-compose.yml: "docker compose stop gateway" stops it for good'
)
# as process 1: what `docker run --init` and images put before their own program
INITS = {"catatonit", "docker-init", "dumb-init", "tini"}


def leads_container() -> bool:
    """It is process 1, or the process of an init that only passes signals on."""
    if os.getpid() == 1:
        return True
    try:
        return os.getppid() == 1 and Path("/proc/1/comm").read_text().strip() in INITS
    except OSError:
        return False
