"""Dev mode, ``gateway serve --dev``: what is other than in service while apps are being written.

Owns those differences and what they need. Refuses to know how they are brought about.
"""

import os
import sys
from dataclasses import replace
from importlib.util import find_spec

from gateway.config.model import Config, Workers
from gateway.errors import GatewayError

# a browser's connection without a request would meet the code of before for as long as it is kept
KEEP_ALIVE_SECONDS = 1.0
# nobody else waits for the answer of the code of before, which may wait in a debugger
DRAIN_SECONDS = 1.0
FLASK_DEBUG = "FLASK_DEBUG"


def prepare_dev_mode() -> None:
    """Before all else. Raises GatewayError where the package that dev mode needs is not installed.

    Flask answers an app's exceptions with a page of its own unless it is in debug mode, which lets
    them through to the gateway's page. Workers get that passed on; what is set already counts, and
    so does what the table sets.
    """
    os.environ.setdefault(FLASK_DEBUG, "1")
    if find_spec("watchfiles") is None:
        install = f"{sys.executable} -m pip install watchfiles"
        raise GatewayError(f"--dev needs the package watchfiles, which is not installed: {install}")


def for_development(config: Config, *, is_live: bool = False) -> Config:
    """The table as dev mode serves it; where it ``is_live``, pages reload with their code.

    One worker of each pool, text to read, and every save a reload that nothing takes back. Each
    request has a connection of its own, so that what is asked after a save meets the new code.
    It may take any time, as whoever has stopped it in a debugger does.
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
    # Flask's, which is set above
    server = replace(server, pass_env=(*server.pass_env, FLASK_DEBUG))
    pools = tuple(
        replace(pool, workers=Workers(), pass_env=(*pool.pass_env, FLASK_DEBUG))
        for pool in config.pools
    )
    mounts = tuple(
        replace(mount, limits=replace(mount.limits, timeout_seconds=0.0)) for mount in config.mounts
    )
    return replace(config, server=server, mounts=mounts, pools=pools, is_dev=True, is_live=is_live)
