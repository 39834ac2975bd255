"""How to pass a variable that an app lacks. It depends on the app's pool.

Owns that advice. Does not know which variables the gateway has.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from gateway.config.model import PoolSettings

_WHY = "apps get few of the gateway's own variables"
_GET = type(os.environ).__getitem__


def advise_variable(error: BaseException, pool: PoolSettings) -> str:
    """What to do if ``error`` comes from a variable that is not set; "" if it does not."""
    for each in _chain(error):
        if isinstance(each, KeyError) and _is_of_environ(each):
            name = each.args[0]
            if "/" in pool.name:  # the pool of one mount, which is not under "pools:"
                return f'{_WHY}: set it in the mount, as with env: {{{name}: "${{{name}}}"}}'
            place = "server" if pool.name == "main" else f"pools.{pool.name}"
            return f'{_WHY}: name it in {place}.pass_env, or set it in "env"'
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those behind it: its causes and contexts."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_of_environ(error: KeyError) -> bool:
    """Whether ``os.environ[...]`` has raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code is _GET.__code__
