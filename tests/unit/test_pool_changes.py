"""A reload of several pools: in which order they change, and that all of them do or none."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from one_mount import CONFIG

from gateway.errors import AppLoadError
from gateway.supervisor.pools.pool import Change, Means
from gateway.supervisor.pools.pools import MAIN, Pools, TableChange

OLD: Any = SimpleNamespace(id="g1")
NEW: Any = SimpleNamespace(id="g2")


class PoolOfNoWorkers:
    """Notes in ``done`` what it is asked to do; ``fault`` is what keeps it from changing."""

    generations: tuple[Any, ...] = ()
    config = None
    refused = None
    next_start = 0.0

    def __init__(self, name: str, done: list[str], fault: Exception | None) -> None:
        self.current = OLD
        self._name = name
        self._done = done
        self._fault = fault

    async def commit(self, change: Any) -> None:
        self._done.append(f"{self._name}: {change.new.id}")
        if self._fault is not None:
            raise self._fault
        self.current = change.new

    async def prepare_undo(self, change: Any) -> Any:
        return SimpleNamespace(new=change.old)

    async def drop(self, change: Any) -> None:
        self._done.append(f"{self._name}: leaves {change.new.id}")

    def let_environments_go(self) -> None:
        pass


@pytest.fixture
def commit(tmp_path: Path) -> Iterator[Callable[..., list[str]]]:
    """``commit(name=fault, …)`` changes these pools and gives what each did, in its order."""

    async def run(faults: dict[str, Exception | None]) -> list[str]:
        done: list[str] = []
        pools = Pools(listener, tmp_path, lambda task: task.close())
        pools.main.close()  # one that has workers
        for name, fault in faults.items():
            pool: Any = PoolOfNoWorkers(name, done, fault)
            pools._pools[name] = pool
        pools.config = CONFIG
        change = Change(OLD, CONFIG, NEW, CONFIG, Means.NEW)
        pools._end_unused = lambda _: None  # type: ignore[method-assign]
        try:
            await pools.commit(TableChange(CONFIG, CONFIG, dict.fromkeys(faults, change)))
        except AppLoadError as error:
            done.append(str(error))
        return done

    with socket.socket(socket.AF_UNIX) as listener:
        yield lambda **faults: asyncio.run(run(faults))


@pytest.mark.parametrize("names", [("a", MAIN, "z"), (MAIN, "a", "z"), ("z", "a", MAIN)])
def test_the_front_workers_change_last(
    commit: Callable[..., list[str]], names: tuple[str, ...]
) -> None:
    done = commit(**dict.fromkeys(names))
    assert sorted(done) == sorted(f"{name}: g2" for name in names)
    assert done[-1] == f"{MAIN}: g2"


@pytest.mark.parametrize("broken", ["b", MAIN])
def test_pools_that_have_changed_change_back_where_another_cannot(
    commit: Callable[..., list[str]], broken: str
) -> None:
    names = ("a", "b", MAIN)
    faults: dict[str, Exception | None] = dict.fromkeys(names)
    done = commit(**(faults | {broken: AppLoadError("its worker has ended")}))
    changed = names[: names.index(broken)]
    assert done == [
        *[f"{name}: g2" for name in (*changed, broken)],
        *[f"{name}: g1" for name in changed],
        *[f"{name}: leaves g2" for name in names],
        "its worker has ended",
    ]
