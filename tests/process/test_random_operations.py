"""Operations in any order, under load, against a model of what is to be served: edits good and bad,
reloads, rollbacks, kills, sleep and waking.

``PROOF_OPERATIONS`` is how many there are, ``PROOF_POOLS`` the number of pools, ``PROOF_SEED`` what
they follow from; `make proof` has 1,000 and 20. A failure names its seed.
"""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest
from bad_edits import APPS, TABLE, BadEdit
from running import Running, wait_until

pytestmark = pytest.mark.alone

Start = Callable[..., Running]
OPERATIONS = int(os.environ.get("PROOF_OPERATIONS", "15"))
POOLS = int(os.environ.get("PROOF_POOLS", "3"))
SEED = int(os.environ.get("PROOF_SEED", "0")) or random.randrange(1, 1 << 32)
CLIENTS = 6
# kills prove nothing about a mount before the third, and then it would be right to leave it out
KILLS_OF_A_POOL = 2
SETTLE_SECONDS = 120.0
# those end at once, and ask for no other set-up
BAD_EDITS = [e for e in (*TABLE, *APPS) if e.name not in {"hangs", "locked directory"}]
BROKEN = ["app = (", "raise RuntimeError('no database')", "import os; os._exit(3)", "app = 7"]
APP = """
import os

def app(environ, start_response):
    content = "{name} {version} " + os.environ.get("TAG", "")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [content.encode()]
"""
NOT_FOUND, MOVED = "404", "308"
MIRROR = (Path(__file__).parents[1] / "stack" / "apps" / "mirror.py").read_text()


@dataclass(frozen=True)
class Table:
    """What the files say: the code's version of each app, the tag of each pool's environment, and
    how many redirects there are."""

    versions: tuple[int, ...]
    tags: tuple[int, ...]
    redirects: int = 0

    def expect(self, path: str) -> str:
        """The answer at a path: of an app its content, else a status."""
        if path.startswith("/old-"):
            return MOVED if int(path.removeprefix("/old-")) < self.redirects else NOT_FOUND
        number = int(path.removeprefix("/m"))
        return f"m{number} {self.versions[number]} {self.tags[number] or ''}"

    def change(self, key: str, number: int, value: int) -> "Table":
        values = list(getattr(self, key))
        values[number] = value
        return Table(**{**self.__dict__, key: tuple(values)})


@dataclass
class Disturbance:
    """A worker is killed: of requests at ``paths``, "" is all, those may fail that were in flight
    or whose connection was there."""

    paths: str
    began: float
    ended: float = float("inf")

    def excuses(self, path: str, began: float, ended: float) -> bool:
        return path.startswith(self.paths) and began <= self.ended and self.began <= ended


@dataclass
class Model:
    """What may be answered, and since when; written by one thread, read by all."""

    table: Table
    before: Table
    since: list[tuple[float, frozenset[Table]]] = field(default_factory=list)
    disturbances: list[Disturbance] = field(default_factory=list)
    resting: set[str] = field(default_factory=set)

    def allow(self, *tables: Table) -> None:
        """From now on."""
        self.since.append((time.monotonic(), frozenset(tables)))

    def allowed(self, path: str, began: float, ended: float) -> set[str]:
        """All that was right at any moment between."""
        tables: set[Table] = set()
        for moment, right in reversed(list(self.since)):
            if moment <= ended:
                tables |= right
            if moment <= began:
                break
        return {table.expect(path) for table in tables}


class Visitors:
    """Clients that ask at random, without a pause, on connections that they keep."""

    def __init__(self, gateway: Running, model: Model, seed: int, paths: list[str]) -> None:
        self._gateway, self._model, self._seed, self._paths = gateway, model, seed, paths
        self.faults: list[str] = []
        self.excused = 0
        self.answered = 0
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._visit, args=(n,)) for n in range(CLIENTS)]

    def __enter__(self) -> "Visitors":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _visit(self, number: int) -> None:
        chance = random.Random(self._seed + number)
        connection, connected = None, 0.0
        while not self._is_over.wait(chance.random() / 100):
            path = chance.choice([p for p in self._paths if p not in self._model.resting])
            began = time.monotonic()
            if connection is None:
                connection, connected = Visit(self._gateway), began
            try:
                answer = connection.ask(path)
            except (OSError, HTTPException) as error:
                connection.close()
                connection, answer = None, repr(error)
            ended = time.monotonic()
            if answer in self._model.allowed(path, began, ended):
                self.answered += 1
            elif self._is_excused(path, answer, connected, began, ended):
                self.excused += 1
            else:
                self.faults.append(f"{path}: {answer!r} for {ended - began:.3f} s")
        if connection is not None:
            connection.close()

    def _is_excused(
        self, path: str, answer: str, connected: float, began: float, ended: float
    ) -> bool:
        """Whether it is due to a worker that was killed: a front one breaks a connection, any else
        only its requests."""
        for disturbance in list(self._model.disturbances):
            is_front = not disturbance.paths
            if disturbance.excuses(path, connected if is_front else began, ended) and (
                is_front or answer in ("502", "503")
            ):
                return True
        return False


class Visit(HTTPConnection):
    """One kept connection to a gateway's socket."""

    def __init__(self, gateway: Running) -> None:
        super().__init__("model", timeout=60)
        self._gateway = gateway

    def connect(self) -> None:
        self.sock = self._gateway.connect()
        self.sock.settimeout(60)

    def ask(self, path: str) -> str:
        """The content of a 200, else the status."""
        self.request("GET", path)
        with self.getresponse() as response:
            content = response.read().decode()
        return content if response.status == 200 else str(response.status)


class Site:
    """The gateway, its files, and every operation."""

    def __init__(self, start: Start, chance: random.Random) -> None:
        self.chance = chance
        self.table = Table((0,) * (POOLS + 1), (0,) * (POOLS + 1))
        self.model = Model(self.table, self.table)
        self.kills = dict.fromkeys(range(POOLS + 1), 0)
        self.numbers = iter(range(1, 1 << 30))
        self.paths = [f"/m{n}" for n in range(POOLS + 1)] + [f"/old-{n}" for n in range(3)]
        apps = {f"m{n}": APP.format(name=f"m{n}", version=0) for n in range(POOLS + 1)}
        server = "  workers: 2\n  access_log: off\n  keep_previous: 1s\npools:\n"
        for number in range(1, POOLS + 1):  # every other one sleeps when nobody asks
            idle = ", idle: 1s" if number % 2 else ""
            server += f"  p{number}: {{workers: 1{idle}}}\n"
        self.gateway = start(self.mounts(self.table), server, mirror=MIRROR, **apps)
        self.model.allow(self.table)

    def mounts(self, table: Table) -> str:
        """The table's text from ``mounts:`` on."""
        lines = ["  /m0: m0:app\n"]
        for number in range(1, POOLS + 1):
            tag = table.tags[number]
            tag_text = f", env: {{TAG: '{tag}'}}" if tag else ""
            lines.append(f"  /m{number}: {{app: 'm{number}:app', pool: p{number}{tag_text}}}\n")
        lines += [f"  /old-{number}: {{redirect: /m0}}\n" for number in range(table.redirects)]
        lines.append("  /mirror: mirror:app\n")
        return "".join(lines)

    def write_code(self, table: Table) -> None:
        for number, version in enumerate(table.versions):
            self.gateway.write(f"m{number}.py", APP.format(name=f"m{number}", version=version))

    def status(self) -> dict[str, Any]:
        return self.gateway.control("status")

    def check(self) -> None:
        """Each path once, but those of pools that are left alone."""
        for path in self.paths:
            if path not in self.model.resting:
                with closing(Visit(self.gateway)) as visit:
                    answer = visit.ask(path)
                assert answer == self.model.table.expect(path), path

    # --- what changes what is served ----------------------------------------------------------

    @contextmanager
    def turning_to(self, table: Table) -> Iterator[None]:
        """Meanwhile, what is served and ``table`` are both right."""
        self.model.allow(self.model.table, table)
        yield
        self.model.allow(table)
        self.model.before, self.model.table = self.model.table, table

    def reload(self) -> None:
        """By a command or a signal, of what the files say."""
        if self.chance.random() < 0.8:
            answer = self.gateway.control("reload")
            assert (answer["exit_code"], answer["messages"]) == (0, []), str(answer)
            return
        last = self.status()["last_reload"]
        self.gateway.process.send_signal(signal.SIGHUP)
        self.wait_for_reload(last, 0)

    def wait_for_reload(self, last: Any, exit_code: int) -> dict[str, Any]:
        """The next outcome after ``last``."""

        def find_next() -> Any:
            found = self.status()["last_reload"]
            return found if found != last else None

        outcome = wait_until(find_next, "the reload has ended", SETTLE_SECONDS)
        assert outcome["exit_code"] == exit_code, str(outcome)
        return dict(outcome)

    def edit_code(self) -> None:
        table = self.model.table
        for number in self.chance.sample(range(POOLS + 1), self.chance.randint(1, POOLS)):
            table = table.change("versions", number, next(self.numbers))
        with self.turning_to(table):
            self.write_code(table)
            self.reload()

    def edit_one(self) -> None:
        """The code of one mount, and a reload of that alone."""
        number = self.chance.randint(0, POOLS)
        table = self.model.table.change("versions", number, next(self.numbers))
        name = self.chance.choice([f"/m{number}", f"p{number}"]) if number else "/m0"
        with self.turning_to(table):
            self.write_code(table)
            answer = self.gateway.control("reload", names=[name])
            assert (answer["exit_code"], answer["messages"]) == (0, []), str(answer)

    def edit_table(self) -> None:
        """A save is enough: of what can be changed in place, or of a pool's environment."""
        table = self.model.table
        if self.chance.random() < 0.5:
            redirects = self.chance.choice([n for n in range(4) if n != table.redirects])
            table = Table(table.versions, table.tags, redirects)
        else:
            table = table.change("tags", self.chance.randint(1, POOLS), next(self.numbers))
        with self.turning_to(table):
            self.save(lambda: self.gateway.write_table(self.mounts(table)))

    def save(self, write: Callable[[], object]) -> None:
        """Write the table, and wait until that has been noticed; it is right."""
        last = self.status()["last_reload"]
        write()
        self.wait_for_reload(last, 0)

    def roll_back(self) -> None:
        """The code first, as a version control would; then the table, as it was before, too."""
        table, before = self.model.before, self.model.table
        with self.turning_to(table):
            self.write_code(table)
            answer = self.gateway.control("rollback")
            # where nothing has changed so far there may be nothing to be undone
            assert answer["exit_code"] == 0 or table == before, str(answer)
        self.check()
        if self.chance.random() < 0.3:
            with self.turning_to(before):
                self.write_code(before)
                answer = self.gateway.control("rollback")
                assert answer["exit_code"] == 0 or table == before, str(answer)
            self.check()
        # which is what is served already, and so no change
        self.save(lambda: self.gateway.write_table(self.mounts(self.model.table)))

    # --- what changes nothing -----------------------------------------------------------------

    def edit_badly(self) -> None:
        edit: BadEdit = self.chance.choice(BAD_EDITS)
        path, draft = self.gateway.folder / "mounts.yaml", self.gateway.folder / "draft.yaml"
        text, last = path.read_text(), self.status()["last_reload"]
        draft.write_text(text)
        place = edit.save(draft).replace(draft.name, path.name)
        draft.replace(path)  # at once, so that it is one save
        outcome = self.wait_for_reload(last, edit.exit_code)
        assert edit.told in "\n".join(outcome["messages"]), (edit, outcome)
        assert place in "\n".join(outcome["messages"]), (edit, outcome)
        self.check()
        draft.write_text(text)
        self.save(lambda: draft.replace(path))
        (self.gateway.folder / "added.py").unlink(missing_ok=True)

    def break_code(self) -> None:
        # not of a pool that sleeps: one that is woken serves what its file says then
        number = self.chance.randrange(0, POOLS + 1, 2)
        self.gateway.write(f"m{number}.py", self.chance.choice(BROKEN))
        answer = self.gateway.control("reload")
        assert answer["exit_code"] == 3, str(answer)
        assert f"/m{number}" in "\n".join(answer["messages"]), answer
        self.check()
        with self.turning_to(self.model.table):
            self.write_code(self.model.table)
            self.reload()

    # --- workers that come and go -------------------------------------------------------------

    def find_workers(self, number: int) -> list[int]:
        """Those that serve a mount; of a pool that sleeps none."""
        pool = f"p{number}" if number else "main"
        return [
            worker["pid"]
            for generation in self.status()["generations"]
            if (generation["pool"], generation["state"]) == (pool, "serving")
            for worker in generation["workers"]
            if worker["state"] == "ready"
        ]

    def kill(self) -> None:
        number = self.chance.randint(0, POOLS)
        workers = self.find_workers(number)
        if not workers or self.kills[number] == KILLS_OF_A_POOL:
            return self.end()
        self.kills[number] += 1
        disturbance = Disturbance(f"/m{number}" if number else "", time.monotonic())
        self.model.disturbances.append(disturbance)
        self.replace(number, self.chance.choice(workers), signal.SIGKILL)
        disturbance.ended = time.monotonic()
        return None

    def end(self) -> None:
        """A worker that is asked to end loses nothing."""
        number = self.chance.randint(0, POOLS)
        if workers := self.find_workers(number):
            self.replace(number, self.chance.choice(workers), signal.SIGTERM)

    def replace(self, number: int, pid: int, how: signal.Signals) -> None:
        wanted = 1 if number else 2
        os.kill(pid, how)
        wait_until(
            lambda: (
                len(set(self.find_workers(number)) - {pid}) == wanted
                or f"/m{number}" in self.model.resting
            ),
            "another worker serves",
            SETTLE_SECONDS,
        )

    def rest(self) -> None:
        """Have nobody ask for a pool; what happens to it while it sleeps is up to chance."""
        self.model.resting.add(f"/m{self.chance.randrange(1, POOLS + 1, 2)}")

    def wake(self) -> None:
        self.model.resting -= set(sorted(self.model.resting)[:1])

    # --- all of them --------------------------------------------------------------------------

    def operate(self) -> str:
        """One operation; its name."""
        operations: list[Callable[[], object]] = [
            *(self.edit_code, self.edit_one, self.edit_one, self.edit_table, self.edit_table),
            self.roll_back,
            *(self.edit_badly, self.break_code),
            *(self.kill, self.end, self.rest, self.rest, self.wake),
        ]
        operation = self.chance.choice(operations)
        try:
            operation()
            self.check()
        except BaseException:
            print(operation.__name__, self.gateway.log_text[-10_000:], sep="\n")
            raise
        return operation.__name__


def count_descriptors(gateway: Running) -> int:
    return sum(1 for _ in Path(f"/proc/{gateway.process.pid}/fd").iterdir())


def test_whatever_is_done_in_any_order_the_right_version_answers(start: Start) -> None:
    print(f"PROOF_SEED={SEED} PROOF_OPERATIONS={OPERATIONS} PROOF_POOLS={POOLS}")
    site = Site(start, random.Random(SEED))
    gateway, done = site.gateway, Counter[str]()
    site.check()
    descriptors = count_descriptors(gateway)
    with Visitors(gateway, site.model, SEED, site.paths) as visitors:
        for _ in range(OPERATIONS):
            done[name := site.operate()] += 1
            assert not visitors.faults, (name, visitors.faults[:5])
    assert not visitors.faults, visitors.faults[:5]
    site.model.resting.clear()
    site.check()
    wait_until(
        lambda: len(gateway.children()) <= 2 + POOLS, "generations before end", SETTLE_SECONDS
    )
    wait_until(
        lambda: count_descriptors(gateway) <= descriptors, "descriptors are closed", SETTLE_SECONDS
    )
    workers = [w for g in site.status()["generations"] for w in g["workers"]]
    assert {worker["in_flight"] for worker in workers} <= {0}
    pids = gateway.children()
    assert gateway.end() == 0
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert not (gateway.folder / "control.sock").exists()
    print(f"{dict(done)}: {visitors.answered} answers, {visitors.excused} lost with workers killed")
