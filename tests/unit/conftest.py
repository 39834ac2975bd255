"""The engine as a fixture, and ``tests/apps`` on the path."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Gateway
from running import Running

sys.path.insert(0, str(Path(__file__).parent.parent / "apps"))


@pytest.fixture
def serve() -> Iterator[Callable[..., Gateway]]:
    """``serve(app_or_mounts, **options)`` is a running ``Gateway``, closed after the test."""
    gateways: list[Gateway] = []

    def start(mounts: Any, **options: Any) -> Gateway:
        gateways.append(Gateway(mounts, **options))
        return gateways[-1]

    yield start
    for gateway in gateways:
        gateway.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """``start(...)`` is a ``Running`` of the test's own, ended after it."""
    started: list[Running] = []

    def start(*arguments: Any, **options: Any) -> Running:
        started.append(Running(tmp_path, *arguments, **options))
        return started[-1]

    yield start
    for running in started:
        running.end()
