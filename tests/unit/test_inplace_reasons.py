"""Which edits of the table need new workers: every setting of the server and of pools."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from one_mount import CONFIG

from gateway.config.compare.inplace import find_reasons
from gateway.config.model import PoolSettings, ServerSettings

# what a worker decides before it accepts its first connection
OF_A_START = {"workers", "trusted_proxies", "proxy_protocol", "access_log"}
OF_A_START |= {"pass_env", "is_behind_front"}
# of a pool, what its workers need not know
OF_THE_SUPERVISOR = {"where", "idle_seconds", "limits", "env_file_strays"}
OF_THE_FRONT = {"admission"}


def other(value: Any) -> Any:
    """Another value of the same kind."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return f"{value}x"
        case tuple():
            return (*value, "x")
        case Mapping():
            return {**value, "x": "y"}
        case None:
            return "x"
    if is_dataclass(value) and not isinstance(value, type):
        first = fields(value)[0].name
        return replace(value, **{first: other(getattr(value, first))})
    raise AssertionError(f"what else can {value!r} be?")


@pytest.mark.parametrize("name", [field.name for field in fields(ServerSettings)])
def test_a_setting_of_the_server_needs_new_workers_if_it_is_read_at_their_start(name: str) -> None:
    value = other(getattr(CONFIG.server, name))
    edited = replace(CONFIG, server=replace(CONFIG.server, **{name: value}))
    expected = [f"server.{name} changes"] if name in OF_A_START else []
    assert find_reasons(CONFIG, edited) == expected
    assert find_reasons(edited, edited) == []


@pytest.mark.parametrize("name", [field.name for field in fields(PoolSettings)])
def test_a_setting_of_a_pool_needs_new_workers_unless_it_is_the_supervisors(name: str) -> None:
    value = other(getattr(CONFIG.pool, name))
    edited = replace(CONFIG, pool=replace(CONFIG.pool, **{name: value}))
    assert bool(find_reasons(CONFIG, edited)) is (name not in OF_THE_SUPERVISOR | OF_THE_FRONT)
