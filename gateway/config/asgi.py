"""``asgi:`` of a mount: the pool that runs Uvicorn, and the mount that forwards to it.

Starts nothing. Source: Uvicorn's command line; the ASGI specification (``root_path``).
"""

import shlex
from dataclasses import replace
from importlib.util import find_spec

from gateway.config.model import AsgiTarget, PoolSettings, UpstreamTarget

PROGRAM = "uvicorn"
# Only the gateway can open its socket, so every peer is trusted. The prefix is stripped on the way,
# and Uvicorn puts the path together again, as ASGI's root_path requires.
_OPTIONS = "--uds {socket} --no-access-log --no-server-header --proxy-headers"


def lead_to_pool(target: AsgiTarget) -> UpstreamTarget:
    """The mount's target, still without the name of its pool."""
    return UpstreamTarget(addresses=(), cookie_path=target.cookie_path, health=target.health)


def build_asgi_pool(target: AsgiTarget, pool: PoolSettings, prefix: str) -> PoolSettings:
    """``pool`` as one that runs ``target`` below ``prefix``."""
    name, is_factory, _ = target.import_string.partition("()")
    words = [PROGRAM, name, *(["--factory"] if is_factory else [])]
    command = f"{shlex.join(words)} {_OPTIONS} --forwarded-allow-ips '*'"
    if prefix:
        command += f" --root-path {shlex.quote(prefix)}"
    return replace(pool, command=command, env={**pool.env, **target.env})


def find_asgi_fault(pool: PoolSettings) -> str:
    """Why ``pool`` cannot run an ASGI app; "" if it can, as far as can be checked now."""
    if pool.command:
        return f'the pool runs a command of its own: mount it with "upstream: pool:{pool.name}"'
    limits = pool.limits
    if pool.concurrency != "greenlets" or pool.idle_seconds or limits.max_requests:
        return "concurrency, idle and max_requests have no effect on Uvicorn: remove them there"
    if pool.workers.max:
        return "Uvicorn always has workers.min processes: leave out max there"
    if pool.venv:
        is_there = (pool.venv / "bin" / PROGRAM).exists()
        return "" if is_there else f"Uvicorn is not installed in {pool.venv}: add it there"
    if pool.python or pool.requirements or find_spec(PROGRAM) is not None:
        return ""
    return (
        "Uvicorn is not installed beside the gateway: add it there, or name a pool whose "
        "requirements have it"
    )
