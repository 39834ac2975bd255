"""What is asked during a reload: one more answers all, and gives each what it asked for."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.config.model import Config, ServerSettings
from gateway.supervisor.reload import EDIT, Reloader

RUNNING = Config(source="mounts.yaml", directory=Path("/"), server=ServerSettings(), mounts=())
EDITED = replace(RUNNING, server=ServerSettings(keep_previous_seconds=1.0))


class SlowPools:
    """Each change is made when ``may_go`` is set; ``anew`` has what was asked of each."""

    def __init__(self) -> None:
        self.config = RUNNING
        self.main = SimpleNamespace(current=SimpleNamespace(id="g1"))
        self.may_go = asyncio.Event()
        self.anew: list[bool] = []

    async def prepare(self, config: Config, *, anew: Callable[[str], bool]) -> Any:
        self.anew.append(anew("main"))
        await self.may_go.wait()
        return SimpleNamespace()

    async def commit(self, change: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("asked", "trigger", "anew"),
    [
        ([EDIT, EDIT], EDIT, False),
        (["gateway reload", EDIT], "gateway reload", True),
        ([EDIT, "gateway reload"], "gateway reload", True),
        ([EDIT, "SIGHUP", EDIT], "SIGHUP", True),
    ],
)
def test_a_reload_that_waits_loads_the_code_where_one_asks_for_it(
    asked: list[str], trigger: str, anew: bool
) -> None:
    async def read() -> Any:
        return EDITED

    async def run() -> None:
        pools = SlowPools()
        reloader = Reloader(pools, read, read)  # type: ignore[arg-type]
        first = asyncio.create_task(reloader.reload("SIGHUP"))
        while not pools.anew:
            await asyncio.sleep(0)
        waiting = [asyncio.create_task(reloader.reload(each)) for each in asked]
        await asyncio.sleep(0)
        pools.may_go.set()
        outcomes = await asyncio.gather(first, *waiting)
        assert {outcome.trigger for outcome in outcomes[1:]} == {trigger}
        assert pools.anew == [True, anew]

    asyncio.run(asyncio.wait_for(run(), 10))
