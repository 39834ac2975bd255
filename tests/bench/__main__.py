"""Measures WSGI servers on loopback: ``python3 tests/bench [--rows A,B] [--servers A,B]``.

Owns the order of a run: round by round, the servers in turn (A B C, A B C, A B C), since a machine
may be slower in one minute than in the next. Figures go to .cache/bench, and those of a whole run
into docs/performance.md and the README.
"""

import argparse
import json
import resource
import shutil
import signal
import sys
import time
from http.client import HTTPException
from typing import Any

import report
from edge import PREFIX, find_nginx, nginx_version
from loads import measure_alone
from servers import ALONE, CACHE, OURS, NotMeasuredError, Place, Running, find_ports, install
from workloads import SERVERS, WORKLOADS, Workload


def main() -> int:
    options = parse_arguments()
    for program in ("wrk", "taskset", "cc", find_nginx()):
        if shutil.which(program) is None:
            print(f"bench: {program} is missing; on Debian: apt install wrk util-linux gcc nginx")
            return 2
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the servers are ended on the way out
    CACHE.mkdir(parents=True, exist_ok=True)
    machine = report.describe_machine() | {"nginx": nginx_version()}
    versions, absent = install_all(options.servers)
    results: list[dict[str, Any]] = []
    for name in options.rows:
        results += measure_rounds(WORKLOADS[name], list(versions), options.rounds, options.seconds)
    report.add_extra(results)
    run = {
        "command": " ".join(["python3 tests/bench", *sys.argv[1:]]),
        "machine": machine,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "versions": versions,
        "absent": absent,
        "results": results,
    }
    raw = CACHE / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    raw.write_text(json.dumps(run, indent=1))
    print(report.write(run))
    print(f"raw figures: {raw}")
    if options.is_whole:
        report.insert(report.write(run))
        report.insert(report.write_for_readme(run), page=report.README)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/bench", description="Measures WSGI servers.")
    parser.add_argument("--rows", metavar="A,B", help=", ".join(WORKLOADS))
    parser.add_argument(
        "--servers", metavar="A,B", help=f"ours, {', '.join(SERVERS)}; behind nginx too"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    options.is_whole = not (options.rows or options.servers)
    options.rows = chosen(parser, "--rows", options.rows, WORKLOADS)
    servers = (options.servers or "").replace("ours", ",".join(OURS))
    names = {*chosen(parser, "--servers", servers, SERVERS), ALONE.name}
    in_rows = dict.fromkeys(name for row in options.rows for name in WORKLOADS[row].servers)
    options.servers = [name for name in in_rows if {name, name.removeprefix(PREFIX)} & names]
    return options


def chosen(
    parser: argparse.ArgumentParser, flag: str, text: str | None, known: dict[str, Any]
) -> list[str]:
    """The names in ``text``, all if there is none; an unknown one ends the program."""
    names = text.split(",") if text else list(known)
    for name in names:
        if name not in known:
            parser.error(f"{flag}: {name!r} is none of: {', '.join(known)}")
    return names


def install_all(names: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The versions of what could be installed, and why the others could not."""
    versions, absent = {}, {}
    for name in names:
        tell(f"installing {name}")
        try:
            versions[name] = install(SERVERS[name])
        except NotMeasuredError as error:
            absent[name] = str(error)
            tell(f"{name}: {error}")
    return versions, absent


def measure_rounds(
    workload: Workload, names: list[str], rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """The figures of every round of every server, the servers in turn."""
    results = []
    for number in range(rounds):
        for name in (name for name in workload.servers if name in names):
            figures: dict[str, Any]
            try:
                figures = measure(workload, name, seconds)
            except (NotMeasuredError, OSError, HTTPException) as error:
                figures = {"failed": f"{error}" or type(error).__name__}
            results.append({"workload": workload.name, "server": name, "round": number, **figures})
            tell(f"{workload.name} {number + 1}/{rounds} {name}: {report.glance(figures)}")
    return results


def measure(workload: Workload, name: str, seconds: float) -> dict[str, Any]:
    """The figures of one server in one round."""
    if name == ALONE.name:
        return measure_alone(seconds)
    port = find_ports(2)  # for the admin listener too
    place = Place(port, str(CACHE / f"{port}.sock") if workload.on_unix else "")
    with Running(SERVERS[name], workload.app, place, workload.cores) as running:
        return workload.measure(running, seconds)


def tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
