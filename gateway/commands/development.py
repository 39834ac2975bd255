"""Dev mode, ``gateway serve --dev``: how it differs from normal operation, and its requirements."""

import os
import sys
from dataclasses import replace
from importlib.util import find_spec

from gateway.config.model import Config, Workers
from gateway.errors import GatewayError

# an idle connection of a browser is answered by the old code for as long as it is kept open
KEEP_ALIVE_SECONDS = 1.0
# nobody else waits for responses of the old code, which may be stopped in a debugger
DRAIN_SECONDS = 1.0
FLASK_DEBUG = "FLASK_DEBUG"


def prepare_dev_mode() -> None:
    """Set up this process; call it first. Raises GatewayError if the package that dev mode needs is
    not installed.

    Flask handles exceptions of apps itself unless it is in debug mode, in which they reach the
    gateway's page. Workers inherit FLASK_DEBUG; an existing value and the table take precedence.
    """
    os.environ.setdefault(FLASK_DEBUG, "1")
    if find_spec("watchfiles") is None:
        install = f"{sys.executable} -m pip install watchfiles"
        raise GatewayError(f"--dev needs the package watchfiles, which is not installed: {install}")


def for_development(config: Config, *, is_live: bool = False) -> Config:
    """The configuration for dev mode; with ``is_live``, pages in the browser reload with the code.

    One worker for each pool, a log in text, a reload on every save, and no rollback by itself. Each
    request has a connection of its own, so that requests after a save are answered by the new code.
    Requests have no timeout, since one may be stopped in a debugger.
    """
    server = config.server
    limits = replace(
        server.limits,
        keep_alive_seconds=KEEP_ALIVE_SECONDS,
        block_timeout_seconds=0.0,
        drain_timeout_seconds=min(server.limits.drain_timeout_seconds, DRAIN_SECONDS),
    )
    server = replace(
        server,
        workers=1,
        access_log="text",
        reload_on_edit=True,
        keep_previous_seconds=0.0,
        watch=None,
        limits=limits,
    )
    # set by ``prepare_dev_mode``
    server = replace(server, pass_env=(*server.pass_env, FLASK_DEBUG))
    pools = tuple(
        replace(pool, workers=Workers(), pass_env=(*pool.pass_env, FLASK_DEBUG))
        for pool in config.pools
    )
    mounts = tuple(
        replace(mount, limits=replace(mount.limits, timeout_seconds=0.0)) for mount in config.mounts
    )
    return replace(config, server=server, mounts=mounts, pools=pools, is_dev=True, is_live=is_live)
