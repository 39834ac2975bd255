"""``workers: auto``: the cores that the scheduler and the container's quota leave."""

import os
from pathlib import Path

import pytest

from gateway.config.values import processes
from gateway.config.values.processes import is_named

EIGHT = frozenset(range(8))


@pytest.mark.parametrize(
    ("cores", "quota", "expected"),
    [
        (EIGHT, "max 100000", 8),
        (EIGHT, "300000 100000", 3),
        (EIGHT, "250000 100000", 3),
        (EIGHT, "50000 100000", 2),
        (EIGHT, "9900000 100000", 8),
        (EIGHT, "", 8),
        (frozenset({5}), "max 100000", 2),
    ],
)
def test_auto_is_the_usable_cores_but_at_least_two(
    cores: frozenset[int],
    quota: str,
    expected: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: cores, raising=False)
    monkeypatch.setattr(processes, "CPU_QUOTA", tmp_path / "cpu.max")
    (tmp_path / "cpu.max").write_text(quota)
    assert processes.parse_workers("auto") == expected


def test_auto_without_a_quota_is_all_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: EIGHT, raising=False)
    monkeypatch.setattr(processes, "CPU_QUOTA", tmp_path / "none")
    assert processes.parse_workers("auto") == 8


@pytest.mark.parametrize(
    ("name", "expected"), [("LC_ALL", True), ("LANG", False), ("TZ", True), ("TZDIR", False)]
)
def test_a_variable_is_meant_by_its_name_or_by_how_it_begins(name: str, expected: bool) -> None:
    assert is_named(name, ("TZ", "LC_*")) is expected
