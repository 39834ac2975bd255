"""Starts with one random fault each: every other mount answers within twice the time of a start
without a fault, and the faulty one says why it does not, or serves in the end.

``PROOF_FAULTS`` is how many starts there are, ``PROOF_SEED`` what they follow from; `make proof`
has 200. Times are compared with starts without a fault in the same run, before and after.
"""

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from running import Running, wait_until

from gateway.supervisor.generations.retries import SLOW_SECONDS

pytestmark = pytest.mark.alone

FAULTS = int(os.environ.get("PROOF_FAULTS", "12"))
SEED = int(os.environ.get("PROOF_SEED", "0")) or random.randrange(1, 1 << 32)
# A few starts do not tell how long one takes on a machine that does other things too.
IS_PROOF = FAULTS >= 100
FACTOR, SLACK_SECONDS = (2.0, SLOW_SECONDS + 0.5) if IS_PROOF else (4.0, 10.0)
# after so many, a start without a fault is timed again
ROUND = 10
NAMES = [f"m{number}" for number in range(6)]
# before a start that took too long fails the test
TIMES = 3
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
    "kill": Fault("import os; os.kill(os.getpid(), 9)", ("killed by SIGKILL",)),
    "segfault": Fault("import ctypes; ctypes.string_at(0)", ("killed by SIGSEGV",)),
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


@dataclass(frozen=True)
class Plan:
    """A start with ``kind`` at the mount ``faulty``; both are "" for none."""

    kind: str
    faulty: str
    pool: str
    workers: int


class Start:
    """One start; ``took`` is how long it was until every mount but the faulty one had answered."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        folder.mkdir()
        self.plan = plan
        self.fault = KINDS[plan.kind] if plan.kind else None
        server = f"  reload_on_edit: false\n  workers: {plan.workers}\n"
        server += f"pools: {{a: {{workers: {plan.workers}}}}}\n" if plan.pool else ""
        began = time.monotonic()
        self.gateway = Running(
            folder,
            "".join(self._write(name) for name in NAMES),
            server,
            **{name: self._code(name) for name in NAMES},
        )
        for name in NAMES:
            if name != plan.faulty:
                self._wait(lambda name=name: is_answered(self.gateway, name, b"200"), name)
        self.took = time.monotonic() - began

    def _write(self, name: str) -> str:
        options = f", pool: {self.plan.pool}" if self.plan.pool else ""
        options += self.fault.options if self.fault and name == self.plan.faulty else ""
        return f"  /{name}: {{app: '{name}:app'{options}}}\n"

    def _code(self, name: str) -> str:
        return (self.fault.code if self.fault and name == self.plan.faulty else "") + "\n" + GOOD

    def _wait(self, condition: Callable[[], Any], what: str) -> None:
        wait_until(condition, f"{self.plan}: {what}", SECONDS)

    def check(self) -> None:
        """The faulty one says why, or serves in the end."""
        if self.fault is None:
            return
        name, words = self.plan.faulty, self.fault.words
        status = b"200" if self.fault.serves else b"503"
        self._wait(lambda: is_answered(self.gateway, name, status), "the faulty one")
        told = lambda: find_mount(self.gateway, name)["error"]  # noqa: E731
        if not words:
            self._wait(lambda: not told(), "it has no error any more")
            return
        self._wait(lambda: any(each in told() for each in words), "status says why")
        place = find_mount(self.gateway, name)["place"]
        assert f"{place}: mounts./{name}: " in self.gateway.log_text, self.plan


class Starts:
    """Each in a folder of its own below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count()

    def run(self, plan: Plan) -> float:
        """How long the others took."""
        start = Start(self._folder / str(next(self._numbers)), plan)
        try:
            start.check()
        except BaseException:
            print(start.gateway.log_text)
            raise
        finally:
            start.gateway.end()
        return start.took

    def judge(self, plan: Plan, took: float, whole: float) -> float:
        """How many times longer than a start without a fault, ``whole``, it took, where a second
        passes before anything counts as slow. Fails where that is too long each time; once may be
        the machine's fault."""
        for _ in range(TIMES):
            if took <= FACTOR * whole + SLACK_SECONDS:
                return (took - SLOW_SECONDS) / whole
            print(f"{plan}: {took:.2f} s, without a fault {whole:.2f} s; once more")
            took, whole = self.run(plan), self.run(replace(plan, kind="", faulty=""))
        raise AssertionError(f"{plan}: {took:.2f} s, without a fault {whole:.2f} s")


def choose(kind: str, chance: random.Random) -> Plan:
    faulty = chance.choice(NAMES) if kind else ""
    return Plan(kind, faulty, chance.choice(["", "a"]), chance.choice([1, 2]))


def test_one_fault_at_a_start_keeps_no_other_mount_waiting(tmp_path: Path) -> None:
    print(f"PROOF_SEED={SEED} PROOF_FAULTS={FAULTS}")
    chance, starts = random.Random(SEED), Starts(tmp_path)
    kinds = [
        kind for _ in range(0, FAULTS, len(KINDS)) for kind in chance.sample([*KINDS], len(KINDS))
    ]
    ratios = []
    for first in range(0, FAULTS, ROUND):
        plans = [choose(kind, chance) for kind in kinds[first : min(first + ROUND, FAULTS)]]
        whole = starts.run(choose("", chance))
        took = [starts.run(plan) for plan in plans]
        whole = max(whole, starts.run(choose("", chance)))
        ratios += [starts.judge(p, seconds, whole) for p, seconds in zip(plans, took, strict=True)]
        print(f"{len(ratios)} starts: at most {max(ratios):.2f} times, plus 1 s", flush=True)
    print(f"others took at most {max(ratios):.2f} times as long as without a fault, plus 1 s;")
    print(f"half of them at most {sorted(ratios)[len(ratios) // 2]:.2f} times")
