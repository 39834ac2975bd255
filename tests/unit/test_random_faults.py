"""Starts with one random fault each: every other mount answers within twice the time of a start
without a fault, and the faulty one says why it does not, or serves in the end.

``PROOF_FAULTS`` is how many starts there are, ``PROOF_SEED`` what they follow from; `make proof`
has 200. Times are compared with starts without a fault in the same run, before and after.
"""

import os
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from running import Running, wait_until

from gateway.supervisor.retries import SLOW_SECONDS

FAULTS = int(os.environ.get("PROOF_FAULTS", "12"))
SEED = int(os.environ.get("PROOF_SEED", "0")) or random.randrange(1, 1 << 32)
# A few starts do not tell how long one takes on a machine that does other things too.
IS_PROOF = FAULTS >= 100
FACTOR, SLACK_SECONDS = (2.0, SLOW_SECONDS + 1.0) if IS_PROOF else (4.0, 10.0)
# after so many, a start without a fault is timed again
ROUND = 10
MOUNTS = 6
SECONDS = 120.0

GOOD = """
import time
time.sleep(0.05)
def app(environ, start_response):
    status = "500 Ill" if environ["PATH_INFO"] == "/health" else "200 OK"
    start_response(status, [])
    return [b"good"]
"""


@dataclass(frozen=True)
class Fault:
    """``code`` goes before the app; ``words`` are what status says, one of them, and whether it
    ``serves`` in the end."""

    code: str
    words: tuple[str, ...]
    serves: bool = False
    options: str = ""


WAITING = ("has not loaded so far", "has been loading it")
KINDS = {
    "exit": Fault("import os; os._exit(3)", ("exited with 3",)),
    "kill": Fault("import os; os.kill(os.getpid(), 9)", ("ended by SIGKILL",)),
    "segfault": Fault("import ctypes; ctypes.string_at(0)", ("ended by SIGSEGV",)),
    "hang": Fault("import time; time.sleep(10_000)", WAITING),
    "loop": Fault("while True: pass", WAITING),
    "exception": Fault("raise ValueError('broken')", ("ValueError: broken",)),
    "SystemExit": Fault("raise SystemExit(4)", ("sys.exit(4)",)),
    "package": Fault("import nowhere_to_be_found", ("nowhere_to_be_found",)),
    "slow": Fault("import time; time.sleep(3)", (), serves=True),
    "probe": Fault("", ("/health",), serves=True, options=", probe: /health"),
}


def is_answered(gateway: Running, name: str, status: bytes) -> bool:
    try:
        return gateway.ask(f"/{name}").startswith(b"HTTP/1.1 " + status)
    except OSError:
        return False


def find_mount(gateway: Running, name: str) -> dict[str, Any]:
    mounts = gateway.control("status")["mounts"]
    found: dict[str, Any] = next(each for each in mounts if each["mount"] == f"/{name}")
    return found


class Start:
    """One start with ``kind`` at a random mount, "" for none; ``took`` is how long it was until
    every other one had answered."""

    def __init__(self, folder: Path, kind: str, chance: random.Random) -> None:
        folder.mkdir()
        self.kind = kind
        self.fault = KINDS[kind] if kind else None
        names = [f"m{number}" for number in range(MOUNTS)]
        self.faulty = chance.choice(names) if kind else ""
        self.well = [name for name in names if name != self.faulty]
        pool = chance.choice(["", "a"])
        workers = chance.choice([1, 2])
        server = f"  reload_on_edit: false\n  workers: {workers}\n"
        server += f"pools: {{a: {{workers: {workers}}}}}\n" if pool else ""
        self.what = f"{kind or 'no fault'} at {self.faulty}, pool {pool}, {workers} workers"
        began = time.monotonic()
        self.gateway = Running(
            folder,
            "".join(self._write(name, pool) for name in names),
            server,
            **{name: self._code(name) for name in names},
        )
        for name in self.well:
            wait_until(
                lambda name=name: is_answered(self.gateway, name, b"200"), self.what, SECONDS
            )
        self.took = time.monotonic() - began

    def _write(self, name: str, pool: str) -> str:
        options = f", pool: {pool}" if pool else ""
        options += self.fault.options if self.fault and name == self.faulty else ""
        return f"  /{name}: {{app: '{name}:app'{options}}}\n"

    def _code(self, name: str) -> str:
        return (self.fault.code if self.fault and name == self.faulty else "") + "\n" + GOOD

    def check(self) -> None:
        """The faulty one says why."""
        if self.fault is None:
            return
        status = b"200" if self.fault.serves else b"503"
        wait_until(
            lambda: is_answered(self.gateway, self.faulty, status), f"{self.what}: its own", SECONDS
        )
        if words := self.fault.words:
            wait_until(
                lambda: any(
                    each in find_mount(self.gateway, self.faulty)["error"] for each in words
                ),
                f"{self.what}: status says why",
                SECONDS,
            )
            place = find_mount(self.gateway, self.faulty)["place"]
            assert f"{place}: mounts./{self.faulty}: " in self.gateway.log_text, self.what
        else:
            wait_until(lambda: not find_mount(self.gateway, self.faulty)["error"], self.what)


def test_one_fault_at_a_start_keeps_no_other_mount_waiting(tmp_path: Path) -> None:
    print(f"PROOF_SEED={SEED} PROOF_FAULTS={FAULTS}")
    chance = random.Random(SEED)
    kinds = [
        kind for _ in range(0, FAULTS, len(KINDS)) for kind in chance.sample([*KINDS], len(KINDS))
    ]
    kinds = kinds[:FAULTS]
    worst = 0.0
    for first in range(0, FAULTS, ROUND):
        took: list[tuple[float, str]] = []
        healthy = []
        for number, kind in enumerate(["", *kinds[first : first + ROUND], ""], first):
            start = Start(tmp_path / f"{first}-{number}", kind, chance)
            try:
                start.check()
            except BaseException:
                print(start.gateway.log_text)
                raise
            finally:
                start.gateway.end()
            (took if kind else healthy).append((start.took, start.what))
        whole = max(healthy)[0]
        for seconds, what in took:
            worst = max(worst, (seconds - SLOW_SECONDS) / whole)
            longest = FACTOR * whole + SLACK_SECONDS
            assert seconds <= longest, f"{what}: {seconds:.2f} s, without a fault {whole:.2f} s"
    print(f"the slowest start took {worst:.2f} times as long as one without a fault, plus 1 s")
