"""Clients that ask without a pause and check every answer, while something else is tested.

Half of the requests are POSTs of random content, whose digest comes back; each client keeps its
connection for as long as it is allowed to.
"""

import hashlib
import itertools
import random
import threading
import time
from collections import Counter
from types import TracebackType

from stacks import Lab
from wire import Connection


class Load:
    """Runs from ``with`` to its end. ``faults`` are what was wrong, ``answered`` how many were
    right; ``longest`` is the longest time that an answer took, in seconds."""

    def __init__(self, lab: Lab, clients: int = 12) -> None:
        self._address = lab.address
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number,)) for number in range(clients)
        ]
        self.faults: list[str] = []
        self.answered: Counter[str] = Counter()
        self.longest = 0.0

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self, number: int) -> None:
        chance = random.Random(number)
        connection = Connection(self._address)
        try:
            for count in itertools.count():
                if self._stop.is_set():
                    break
                if not self._ask(connection, chance, f"{number}-{count}"):
                    connection.close()
                    connection = Connection(self._address)
        except (OSError, AssertionError, ValueError) as error:
            self.faults.append(f"client {number}: {error!r}")
        finally:
            connection.close()

    def _ask(self, connection: Connection, chance: random.Random, name: str) -> bool:
        """Ask one thing; whether the connection may be used again."""
        began = time.monotonic()
        if chance.random() < 0.5:
            answer = connection.ask(f"/echo/{name}")
            is_right = answer.status == 200 and answer.json()["path_info"] == f"/{name}"
            kind = "GET"
        else:
            content = chance.randbytes(chance.choice((1, 1000, 20_000, 100_000)))
            answer = connection.ask(f"/upload/{name.split('-')[0]}", "POST", content=content)
            digest = hashlib.sha256(content).hexdigest()
            expected = {"received": len(content), "sha256": digest}
            is_right = answer.status == 200 and answer.json() == expected
            kind = "POST"
        self.longest = max(self.longest, time.monotonic() - began)
        if is_right:
            self.answered[kind] += 1
        else:
            self.faults.append(f"{kind} {name}: {answer.status} {answer.content[:200]!r}")
        return answer["Connection"].lower() != "close"
