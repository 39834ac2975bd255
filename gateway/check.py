"""``gateway check``: what ``serve`` does before it accepts, and what only a running gateway tries.

Refuses to know how a table is read. The apps are loaded, and their probes asked, in processes of
their own. What a running gateway says of its mounts is shown, but is no fault of the table: the
next reload may be what mends it.
"""

import json
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from gateway.config.model import AppTarget, Config, Mount, UpstreamTarget
from gateway.config.slices import complete, find_foreign
from gateway.errors import AppLoadError, ConfigError, GatewayError
from gateway.logs import hide_controls
from gateway.supervisor.children import pickled
from gateway.supervisor.control import ask
from gateway.supervisor.failures import describe_failure, describe_pool, describe_troubles
from gateway.supervisor.launch import build_command, build_surroundings, check_users
from gateway.supervisor.places import find_control
from gateway.supervisor.process import Report, describe_exit

# for a running gateway to answer in; it does at once, unless it is stopped
STATUS_SECONDS = 5.0


def check(config: Config, *, loads: bool) -> int:
    """Say that all is well, 0, with what was not tried, and what the running gateway reports;
    raises AppLoadError. ``loads``: the apps too, and not the table alone."""
    foreign = find_foreign(config)
    if loads:
        load(replace(config, mounts=tuple(m for m in config.mounts if m not in foreign)))
    print(f"{config.source}: {len(config.mounts)} mounts, no problems")
    if loads:
        tell_untried(config, foreign)
        tell_unwell(config)
    return 0


def load(config: Config) -> None:
    """Raises AppLoadError where an app does not load, or its probe fails. The apps of each pool
    share a process, as they do in service, with the pool's directory and environment."""
    failed = [report for each in split(config) for report in load_pool(each)]
    places = [mount.name for mount in config.mounts]
    failed.sort(key=lambda report: places.index(report["mount"]))
    if failed:
        raise AppLoadError("\n".join(describe_failure(config, each) for each in failed))


def split(config: Config) -> list[Config]:
    """What each pool is to load; what is not an app is the front workers'."""
    mounts_of: dict[str, list[Mount]] = {}
    for mount in config.mounts:
        name = mount.target.pool if isinstance(mount.target, AppTarget) else config.pool.name
        mounts_of.setdefault(name, []).append(mount)
    return [
        replace(
            config,
            directory=pool.directory or config.directory,
            mounts=tuple(mounts_of[pool.name]),
            pool=complete(pool, config.server),
        )
        for pool in (config.pool, *config.pools)
        if pool.name in mounts_of
    ]


def load_pool(config: Config) -> list[Report]:
    """The failures among a pool's mounts. Raises AppLoadError where the process ends early."""
    try:
        surroundings = build_surroundings(config.pool, None)
    except OSError as error:
        raise AppLoadError(f"{describe_pool(config)}: {error}") from error
    seconds = config.server.limits.start_timeout_seconds
    with pickled(config) as order:
        try:
            loader = subprocess.run(
                build_command(config.pool, None, ["text"]),
                stdin=order,
                stdout=subprocess.PIPE,
                text=True,
                timeout=seconds,
                check=False,
                **surroundings,
            )
        except subprocess.TimeoutExpired:
            late = f"did not end within {seconds:g} s (server.start_timeout)"
            raise AppLoadError(f"{config.source}: the process that loads the apps {late}") from None
    if not loader.stdout:
        ended = describe_exit(loader.returncode)
        raise AppLoadError(f"{config.source}: the process that loads the apps {ended}")
    failed: list[Report] = json.loads(loader.stdout)
    return failed


def tell_untried(config: Config, foreign: Iterable[Mount]) -> None:
    """What a gateway tries that starts or reloads, and this does not."""
    targets = [(mount.name, mount.target) for mount in config.mounts]
    untried = {
        "not loaded, since their pools have packages of their own": [m.name for m in foreign],
        "not started, the commands behind": [
            name for name, target in targets if isinstance(target, UpstreamTarget) and target.pool
        ],
        "not asked, the health of the servers behind": [
            name
            for name, target in targets
            if isinstance(target, UpstreamTarget) and target.health and not target.pool
        ],
    }
    for what, names in untried.items():
        if names:
            print(f"{what}: {', '.join(names)}")
    try:
        check_users(config)
    except ConfigError as error:
        print("a gateway that this user starts would refuse:", *error.problems, sep="\n")


def tell_unwell(config: Config) -> None:
    """The mounts that the running gateway of this table serves badly, if there is one."""
    try:
        control = find_control(config.server.control, Path(config.source))
        report = ask(control, "status", patience_seconds=STATUS_SECONDS)
    except GatewayError:
        return
    if lines := describe_troubles(report["mounts"]):
        print(f"the running gateway, pid {report['pid']}, reports:")
        print(hide_controls("\n".join(lines)))
