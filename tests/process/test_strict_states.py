"""The states of a real gateway go by their tables, and a test notices where they do not."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import Running, wait_until

from gateway.states import VARIABLE

Start = Callable[..., Running]
SERVER = """\
  reload_on_edit: false
pools:
  sleepy: {idle: 1s}
  short: {max_lifetime: 2s}
"""
MOUNTS = """\
  /: good:app
  /sleepy: {app: "good:app", pool: sleepy}
  /short: {app: "good:app", pool: short}
  /strict: strict:app
"""
STRICT = f"""
import os
def app(environ, start_response):
    start_response("200 OK", [])
    return [os.environ.get("{VARIABLE}", "").encode()]
"""


def generations(gateway: Running, pool: str) -> list[dict[str, Any]]:
    return [g for g in gateway.control("status")["generations"] if g["pool"] == pool]


def states(gateway: Running, pool: str) -> list[str]:
    return [each["state"] for each in generations(gateway, pool)]


def test_a_whole_life_goes_by_the_tables(start: Start) -> None:
    gateway = start(MOUNTS, SERVER, strict=STRICT)
    assert gateway.ask("/strict").endswith(b"1")  # workers are strict too
    assert gateway.control("reload")["exit_code"] == 0
    assert states(gateway, "main") == ["standby", "serving"]
    assert gateway.control("rollback")["exit_code"] == 0
    wait_until(lambda: "replaces worker" in gateway.log_text, "a worker is recycled")
    [serving] = [g for g in generations(gateway, "main") if g["state"] == "serving"]
    os.kill(serving["workers"][0]["pid"], signal.SIGKILL)
    wait_until(lambda: "was killed by SIGKILL" in gateway.log_text, "its exit is reported")
    wait_until(lambda: "asleep" in states(gateway, "sleepy"), "the pool falls asleep")
    assert b" 200 " in gateway.ask("/sleepy")
    assert "pool sleepy: awake" in gateway.log_text
    assert b" 200 " in gateway.ask("/")
    assert gateway.end() == 0
    assert "IllegalTransition" not in gateway.log_text


def test_a_gateway_that_logs_an_illegal_transition_fails_its_test(tmp_path: Path) -> None:
    gateway = Running(tmp_path)
    gateway.log.seek(0, os.SEEK_END)
    gateway.log.write(b"a fault of the gateway's own: IllegalTransitionError: worker 1: ...\n")
    gateway.log.flush()
    with pytest.raises(AssertionError, match="IllegalTransitionError"):
        gateway.end()
    assert gateway.process.returncode == 0
