"""The command ``gateway``: arguments, exit codes and output.

Exit codes: 0 success, 1 other errors, 2 invalid usage or configuration, 3 an app does not load, or
its probe fails.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote, urlsplit

from gateway import __version__
from gateway.commands.development import for_development, prepare_dev_mode
from gateway.commands.remote import add_commands
from gateway.config.kinds import KINDS
from gateway.config.load import read_config, read_in_time, read_table
from gateway.config.model import (
    AppTarget,
    Config,
    Mount,
    RedirectTarget,
    StaticTarget,
    UpstreamTarget,
)
from gateway.config.parse import describe_clash
from gateway.config.text.problems import BadValueError
from gateway.config.text.problems import quote as shown
from gateway.config.values.addresses import parse_address, parse_network
from gateway.errors import AppLoadError, ConfigError, GatewayError
from gateway.http.dispatch import LoadedMount, MountTable
from gateway.logs import choose_style, configure_logs, hide_controls, report_dropped
from gateway.outlet import Outlet, finish
from gateway.streams import OutletStream, find_closed
from gateway.uncaught import report_uncaught

DEFAULT_TABLE = Path("apps/mounts.yaml")
EXIT_OTHER, EXIT_CONFIG, EXIT_APP_LOAD = 1, 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    fill_closed()
    options = build_parser().parse_args(arguments)
    try:
        exit_code: int = options.run(options)
        sys.stdout.flush()  # here, where BrokenPipeError is handled
        return exit_code
    except ConfigError as error:
        return complain("\n".join(error.problems), EXIT_CONFIG)
    except AppLoadError as error:
        return complain(str(error), EXIT_APP_LOAD)
    except GatewayError as error:
        return complain(f"gateway: {error}", EXIT_OTHER)
    except BrokenPipeError:
        # such as `gateway routes | head`
        silence(sys.stdout)
        return 0
    except OSError as error:  # such as a full disk
        silence(sys.stdout)
        return complain(f"gateway: {error}", EXIT_OTHER)
    except KeyboardInterrupt:
        return 130


def complain(text: str, exit_code: int) -> int:
    """Print an error to stderr, if that is possible; returns ``exit_code``."""
    try:
        print(hide_controls(text), file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)
    return exit_code


def silence(stream: TextIO) -> None:
    """Discard what ``stream`` still buffers, since it cannot be written."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def fill_closed() -> None:
    """Open closed standard streams (``gateway check >&-``) as /dev/null: otherwise the next socket
    gets the number, and receives what is printed."""
    for _ in find_closed():
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    table = argparse.ArgumentParser(add_help=False)
    table.add_argument(
        "-c",
        "--config",
        type=Path,
        default=DEFAULT_TABLE,
        metavar="FILE",
        help="the table (default: %(default)s)",
    )
    parser = argparse.ArgumentParser(
        prog="gateway", description="Serve many WSGI apps from one YAML table."
    )
    parser.add_argument("--version", action="version", version=f"gateway {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    add_serve(commands, table)

    check = commands.add_parser(
        "check",
        parents=[table],
        help="check the table, load its apps and run their probes, without serving",
    )
    how_far = check.add_mutually_exclusive_group()
    how_far.add_argument(
        "--table-only", action="store_true", help="only read the table, do not load the apps"
    )
    how_far.add_argument(
        "--start", action="store_true", help="also start the commands of pools and wait for them"
    )
    check.set_defaults(run=run_check)

    routes = commands.add_parser("routes", parents=[table], help="list the mounts")
    routes.add_argument("--json", action="store_true", help="print JSON")
    routes.set_defaults(run=run_routes)

    match = commands.add_parser("match", parents=[table], help="show which mount answers a URL")
    match.add_argument("url", metavar="URL", help="a URL or a path")
    match.add_argument("--json", action="store_true", help="print JSON")
    match.set_defaults(run=run_match)

    add_commands(commands, table, DEFAULT_TABLE)

    schema = commands.add_parser("schema", help="print the table's JSON Schema, for editors")
    schema.set_defaults(run=run_schema)
    return parser


def add_serve(commands: Any, table: argparse.ArgumentParser) -> None:
    """``gateway serve`` and its options."""
    serve = commands.add_parser("serve", parents=[table], help="serve the table")
    serve.add_argument(
        "--listen", metavar="ADDR", help="HOST:PORT or unix:/path, instead of the table's"
    )
    serve.add_argument(
        "--trust",
        metavar="PEER",
        action="append",
        default=[],
        help="trust a proxy in addition to the table's trusted_proxies: an address, a CIDR or "
        "unix:USER",
    )
    how_many = serve.add_mutually_exclusive_group()
    how_many.add_argument(
        "--workers", type=positive, metavar="N", help="number of workers, instead of the table's"
    )
    how_many.add_argument(
        "--dev",
        action="store_true",
        help="for writing apps: one worker, a reload each time code is saved, text logs, and "
        "tracebacks on error pages",
    )
    serve.add_argument(
        "--live",
        action="store_true",
        help="with --dev: reload pages in the browser when their code has been reloaded",
    )
    serve.set_defaults(run=run_serve)


def positive(text: str) -> int:
    """Parse a positive integer."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def run_serve(options: argparse.Namespace) -> int:
    """``gateway serve``"""
    from gateway.supervisor.supervise import Supervisor

    if options.dev:
        prepare_dev_mode()
    elif options.live:
        raise ConfigError(["--live: add --dev, which reloads code on each save"])
    changes: dict[str, Any] = {}
    if options.listen is not None:
        changes["listen"] = parse_option("--listen", "address", options.listen)
    if options.workers:
        changes["workers"] = options.workers
    trusted = tuple(parse_option("--trust", "networks", peer) for peer in options.trust)

    def read(table: Path) -> Config:
        config = read_config(table, os.environ)
        proxies = config.server.trusted_proxies + trusted
        server = dataclasses.replace(config.server, trusted_proxies=proxies, **changes)
        config = dataclasses.replace(config, server=server)
        if options.dev:
            config = for_development(config, is_live=options.live)
        if clash := describe_clash(config.server):
            raise ConfigError([f"--listen: {clash}"])
        return config

    config = read_in_time(lambda: read(options.config))
    errors = Outlet(2)
    sys.stderr = OutletStream(errors, 2)
    configure_logs(choose_style(config.server.access_log), stream=sys.stderr)
    report_uncaught()
    report_dropped(errors)
    try:
        return Supervisor(config, read, lambda: errors.dropped).run()
    finally:
        finish(errors)


def parse_option(option: str, kind: str, text: str) -> Any:
    """Parse ``text`` as the table's key with this ``kind`` does. Raises ConfigError."""
    parse = {"address": parse_address, "networks": parse_network}[kind]
    try:
        return parse(text)
    except BadValueError as bad:
        expected = bad.expected or KINDS[kind].expected
        hint = f": {bad.hint}" if bad.hint else ""
        problem = f"{option}: expected {expected}, got {shown(text)}{hint}"
        raise ConfigError([problem]) from bad


def run_check(options: argparse.Namespace) -> int:
    """``gateway check``"""
    from gateway.commands.check import check

    config = read_table(options.config)
    return check(config, loads=not options.table_only, starts=options.start)


def run_routes(options: argparse.Namespace) -> int:
    """``gateway routes``"""
    mounts = sorted(read_table(options.config).mounts, key=lambda m: (m.host or "", m.prefix))
    if options.json:
        print(json.dumps([describe_mount(mount) for mount in mounts], indent=2, ensure_ascii=False))
        return 0
    width = max((len(mount.name) for mount in mounts), default=0)
    for mount in mounts:
        kind, target = describe_target(mount)
        print(f"{mount.name:<{width}}  {kind:<8}  {target}")
    return 0


def describe_target(mount: Mount) -> tuple[str, str]:
    """The kind and the target of a mount."""
    match mount.target:
        case AppTarget(import_string=import_string):
            return "app", import_string
        case StaticTarget(directory=directory):
            return "static", str(directory)
        case RedirectTarget(location=location, status=status):
            return "redirect", f"{location} ({status})"
        case UpstreamTarget(addresses=addresses):
            return "upstream", ", ".join(addresses)


def describe_mount(mount: Mount) -> dict[str, Any]:
    """A mount for JSON; durations in seconds, sizes in bytes."""
    kind, target = describe_target(mount)
    return {
        "mount": mount.name,
        "host": mount.host,
        "prefix": mount.prefix or "/",
        "kind": kind,
        "target": target,
        "line": mount.where.line,
        **dataclasses.asdict(mount.limits),
    }


def run_match(options: argparse.Namespace) -> int:
    """``gateway match URL``"""
    config = read_table(options.config)
    host, path = split_url(options.url)
    by_name = {mount.name: mount for mount in config.mounts}
    table = MountTable(
        LoadedMount(name=m.name, host=m.host, prefix=m.prefix, app=_never_called, limits=m.limits)
        for m in config.mounts
    )
    found = table.match(host, path)
    if found is None:
        print(f"nothing is mounted at {options.url}: 404", file=sys.stderr)
        return EXIT_OTHER
    mounted, path_info, _ = found
    mount = by_name[mounted.name]
    answer = {
        **describe_mount(mount),
        "SCRIPT_NAME": mounted.script_name,
        "PATH_INFO": path_info,
        "because": explain_match(mount, host),
    }
    if options.json:
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    else:
        kind, target = describe_target(mount)
        print(f"mount        {mount.name}  ({config.source}:{mount.where.line})")
        print(f"{kind:<12} {target}")
        print(f"SCRIPT_NAME  {mounted.script_name!r}")
        print(f"PATH_INFO    {path_info!r}")
        print(f"timeout      {mount.limits.timeout_seconds:g} s")
        print(f"max_body     {mount.limits.max_body_bytes} bytes")
        print(f"because      {answer['because']}")
    return 0


def split_url(url: str) -> tuple[str, str]:
    """Host (lower case, "" for none) and encoded path of a URL or path, as a client sends them."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
        host = host if host.isascii() else host.encode("idna").decode()
    except ValueError as error:
        raise ConfigError([f"{url}: not a URL: {error}"]) from error
    if not url.startswith("/") and not parts.netloc:
        raise ConfigError([f"{url}: expected a path such as /notes or a URL with http://"])
    return host, quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")


def explain_match(mount: Mount, host: str) -> str:
    """Why this mount handles the request."""
    where = f"of the mounts of {mount.host}" if mount.host else "of the mounts of any host"
    if host and not mount.host:
        where += f" (no mount of {host} matches)"
    return f"{mount.prefix or '/'} is the longest prefix, ending at a slash or the end, {where}"


def _never_called(*_: Any) -> list[bytes]:
    raise AppLoadError("only looked up")


def run_schema(options: argparse.Namespace) -> int:
    """``gateway schema``"""
    from gateway.config.describe.schema import build_schema

    print(json.dumps(build_schema(), indent=2, ensure_ascii=False))
    return 0
