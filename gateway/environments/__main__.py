"""The process that builds one environment: an order on stdin, JSON lines of what happens on stdout.

Owns the form of both. It runs as the pool's user: what is built or asked there can do no more than
that user. A process of its own, since an installer's children are nobody's business in the
supervisor, and it can be ended whole. What it has found it hands over as open files, whose locks
then are the supervisor's.
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
    print(json.dumps(message), flush=True)  # noqa: T201  its way to report


def main() -> None:
    """Do what the order asks for."""
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
    """Until the supervisor lets this process build, which then gives way to those that serve.
    Raises BuildError where the supervisor has gone."""
    say(waits=True)
    if not sys.stdin.readline():
        raise BuildError("the gateway has ended")
    os.nice(NICENESS)


def provide(cache: Cache, order: dict[str, Any]) -> None:
    """Report the environment that is asked for, and hand it over. Raises BuildError."""
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
