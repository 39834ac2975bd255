"""Measures pools on loopback, after the servers: ``python3 tests/bench/pools.py [--quick]``.

The memory of many apps, their starts and reloads; what an app notices of one that computes; a large
table's change in place. Rounds are interleaved as those of the servers. Figures go to .cache/bench,
and those of a whole run into docs/performance.md.
"""

import argparse
import json
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from http.client import HTTPException
from statistics import median
from typing import Any

import neighbour
import report
import twenty
from servers import CACHE, NotMeasuredError, Server, find_ports, install

TITLES = {
    "twenty": "{apps} small Flask apps: memory, start and reload",
    "neighbour": "A request every 5 ms, while another app computes",
    "in-place": f"A table of {twenty.MOUNTS:,} mounts, changed in place",
}

Figures = dict[str, Any]
Measure = Callable[[Server, int], Figures]


def main() -> int:
    options = parse_arguments()
    for program in ("wrk", "taskset"):
        if shutil.which(program) is None:
            print(f"bench: {program} is missing; on Debian: apt install wrk util-linux")
            return 2
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    CACHE.mkdir(parents=True, exist_ok=True)
    machine = report.describe_machine()
    names = twenty.write_apps(options.apps)
    arrangements, neighbours = twenty.arrange(names), neighbour.arrange()
    run = {
        "command": " ".join(["python3 tests/bench/pools.py", *sys.argv[1:]]),
        "machine": machine,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "apps": options.apps,
        "versions": {},
    }
    for server in (arrangements[0], twenty.MANY):
        run["versions"][server.name] = install(server)
    setups = (*arrangements, *neighbours, twenty.MANY)
    run["setups"] = {server.name: server.setup for server in setups}
    run["results"] = [
        *measure_rounds(
            "twenty",
            arrangements,
            options.rounds,
            lambda server, number: twenty.measure(server, names, find_ports(1 + len(names))),
        ),
        *measure_rounds(
            "neighbour",
            neighbours,
            options.rounds,
            # for a tail that one late wake-up does not make
            lambda server, number: neighbour.measure(server, find_ports(2), 4 * options.seconds),
        ),
        *measure_rounds(
            "in-place",
            [twenty.MANY],
            options.rounds,
            lambda server, number: twenty.measure_edit(number + 1, find_ports(2)),
        ),
    ]
    raw = CACHE / f"pools-{time.strftime('%Y%m%d-%H%M%S')}.json"
    raw.write_text(json.dumps(run, indent=1))
    print(write(run))
    print(f"raw figures: {raw}")
    if not options.quick:
        report.insert(write(run), "pools")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/bench/pools.py", description="Measures pools.")
    parser.add_argument("--quick", action="store_true", help="1 round of 1 s, 3 apps")
    options = parser.parse_args()
    options.rounds, options.seconds, options.apps = (1, 1.0, 3) if options.quick else (3, 3.0, 20)
    return options


def measure_rounds(
    workload: str, servers: Iterable[Server], rounds: int, measure: Measure
) -> list[Figures]:
    """The figures of every round of every server, the servers in turn."""
    servers, results = list(servers), []
    for number in range(rounds):
        for server in servers:
            figures: Figures
            try:
                figures = measure(server, number)
            except (NotMeasuredError, OSError, HTTPException) as error:
                figures = {"failed": f"{error}" or type(error).__name__}
            results.append(
                {"workload": workload, "server": server.name, "round": number, **figures}
            )
            line = f"{workload} {number + 1}/{rounds} {server.name}: {report.glance(figures)}"
            print(line, file=sys.stderr, flush=True)
    return results


def write(run: report.Run) -> str:
    """The whole report."""
    rounds = report.Rounds(run)
    parts = [describe(run), report.write_targets(targets(rounds, run["apps"]))]
    for workload, title in TITLES.items():
        names = dict.fromkeys(f["server"] for f in run["results"] if f["workload"] == workload)
        table = report.write_table(rounds, workload, list(names))
        parts.append(f"### {title.format(apps=run['apps'])}\n\n{table}")
    return "\n\n".join(part for part in parts if part)


def describe(run: report.Run) -> str:
    lines = [f"- {name}: {value}" for name, value in run["machine"].items()]
    lines.append(f"- command: `{run['command']}`; {run['rounds']} rounds of {run['seconds']:g} s")
    lines.append(f"- versions: {', '.join(dict.fromkeys(run['versions'].values()))}")
    return "\n".join([*lines, *(f"- `{name}`: {setup}" for name, setup in run["setups"].items())])


def targets(rounds: report.Rounds, apps: int) -> list[report.Target]:
    """Each target's name, bound and measured value."""

    def swap(server: str) -> float | None:
        pairs = [
            f["reload_seconds"] / f["start_seconds"]
            for f in rounds.of("twenty", server)
            if f.get("reload_seconds") and f.get("start_seconds")
        ]
        return median(pairs) if pairs else None

    def p99(ours: str) -> float | None:
        return rounds.ratio("neighbour", "p99_us", ours, "quiet")

    return [
        (f"{apps} apps in one worker, reload ÷ start", "≤ 1.0", swap("shared")),
        (f"{apps} apps in pools, reload ÷ start", "≤ 1.0", swap("own")),
        ("beside an app that computes in its own pool, p99 ÷ quiet", "≤ 1.2", p99("computing")),
        ("the same, with `nice: 10`", "≤ 1.2", p99("nice")),
        (
            f"{twenty.MOUNTS:,} mounts in place, save to served, s",
            "< 2",
            rounds.median("in-place", "in-place", "reload_seconds"),
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
