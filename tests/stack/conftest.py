"""The fixtures of the stack tests, which speak to the real thing: docker-compose.yml, built and up.

``example``  the stack as shipped, with the example apps. Tests only read and use it.
``lab``      a second one, with the apps of ``tests/stack/apps`` from a copy that tests may edit
             (``lab.table``), and a way to the gateway without nginx (``lab.direct``). A test that
             disturbs it takes ``disturbed_lab``, which is the same stack and is mended afterwards.

Each is brought up once a session, on a free port, under a project name of its own, and removed with
its volume and images at the end. When a test fails, the end of the logs is part of its report.
Base images come from PYTHON_IMAGE and NGINX_IMAGE, as in docker-compose.yml.

Where no Docker engine answers, these tests are left out, and one line says so; with REQUIRE_STACK=1
that is a failure.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from compose_stack import Stack, find_engine_fault
from stacks import Example, Lab

HERE = Path(__file__).resolve().parent
LEFT_OUT = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def example() -> Iterator[Example]:
    yield from _running(Example())


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    yield from _running(Lab(tmp_path_factory.mktemp("lab") / "apps"))


@pytest.fixture
def disturbed_lab(lab: Lab) -> Iterator[Lab]:
    table = lab.table
    yield lab
    if lab.table != table:
        lab.table = table
        lab.restart_gateway()
    lab.up()


def _running(stack: Stack) -> Iterator[Stack]:
    try:
        stack.build_and_up()
        yield stack
    finally:
        stack.down()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    stack_tests = [item for item in items if HERE in item.path.parents]
    fault = find_engine_fault() if stack_tests else ""
    if fault:
        config.hook.pytest_deselected(items=stack_tests)
        items[:] = [item for item in items if item not in stack_tests]
        count = len(stack_tests)
        config.stash[LEFT_OUT] = f"tests/stack: {count} TESTS LEFT OUT, no Docker engine: {fault}"


def is_required() -> bool:
    return os.environ.get("REQUIRE_STACK", "") not in ("", "0")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.stash.get(LEFT_OUT, ""):
        if is_required():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        elif session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    left_out = terminalreporter.config.stash.get(LEFT_OUT, "")
    if left_out and is_required():
        terminalreporter.write_line(f"FAILED {left_out} (REQUIRE_STACK is set)", red=True)
    elif left_out:
        terminalreporter.write_line(f"WARNING {left_out}", yellow=True, bold=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed:
        fixtures = getattr(item, "funcargs", {}).values()
        for stack in {fixture for fixture in fixtures if isinstance(fixture, Stack)}:
            report.sections.append((f"end of the logs of {stack.project}", stack.tail()))
    return report
