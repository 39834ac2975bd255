"""Warnings about a valid table: pools without mounts, lines that set nothing, programs, Pythons and
host names that cannot be found.

Each warning has its place in the table, and says how to correct it. Starts nothing. Source:
Compose's env files, RFC 3490 (international names).
"""

import os
import re
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Thread

from gateway.config.model import Config, PoolSettings, UpstreamTarget
from gateway.config.text.problems import quote
from gateway.config.values.addresses import is_address
from gateway.file_tasks import touching
from gateway.supervisor.listeners.sockets import split_address

# for all names together: a name server that does not answer must not hold up a check
RESOLVE_SECONDS = 5.0
# of names that are resolved at a time, and in all
MAX_NAMES = 100
# words that only a shell understands
_OPERATORS = frozenset(("&&", "||", "|", "&", ";", ">", ">>", "<", "2>&1"))


def find_warnings(config: Config) -> list[str]:
    """All warnings that need no name server, each a line with its place."""
    places = [
        (pool, f"{config.source}:{pool.where.line}:{pool.where.column}: pools.{pool.name}")
        for pool in config.pools
    ]
    found = [
        f"{config.source}:{pool.where.line}:{pool.where.column}: pools.{pool.name}: "
        "no mount uses it, so it is not started: name it in a mount, or remove it"
        for pool in config.unused_pools
    ]
    for pool, place in places:
        with touching(partial(str, place)):
            found += [f"{place}.{text}" for text in _look_at(pool, config.directory)]
    for mount in config.mounts:
        if mount.host and not _is_international(mount.host):
            place = f"{config.source}:{mount.where.line}:{mount.where.column}: mounts.{mount.name}"
            found.append(
                f"{place}: no browser asks for this host, since what follows xn-- is no "
                "international name: write the name itself"
            )
    # the lines themselves may hold a secret, and are not shown
    found += dict.fromkeys(
        f"{pool.env_file}:{number}:1: this line sets no variable: write NAME=value, or # before it"
        for pool in config.pools
        for number in pool.env_file_strays
    )
    return found


def _look_at(pool: PoolSettings, directory: Path) -> Iterator[str]:
    """Warnings about the programs of a pool: the key of each and its text."""
    if re.fullmatch(r"3\.[0-9.]+", pool.python) and not _has_python(pool.python):
        yield (
            f"python: Python {pool.python} is not installed here: install it, or it has to be "
            "downloaded at a start (by uv, where that is installed)"
        )
    if not pool.command:
        return
    words = shlex.split(pool.command)
    if operators := [word for word in words if word in _OPERATORS]:
        yield (
            f"command: no shell runs it, so {quote(operators[0])} is an argument of the "
            "program: write it as sh -c '…'"
        )
    elif words and not pool.requirements and not _has_program(words[0], pool, directory):
        yield f"command: there is no program {quote(words[0])}: install it, or name its place"


def _has_python(version: str) -> bool:
    own = ".".join(map(str, sys.version_info[:3]))
    name = "python" + ".".join(version.split(".")[:2])
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    is_own = own == version or own.startswith(f"{version}.")
    return is_own or bool(shutil.which(name)) or any(pyenv.glob(f"versions/{version}*"))


def _has_program(program: str, pool: PoolSettings, directory: Path) -> bool:
    """The program is found where a start looks for it: in the pool's environment, else beside this
    Python, and on PATH."""
    if "/" in program:
        return os.access((pool.directory or directory) / program, os.X_OK)
    beside = (
        str(pool.venv / "bin") if pool.venv else str(Path(pool.python or sys.executable).parent)
    )
    path = pool.env.get("PATH") or os.environ.get("PATH") or os.defpath
    return shutil.which(program, path=f"{beside}{os.pathsep}{path}") is not None


def _is_international(host: str) -> bool:
    try:
        return host.encode().decode("idna").encode("idna").decode() == host
    except UnicodeError:
        return "xn--" not in host


def find_unresolved(config: Config) -> list[str]:
    """Warnings about host names that cannot be resolved. Takes up to RESOLVE_SECONDS."""
    asked = [
        (f"{config.source}: server.{key}", getattr(config.server, key))
        for key in ("listen", "admin")
    ]
    for mount in config.mounts:
        if isinstance(mount.target, UpstreamTarget):
            place = f"{config.source}:{mount.where.line}:{mount.where.column}: mounts.{mount.name}"
            asked += [(place, address) for address in mount.target.addresses]
    hosts = {
        (place, split_address(address.removeprefix("http://"))[0]): None
        for place, address in asked
        if not address.startswith(("unix:", "pool:"))
    }
    wanted = {host for _, host in hosts if not is_address(host)}
    unknown = {host: why for host, why in _resolve(wanted).items() if why}
    return [f"{place}: {quote(host)} {unknown[host]}" for place, host in hosts if host in unknown]


def _resolve(hosts: set[str]) -> dict[str, str]:
    """Why each host is not found; "" if it is."""

    def ask(host: str) -> str:
        try:
            socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or error
            return f"is not found from here: {why}"
        return ""

    found: dict[str, str] = {}
    threads = [
        Thread(target=lambda host=host: found.update({host: ask(host)}), daemon=True)
        for host in sorted(hosts)[:MAX_NAMES]
    ]
    ends = time.monotonic() + RESOLVE_SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0, ends - time.monotonic()))
    late = f"was not found within {RESOLVE_SECONDS:g} s"
    return {host: found.get(host, late) for host in sorted(hosts)[:MAX_NAMES]}
