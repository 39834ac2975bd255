"""How a pool's process is started: command line, user, variables and directory.

Source: the settings of a pool.
"""

import grp
import os
import pwd
import shlex
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gateway.config.model import Config, PoolSettings
from gateway.config.values.processes import is_named
from gateway.environments.cache import Environment
from gateway.errors import ConfigError
from gateway.file_tasks import run_once
from gateway.states import VARIABLE
from gateway.worker import boot

BOOT = Path(boot.__file__)
# looked up now, and not on a pool's own PATH
NICE = shutil.which("nice") or "/usr/bin/nice"
SETPRIV = shutil.which("setpriv")
# what every process gets: where things are, how Python runs, what tests set; none is a secret
EVERYONES = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "LC_*", "TZ", "TERM", "TMPDIR"),
    *("LD_LIBRARY_PATH", "PYTHON*", VARIABLE),
)
# where uv finds packages, and how it gets there
OF_INSTALLERS = (
    *("UV_*", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *(f"{name}_PROXY" for name in ("HTTP", "HTTPS", "ALL", "NO")),
    *(f"{name}_proxy" for name in ("http", "https", "all", "no")),
    "PYENV_ROOT",
)
# but not for builds as another user, who could not use these directories
OF_CACHES = ("UV_CACHE_DIR", "UV_PYTHON_INSTALL_DIR", "UV_PYTHON_CACHE_DIR")
# not for another Python, which would find the gateway's packages by them, or not start at all
OF_OWN_PYTHON = ("PYTHONPATH", "PYTHONHOME")


def _give_way(pool: PoolSettings, *, is_elsewhere: bool) -> list[str]:
    """The beginning of a command line that lowers the priority of the process: from outside, only a
    privileged process may do that to another user's.

    ``is_elsewhere``: the program may be on a file system that hangs. Then ``nice`` waits for it,
    and not the supervisor, which waits until a program is found (vfork(2))."""
    return [NICE, "-n", str(pool.nice)] if pool.nice or is_elsewhere else []


def build_command(
    pool: PoolSettings, environment: Environment | None, arguments: Sequence[str]
) -> list[str]:
    """The command line of a worker with ``arguments``. Without an environment it runs in the
    gateway's own Python, with all packages there; in a pool of native threads, without those that
    only the gateway needs."""
    threads = ["--threads", str(pool.threads)] if pool.concurrency == "threads" else []
    give_way = _give_way(pool, is_elsewhere=environment is not None)
    if environment is None and not threads:
        return [*give_way, sys.executable, "-m", "gateway.worker.process", *arguments]
    command = [sys.executable, str(BOOT), boot.OWN_PYTHON]
    if environment is not None:
        command = [environment.python, str(BOOT), environment.runtime]
    return [*give_way, *command, *threads, *arguments]


def build_server(
    config: Config, environment: Environment | None, socket: str, port: str
) -> dict[str, Any]:
    """The options of ``subprocess.Popen`` for the pool's own command, which listens on
    ``socket`` or ``port``. Raises OSError."""
    options = build_surroundings(config.pool, environment)
    if environment is None:
        # if there is no other Python on PATH, "python" is the gateway's own, as for workers
        path = options["env"].get("PATH", os.defpath)
        options["env"]["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{path}"
    words = [
        word.replace("{socket}", socket).replace("{port}", port)
        for word in shlex.split(config.pool.command)
    ]
    path = options["env"].get("PATH", os.defpath)
    if not _is_there(words[0], path, config.directory):
        raise OSError(f"there is no program {words[0]!r} in its environment or on PATH")
    check_answers(config.directory)
    words = _give_way(config.pool, is_elsewhere=True) + _end_with_supervisor() + words
    return options | {"args": words, "cwd": config.directory}


def _is_there(program: str, path: str, directory: Path) -> bool:
    """The program exists, or its file system does not answer. Checked here, since ``nice`` would
    report it in its own words."""

    def look() -> bool:
        place = directory / program if "/" in program else shutil.which(program, path=path)
        return place is not None and Path(place).exists()

    return run_once((program, path, directory), look).wait_briefly(otherwise=True)


def _end_with_supervisor() -> list[str]:
    """The part of a command line that has the kernel end a command whose supervisor was killed:
    PR_SET_PDEATHSIG (prctl(2)), set after the change of user, which would reset it."""
    return [SETPRIV, "--pdeathsig", "TERM", "--"] if SETPRIV else []


def build_surroundings(pool: PoolSettings, environment: Environment | None) -> dict[str, Any]:
    """The options of ``subprocess.Popen`` beside the command. Raises OSError."""
    for path in (pool.directory, environment and environment.python):
        if path:
            check_answers(path)
    options: dict[str, Any] = {"env": build_environment(pool, environment), "cwd": pool.directory}
    # without root, this process already has the user that the table asks for
    user, group = find_ids(pool.user, pool.group) if os.geteuid() == 0 else (-1, -1)
    if group >= 0:
        options |= {"group": group, "extra_groups": []}
    if user >= 0:
        options |= {"user": user}
        if not pool.group:
            options["extra_groups"] = os.getgrouplist(pool.user, group)
    return options


def build_installation(pool: PoolSettings) -> dict[str, Any]:
    """The options of ``subprocess.Popen`` for a build of the pool's environment: its own user, its
    own variables, and those that say where packages are. Raises OSError."""
    options = build_surroundings(pool, None)
    del options["cwd"]
    found = select_variables(OF_INSTALLERS)
    if "user" in options:
        found = {name: value for name, value in found.items() if name not in OF_CACHES}
    return options | {"env": found | options["env"]}


def check_answers(path: Path | str) -> None:
    """Raises OSError if the path does not exist, or its file system does not answer: the supervisor
    waits until a process that it starts has entered its directory."""
    if run_once((os.stat, str(path)), partial(os.stat, path)).wait_briefly(None) is None:
        raise TimeoutError(f"{path} does not answer: is the file system that it is on reachable?")


def find_ids(user: str, group: str) -> tuple[int, int]:
    """The numbers of a user and a group, as for chown(2): -1 for "". Without a group it is the
    user's own. Raises KeyError."""
    entry = pwd.getpwnam(user) if user else None
    if group:
        return entry.pw_uid if entry else -1, grp.getgrnam(group).gr_gid
    return (entry.pw_uid, entry.pw_gid) if entry else (-1, -1)


def build_environment(pool: PoolSettings, environment: Environment | None) -> dict[str, str]:
    """The variables of a pool's processes: few of the gateway's own, then those of ``env_file``,
    then those of ``env``; later ones win."""
    variables = select_variables(pool.pass_env)
    if environment is not None:
        for name in OF_OWN_PYTHON:
            variables.pop(name, None)
        # as its activation does: an app may start programs of it
        programs = Path(environment.python).parent
        variables["PATH"] = f"{programs}:{variables.get('PATH', os.defpath)}"
        venv = programs.parent / "pyvenv.cfg"
        if run_once(venv, venv.exists).wait_briefly(otherwise=False):
            variables["VIRTUAL_ENV"] = str(programs.parent)
    if pool.user:
        home = pwd.getpwnam(pool.user).pw_dir
        variables |= {"HOME": home, "USER": pool.user, "LOGNAME": pool.user}
    return variables | dict(pool.env_file_variables) | pool.env


def select_variables(wanted: tuple[str, ...]) -> dict[str, str]:
    """Of the gateway's own variables those that every process gets, and those that are ``wanted``.
    All others may be secrets of other pools."""
    return {name: value for name, value in os.environ.items() if is_named(name, EVERYONES + wanted)}


def check_users(config: Config) -> None:
    """Raises ConfigError if this process may not start workers as the users of the table."""
    server = config.server
    asked = [(" server", server.user, server.group)]
    for pool in config.pools:
        place = f"{pool.where.line}:{pool.where.column}: pools.{pool.name}"
        asked.append((place, pool.user, pool.group))
    problems = [
        f'{config.source}:{place}: only root may start workers as "{user or group}", and the '
        f'gateway runs as "{_own_name()}": run it as root, or leave out '
        "user and group"
        for place, user, group in asked
        if not _may_become(*find_ids(user, group))
    ]
    if problems:
        raise ConfigError(problems)


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container may be given a number that has no name
        return str(os.geteuid())


def _may_become(user: int, group: int) -> bool:
    own = os.geteuid()
    return own == 0 or (user in (-1, own) and group in (-1, os.getegid()))
