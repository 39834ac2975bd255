"""``gateway check``: what ``serve`` does before it listens, and what only a running gateway tries.

Refuses to know how a table is read. The apps are loaded in a process of their own.
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace

from gateway.config.model import AppTarget, Config, Mount, UpstreamTarget
from gateway.config.slices import find_foreign
from gateway.errors import AppLoadError, ConfigError
from gateway.supervisor.children import pickled
from gateway.supervisor.failures import describe_failure
from gateway.supervisor.launch import check_users
from gateway.supervisor.process import describe_exit


def check(config: Config, *, loads: bool) -> int:
    """Say that all is well, 0, with what was not tried; raises AppLoadError. ``loads``: the apps
    too, and not the table alone."""
    foreign = find_foreign(config)
    if loads:
        load(replace(config, mounts=tuple(m for m in config.mounts if m not in foreign)))
    print(f"{config.source}: {len(config.mounts)} mounts, no problems")
    if loads:
        tell_untried(config, foreign)
    return 0


def load(config: Config) -> None:
    """Raises AppLoadError where an app does not load."""
    with pickled(config) as order:
        loader = subprocess.run(
            [sys.executable, "-m", "gateway.worker", "text"],
            stdin=order,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    if not loader.stdout:
        ended = describe_exit(loader.returncode)
        raise AppLoadError(f"{config.source}: the process that loads the apps {ended}")
    failed = json.loads(loader.stdout)
    if failed:
        raise AppLoadError("\n".join(describe_failure(config, each) for each in failed))


def tell_untried(config: Config, foreign: Iterable[Mount]) -> None:
    """What a gateway tries that starts or reloads, and this does not."""
    targets = [(mount.name, mount.target) for mount in config.mounts]
    untried = {
        "not loaded, since their pools have packages of their own": [m.name for m in foreign],
        "not started, the commands behind": [
            name for name, target in targets if isinstance(target, UpstreamTarget) and target.pool
        ],
        "not asked, the probes of": [
            name for name, target in targets if isinstance(target, AppTarget) and target.probe
        ],
    }
    for what, names in untried.items():
        if names:
            print(f"{what}: {', '.join(names)}")
    try:
        check_users(config)
    except ConfigError as error:
        print("a gateway that this user starts would refuse:", *error.problems, sep="\n")
