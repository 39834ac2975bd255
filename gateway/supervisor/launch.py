"""How a pool's worker process is started: interpreter, user, environment and place.

Refuses to know what it does then. Source: the settings of a pool; Compose's env files.
"""

import grp
import os
import pwd
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gateway
from gateway.config.model import Config, Pool
from gateway.environments.cache import Environment
from gateway.errors import ConfigError

BOOT = Path(gateway.__file__).with_name("boot.py")
_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")


def build_command(
    pool: Pool, environment: Environment | None, arguments: Sequence[str]
) -> list[str]:
    """The command line of a worker with ``arguments``. Without an environment it runs in the
    gateway's own Python, with all that is installed there."""
    threads = ["--threads", str(pool.threads)] if pool.concurrency == "threads" else []
    if environment is None:
        return [sys.executable, "-m", "gateway.worker", *threads, *arguments]
    return [environment.python, str(BOOT), environment.runtime, *threads, *arguments]


def build_server(
    config: Config, environment: Environment | None, socket: str, port: str
) -> dict[str, Any]:
    """What ``subprocess.Popen`` is to be told for the pool's own command, which listens on
    ``socket`` or ``port``. Raises OSError."""
    told = build_surroundings(config.pool, environment)
    if environment is None:
        # where there is no other one, "python" is the gateway's own, as for workers
        path = told["env"].get("PATH", os.defpath)
        told["env"]["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{path}"
    words = [
        word.replace("{socket}", socket).replace("{port}", port)
        for word in shlex.split(config.pool.command)
    ]
    return told | {"args": words, "cwd": config.directory}


def build_surroundings(pool: Pool, environment: Environment | None) -> dict[str, Any]:
    """What ``subprocess.Popen`` is to be told beside the command. Raises OSError."""
    told: dict[str, Any] = {"env": build_environment(pool, environment), "cwd": pool.directory}
    if pool.user or pool.group:
        user = pwd.getpwnam(pool.user) if pool.user else None
        group = grp.getgrnam(pool.group).gr_gid if pool.group else user.pw_gid if user else None
        told |= {"group": group, "extra_groups": []}
        if user:
            told |= {"user": user.pw_uid}
            if not pool.group:
                told["extra_groups"] = os.getgrouplist(user.pw_name, user.pw_gid)
    return told


def build_environment(pool: Pool, environment: Environment | None) -> dict[str, str]:
    """The gateway's own variables, those of the file, and those of the table, the last win."""
    variables = dict(os.environ)
    if environment is not None:
        # as activating it does: an app may start programs that lie there
        programs = Path(environment.python).parent
        variables["PATH"] = f"{programs}:{variables.get('PATH', os.defpath)}"
        variables.pop("VIRTUAL_ENV", None)
        if (programs.parent / "pyvenv.cfg").exists():
            variables["VIRTUAL_ENV"] = str(programs.parent)
    if pool.user:
        home = pwd.getpwnam(pool.user).pw_dir
        variables |= {"HOME": home, "USER": pool.user, "LOGNAME": pool.user}
    if pool.env_file:
        variables |= read_env_file(pool.env_file.read_text())
    return variables | pool.env


def read_env_file(text: str) -> dict[str, str]:
    """Variables, one a line; empty lines and those that begin with ``#`` are none. Quotes around a
    value are taken away; what is no variable is left out."""
    found = {}
    for line in text.splitlines():
        if match := _LINE.fullmatch(line.strip()):
            value = match[2].strip()
            if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
                value = value[1:-1]
            else:
                value = value.partition(" #")[0].rstrip()
            found[match[1]] = value
    return found


def check_users(config: Config) -> None:
    """Raises ConfigError where this process may not start workers as the table asks."""
    if os.geteuid() == 0:
        return
    problems = [
        f"{config.source}:{pool.where.line}:{pool.where.column}: pools.{pool.name}: only root may "
        f'start workers as "{pool.user or pool.group}", and the gateway runs as '
        f'"{pwd.getpwuid(os.geteuid()).pw_name}": run it as root, or leave out user and group'
        for pool in config.pools
        if pool.user or pool.group
    ]
    if problems:
        raise ConfigError(problems)
