"""The process that builds one environment: it reads an order from stdin, and writes reports to
stdout, both in JSON lines.

It runs as the pool's user, since building runs code of packages, and in its own process group,
which can be killed as a whole. It passes the environment's locks to the supervisor as open files.
"""

import json
import os
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gateway.environments.cache import Cache
from gateway.errors import BuildError

# nice(2): a compiler can wait, requests cannot
NICENESS = 10


def say(**message: object) -> None:
    """Report to the supervisor."""
    print(json.dumps(message), flush=True)  # noqa: T201  reports go to stdout


def main() -> None:
    """Carry out the order."""
    order = json.loads(sys.stdin.readline())
    try:
        cache = Cache(Path(order["root"]), lambda line: say(progress=line), wait_for_turn)
        if order["collects"]:
            say(removed=cache.collect())
        else:
            provide(cache, order)
    except BuildError as error:
        say(error=str(error))
    except OSError as error:
        say(error=f"{error.filename}: {error.strerror}")


def wait_for_turn() -> None:
    """Wait until the supervisor lets this process build, then lower its priority. Raises BuildError
    if the supervisor has exited."""
    say(waits=True)
    if not sys.stdin.readline():
        raise BuildError("the gateway has stopped")
    os.nice(NICENESS)


def provide(cache: Cache, order: dict[str, Any]) -> None:
    """Find or build the environment of the order, and report it. Raises BuildError."""
    found = cache.find_or_build(
        order["python"],
        order["requirements"],
        Path(order["directory"]),
        for_workers=order["for_workers"],
    )
    if cache.held:
        with socket.socket(fileno=os.dup(order["handover"])) as handover:
            socket.send_fds(handover, [b"."], cache.held)
    say(environment=asdict(found))


if __name__ == "__main__":
    main()
