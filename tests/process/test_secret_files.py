"""Files beside the table that it is made from: secrets and variables of pools. A save of one is
noticed, and renews the pools that use it."""

import json
import os
from collections.abc import Callable
from typing import Any

from running import Running, wait_until

Start = Callable[..., Running]
TELLING = """
import json, os
def app(environ, start_response):
    start_response("200 OK", [])
    names = ("SECRET", "FROM_FILE")
    return [json.dumps({name: os.environ.get(name) for name in names}).encode()]
"""
MOUNTS = (
    "  /: {app: 'good:app'}\n  /a: {app: 'telling:app', pool: a, env: {SECRET: '${file:key}'}}\n"
    "  /b: {app: 'telling:app', pool: b}\n"
)
POOLS = "pools:\n  a: {}\n  b: {env_file: b.env}\n"


def begin(start: Start, server: str = "") -> Running:
    gateway = start(telling=TELLING)
    gateway.write("key", "wombat\n")
    gateway.write("b.env", "FROM_FILE=one\n")
    gateway.end()
    again = start(MOUNTS, server + POOLS, telling=TELLING)
    assert told(again, "/a")["SECRET"] == "wombat"
    assert told(again, "/b")["FROM_FILE"] == "one"
    return again


def told(gateway: Running, target: str) -> dict[str, Any]:
    return json.loads(gateway.ask(target).rpartition(b"\r\n\r\n")[2])


def workers(gateway: Running) -> dict[str, list[int]]:
    return {
        each["pool"]: [worker["pid"] for worker in each["workers"]]
        for each in gateway.control("status")["generations"]
        if each["state"] == "serving"
    }


def test_a_secret_that_was_changed_renews_the_pool_that_uses_it(start: Start) -> None:
    gateway = begin(start)
    before = workers(gateway)
    gateway.write("key.new", "quokka\n")
    (gateway.folder / "key.new").replace(gateway.folder / "key")
    wait_until(lambda: told(gateway, "/a")["SECRET"] == "quokka", "the new secret is served")
    after = workers(gateway)
    assert {pool for pool in before if before[pool] != after[pool]} == {"a"}
    assert "quokka" not in gateway.log_text


def test_an_env_file_that_was_changed_renews_the_pool_that_uses_it(start: Start) -> None:
    gateway = begin(start)
    before = workers(gateway)
    gateway.write("b.env", "FROM_FILE=two\n")
    wait_until(lambda: told(gateway, "/b")["FROM_FILE"] == "two", "the new value is served")
    after = workers(gateway)
    assert {pool for pool in before if before[pool] != after[pool]} == {"b"}


def test_without_reload_on_edit_a_reload_takes_them_and_plan_says_so(start: Start) -> None:
    gateway = begin(start, "  reload_on_edit: false\n")
    gateway.write("key", "quokka\n")
    gateway.write("b.env", "FROM_FILE=two\n")
    assert gateway.control("plan")["messages"] == [
        "~ /a: env.SECRET",
        "~ pools.b: env_file",
        "! new workers of a: the environment variable SECRET changes",
        "! new workers of b: pools.b.env_file changes",
    ]
    assert gateway.control("reload", names=["b"])["exit_code"] == 0
    assert told(gateway, "/b")["FROM_FILE"] == "two"
    assert told(gateway, "/a")["SECRET"] == "wombat"
    assert gateway.control("reload")["exit_code"] == 0
    assert told(gateway, "/a")["SECRET"] == "quokka"


def test_a_secret_that_was_only_touched_changes_nothing(start: Start) -> None:
    gateway = begin(start)
    before = workers(gateway)
    gateway.write("key", "wombat")
    last = wait_until(lambda: gateway.control("status")["last_reload"], "the save was noticed")
    assert (last["exit_code"], last["how"]) == (0, "nothing has changed")
    assert workers(gateway) == before


def test_a_secret_that_is_a_pipe_fails_a_reload_and_blocks_nothing(start: Start) -> None:
    gateway = begin(start)
    before = workers(gateway)
    os.mkfifo(gateway.folder / "pipe")
    gateway.write_table("  /: {app: 'good:app', env: {KEY: '${file:pipe}'}}\n")
    outcome = gateway.control("reload")
    assert outcome["exit_code"] == 2
    assert "pipe" in outcome["messages"][0]
    assert "cannot be read: not a regular file" in outcome["messages"][0]
    assert workers(gateway) == before
    assert gateway.end() == 0


def test_an_env_file_that_is_a_pipe_fails_a_reload_and_blocks_nothing(start: Start) -> None:
    gateway = begin(start)
    before = workers(gateway)
    (gateway.folder / "b.env").unlink()
    os.mkfifo(gateway.folder / "b.env")
    outcome = gateway.control("reload")
    assert outcome["exit_code"] == 2
    assert "pools.b.env_file: " in outcome["messages"][0]
    assert workers(gateway) == before
    assert gateway.end() == 0
