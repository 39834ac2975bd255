"""The table: text to a frozen, validated Config, or every problem at once.

Imports no apps and opens no sockets; of the file system it only checks that what the table names
exists. Source: the settings made from the model.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.config.model import Config, ServerSettings
from gateway.config.mounttable import parse_mounts
from gateway.config.pooltable import check_memory, parse_pools
from gateway.config.reader import Entries, Reader
from gateway.config.settings import DEFAULTS, LIMITS, POOL_LIMITS, SECTIONS, SERVER, take
from gateway.config.text.interpolate import Interpolator
from gateway.config.text.nodes import YamlError, parse_yaml
from gateway.config.text.problems import Problems
from gateway.config.values.addresses import do_addresses_clash
from gateway.limits import Limits, PoolLimits

MIN_SILENCE_SECONDS = 0.2


def parse_config(text: str, source: str, directory: Path, environ: Mapping[str, str]) -> Config:
    """The table in ``text``. ``source`` is its name in messages; ``directory`` is absolute, and
    what the table names is relative to it. Raises ConfigError."""
    problems = Problems(source)
    reader = Reader(problems, Interpolator(environ, directory))
    try:
        root = parse_yaml(text)
    except YamlError as exc:
        problems.add(exc, "", str(exc))
        raise problems.error() from exc
    sections = reader.unique_pairs(root, "")
    for name, pair in sections.items():
        if name not in SECTIONS:
            reader.unknown_key(pair.key, "", SECTIONS)
    server = _parse_server(reader, sections)
    defaults = _parse_defaults(reader, sections)
    pools = parse_pools(reader, _section(reader, sections, "pools"))
    if "mounts" in sections:
        mounts, used = parse_mounts(reader, sections["mounts"].value, defaults, pools)
    else:
        problems.add(root, "mounts", 'missing: add "mounts:" and a mount such as "/: welcome:app"')
    problems.raise_any()
    names = {pool.name for pool in used}
    files = reader.interpolator.files | {str(p.env_file) for p in used if p.env_file}
    return Config(
        source=source,
        directory=directory,
        server=server,
        mounts=mounts,
        pools=used,
        unused_pools=tuple(pool for pool in pools.values() if pool.name not in names),
        files=tuple(sorted(files)),
    )


def _section(reader: Reader, sections: Entries, name: str) -> Entries:
    if name not in sections:
        return {}
    return reader.pairs(sections[name].value, name, "a mapping of settings") or {}


def _parse_defaults(reader: Reader, sections: Entries) -> dict[str, Any]:
    pairs = _section(reader, sections, "defaults")
    return reader.settings(pairs, "defaults", DEFAULTS)


def _parse_server(reader: Reader, sections: Entries) -> ServerSettings:
    pairs = _section(reader, sections, "server")
    values = reader.settings(pairs, "server", SERVER)
    limits = Limits(**take(values, LIMITS))
    pool_limits = PoolLimits(**take(values, POOL_LIMITS))
    server = ServerSettings(**values, limits=limits, pool_limits=pool_limits)
    _check_server(reader, pairs, server)
    return server


def describe_clash(server: ServerSettings) -> str:
    """Why its two listeners cannot both be opened; "" if they can."""
    if not do_addresses_clash(server.listen, server.admin):
        return ""
    both = f'"{server.listen}" for requests and "{server.admin}" for admin'
    return f"{both} cannot both be opened: choose another port"


def _check_server(reader: Reader, pairs: Entries, server: ServerSettings) -> None:
    """Check values against each other."""
    limits = server.limits

    def problem(keys: tuple[str, ...], message: str) -> None:
        key = next((key for key in keys if key in pairs), None)
        if key is not None:
            reader.problems.add(pairs[key].value, f"server.{key}", message)

    if clash := describe_clash(server):
        problem(("admin", "listen"), clash)
    if server.proxy_protocol and not server.trusted_proxies:
        message = "nobody could connect: name the proxies that send it in trusted_proxies"
        problem(("proxy_protocol",), message)
    for key in ("block_warn", "block_timeout"):
        if 0 < getattr(limits, f"{key}_seconds") < MIN_SILENCE_SECONDS:
            message = f"a busy event loop may be blocked for {MIN_SILENCE_SECONDS:g} s by itself"
            problem((key,), f"{message}: raise it, or 0 for never")
    check_memory(reader, pairs, "server", server.pool_limits)
    if limits.max_request_line_bytes > limits.max_head_bytes:
        message = "max_request_line is larger than max_head, of which it is a part"
        problem(("max_request_line", "max_head"), f"{message}: lower it or raise max_head")
