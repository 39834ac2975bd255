"""The process that builds one environment: an order on stdin, JSON lines of what happens on stdout.

Owns the form of both. A process of its own, since an installer's children are nobody's business in
the supervisor, and it can be ended whole.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from gateway.environments.cache import Cache
from gateway.errors import BuildError


def main() -> None:
    order = json.load(sys.stdin)

    def say(**message: object) -> None:
        print(json.dumps(message), flush=True)  # noqa: T201  its way to report

    try:
        cache = Cache(Path(order["root"]), lambda line: say(progress=line))
        found = cache.find_or_build(
            order["python"],
            order["requirements"],
            Path(order["directory"]),
            for_workers=order["for_workers"],
        )
    except BuildError as error:
        say(error=str(error))
    else:
        say(environment=asdict(found))


if __name__ == "__main__":
    main()
