"""Tables of thousands of mounts: what a start and a reload do for each of them is bounded."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from idle_process import IdleProcess

from gateway.config.model import AppTarget, Config, Mount, ServerSettings, Where
from gateway.limits import MountLimits
from gateway.mounts.loader import load_mounts
from gateway.supervisor.generations.generation import Generation
from gateway.supervisor.generations.reports import take_report
from gateway.supervisor.processes.process import ProcessState

COUNTING = """
asked = []
made = []
def found(environ, start_response):
    return []
def create():
    made.append(1)
    return lambda environ, start_response: []
def __getattr__(name):
    if name != "app":
        raise AttributeError(name)
    asked.append(name)
    return found
"""


def mounts(number: int, import_string: str) -> list[Mount]:
    first = Mount(
        name="/",
        host=None,
        prefix="",
        target=AppTarget(import_string=import_string),
        limits=MountLimits(),
        where=Where(line=1, column=1),
    )
    return [replace(first, name=f"/{i}", prefix=f"/{i}") for i in range(number)]


@pytest.mark.parametrize(
    ("what", "counter", "count"), [("app", "asked", 1), ("create()", "made", 9)]
)
def test_an_app_of_many_mounts_is_loaded_once_and_a_factory_called_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, counter: str, count: int
) -> None:
    (tmp_path / "counting_app.py").write_text(COUNTING)
    monkeypatch.syspath_prepend(tmp_path)
    loaded, errors = load_mounts(mounts(9, f"counting_app:{what}"))
    try:
        assert (len(loaded), errors) == (9, {})
        assert len(getattr(sys.modules["counting_app"], counter)) == count
        assert len({id(mount.app) for mount in loaded}) == count
    finally:
        del sys.modules["counting_app"]


def test_a_report_of_what_is_loaded_has_nobody_look_through_the_table() -> None:
    looks = []
    config = Config(source="", directory=Path(), server=ServerSettings(), mounts=())
    generation = Generation(1, config, lambda *_: None, on_change=looks.append)  # type: ignore[arg-type,return-value]
    process = IdleProcess(1, ProcessState.LOADING)
    take_report(generation, process, {"event": "loading", "mount": "/a"})
    assert (process.loading, looks) == ("/a", [])
    take_report(generation, process, {"event": "paused"})
    assert (process.accepts, looks) == (False, [generation])
