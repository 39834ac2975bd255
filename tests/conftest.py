"""The engine, a whole gateway and an upstream as fixtures."""

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from gevent import get_hub
from harness import Gateway
from running import Running

from gateway.config.model import Mount, UpstreamTarget, Where
from gateway.limits import MountLimits
from gateway.mounts.upstreams import load_upstream
from gateway.upstream.mount import Upstream


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


@pytest.fixture
def upstream() -> Iterator[Callable[..., Upstream]]:
    """``upstream(address, …, mounted="", **settings)`` is a mount as the table would make it."""
    mounts: list[Upstream] = []
    # its native thread, which looks names up, stays: a gateway would take it for left behind
    get_hub().threadpool.apply(int)

    def load(*addresses: str, mounted: str = "", **settings: Any) -> Upstream:
        target = UpstreamTarget(addresses=addresses, **settings)
        mount = Mount(
            name=mounted or "/",
            host=None,
            prefix=mounted,
            target=target,
            limits=MountLimits(),
            where=Where(line=1, column=1),
        )
        mounts.append(load_upstream(mount, target))
        return mounts[-1]

    yield load
    for mount in mounts:
        mount.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What tests print and log may have lone surrogates; a report crosses to another process."""
    report = yield
    report.sections = [(name, _encodable(text)) for name, text in report.sections]
    if report.longrepr and (told := str(report.longrepr)) != _encodable(told):
        report.longrepr = _encodable(told)
    return report


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
