"""The engine, a whole gateway and an upstream as fixtures."""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
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
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pytest's own, without the test's name: a Unix socket's path has at most 107 bytes (unix(7)),
    and below this directory a gateway has two more."""
    return tmp_path_factory.mktemp("t")


@pytest.fixture
def serve() -> Iterator[Callable[..., Gateway]]:
    """``serve(app_or_mounts, **options)`` is a running ``Gateway``, closed after the test."""
    with ExitStack() as ends:

        def start(mounts: Any, **options: Any) -> Gateway:
            return ends.enter_context(closing(Gateway(mounts, **options)))

        yield start


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """``start(...)`` is a ``Running`` of the test's own, ended after it."""
    with ExitStack() as ends:

        def start(*arguments: Any, **options: Any) -> Running:
            running = Running(tmp_path, *arguments, **options)
            ends.callback(running.end)
            return running

        yield start


@pytest.fixture
def upstream() -> Iterator[Callable[..., Upstream]]:
    """``upstream(address, …, mounted="", **settings)`` is a mount as the table would make it."""
    # its native thread, which looks names up, stays: a gateway would take it for left behind
    get_hub().threadpool.apply(int)
    with ExitStack() as ends:

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
            return ends.enter_context(closing(load_upstream(mount, target)))

        yield load


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
