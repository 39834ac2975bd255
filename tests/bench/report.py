"""Figures to Markdown: the targets, a table for each workload, the machine, and the command.

A figure is the median of the rounds; a ratio is taken within each round, and then the median.
"""

import os
import platform
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

from edge import PREFIX
from servers import ALONE, PEERS, ROOT, THREADED
from workloads import SERVERS, WORKLOADS

PAGE = ROOT / "docs" / "performance.md"
README = ROOT / "README.md"
Run = dict[str, Any]
Figures = dict[str, Any]
Target = tuple[str, str, float | None]


def glance(figures: Figures) -> str:
    """One server's round on one line."""
    return figures.get("failed") or ", ".join(
        f"{name} {value:,.1f}" for name, value in figures.items() if isinstance(value, float)
    )


def describe_machine() -> dict[str, str]:
    """What the figures depend on and this program did not choose."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    return {
        "processor": f"{model}, {os.cpu_count()} cores",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "load before": "{:.1f} {:.1f} {:.1f}".format(*os.getloadavg()),
    }


class Rounds:
    """The figures of a run, by workload, server and round."""

    def __init__(self, run: Run) -> None:
        self._results = run["results"]

    def of(self, workload: str, server: str) -> list[Figures]:
        return [r for r in self._results if (r["workload"], r["server"]) == (workload, server)]

    def median(self, workload: str, server: str, key: str) -> float | None:
        values = [r[key] for r in self.of(workload, server) if r.get(key) is not None]
        return median(values) if values else None

    def ratio(self, workload: str, key: str, ours: str, theirs: str) -> float | None:
        """Ours over theirs, the median of the rounds in which both have a figure."""
        pairs = zip(self.of(workload, ours), self.of(workload, theirs), strict=False)
        ratios = [a[key] / b[key] for a, b in pairs if a.get(key) and b.get(key)]
        return median(ratios) if ratios else None


def add_extra(results: list[Figures]) -> None:
    """What the hop to a pool costs over the gateway alone, in the same round."""
    hops = [figures for figures in results if figures["workload"] == "hop"]
    alone = {f["round"]: f.get("cpu_us") for f in hops if f["server"] == "gateway"}
    for figures in hops:
        base, own = alone.get(figures["round"]), figures.get("cpu_us")
        if base and own and figures["server"] != "gateway":
            figures["extra_cpu_us"] = own - base


def write(run: Run) -> str:
    """The complete report."""
    rounds = Rounds(run)
    parts = [write_summary(rounds), describe_run(run), write_targets(targets(rounds))]
    for workload in WORKLOADS.values():
        names = [name for name in workload.servers if rounds.of(workload.name, name)]
        if names:
            parts.append(f"### {workload.title}\n\n{write_table(rounds, workload.name, names)}")
    return "\n\n".join(part for part in parts if part)


SUMMARY = {
    "a browser's request, as the stack's nginx forwards it": "proxied",
    "a browser's request": "browser",
    "the same small request again and again": "hello",
    "a browser's request through nginx, both together": "nginx",
}
SERVERS_OF_SUMMARY = {
    "gateway, JSON log": "gateway-log",
    "gateway, no log": "gateway",
    "Granian": "granian",
    "bjoern": "bjoern",
    "uWSGI": "uwsgi",
    "Gunicorn, gevent": "gunicorn",
}


def write_summary(rounds: Rounds) -> str:
    """CPU of what matters most, first."""
    titles = ["CPU µs per request", *SERVERS_OF_SUMMARY]
    lines = [titles, ["---"] + ["---:"] * len(SERVERS_OF_SUMMARY)]
    for title, workload in SUMMARY.items():
        prefix = PREFIX if workload == "nginx" else ""
        names = [f"{prefix}{name}" for name in SERVERS_OF_SUMMARY.values()]
        values = [rounds.median(workload, name, "cpu_us") for name in names]
        if any(values):
            lines.append([title, *("" if v is None else f"{v:,.1f}" for v in values)])
    return write_rows(lines) if len(lines) > 2 else ""


def write_for_readme(run: Run) -> str:
    """The summary, and what it depends on."""
    processor, python, load = (run["machine"][x] for x in ("processor", "Python", "load before"))
    place = f"{processor}, Python {python}, load average before: {load}."
    return f"{write_summary(Rounds(run))}\n\n{place}"


def write_rows(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def describe_run(run: Run) -> str:
    lines = [f"- {name}: {value}" for name, value in run["machine"].items()]
    lines.append(f"- command: `{run['command']}`; {run['rounds']} rounds of {run['seconds']:g} s")
    for name, version in run["versions"].items():
        lines.append(f"- `{name}`: {version}; {SERVERS[name].setup}")
    lines += [f"- `{name}`: {reason}" for name, reason in run["absent"].items()]
    return "\n".join(lines)


def write_table(rounds: Rounds, workload: str, names: list[str]) -> str:
    """One workload; a column only where some server has a figure for it."""
    rows = []
    for name in names:
        figures = rounds.of(workload, name)
        row = {"server": name}
        for title, key, show in COLUMNS:
            value = rounds.median(workload, name, key)
            if value is not None:
                row[title] = show(value)
        ratio = rounds.ratio(workload, "cpu_us", name, names[0])
        if ratio is not None:
            row[f"CPU ÷ {names[0]}"] = f"{ratio:.2f}"
        row["faults"] = describe_faults(figures)
        rows.append(row)
    titles = list(dict.fromkeys(title for row in rows for title in row if row[title]))
    lines = [titles, ["---"] + ["---:"] * (len(titles) - 1)]
    lines += [[row.get(title, "") for title in titles] for row in rows]
    return write_rows(lines)


COLUMNS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("requests/s", "requests_per_second", lambda v: f"{v:,.0f}"),
    ("CPU µs/request", "cpu_us", lambda v: f"{v:,.1f}"),
    ("CPU µs more than gateway", "extra_cpu_us", lambda v: f"{v:,.1f}"),
    ("p50 ms", "p50_us", lambda v: f"{v / 1000:,.3f}"),
    ("p99 ms", "p99_us", lambda v: f"{v / 1000:,.2f}"),
    ("memory MiB", "memory_bytes", lambda v: f"{v / 2**20:,.1f}"),
    ("connections held", "connections", lambda v: f"{v:,.0f}"),
    ("bytes/connection", "bytes_per_connection", lambda v: f"{v:,.0f}"),
    ("bytes/further connection", "bytes_per_further_connection", lambda v: f"{v:,.0f}"),
    ("MiB/app", "memory_per_app_bytes", lambda v: f"{v / 2**20:,.1f}"),
    ("processes", "processes", lambda v: f"{v:,.0f}"),
    ("start s", "start_seconds", lambda v: f"{v:,.2f}"),
    ("start CPU s", "start_cpu_seconds", lambda v: f"{v:,.2f}"),
    ("reload s", "reload_seconds", lambda v: f"{v:,.2f}"),
    ("reload CPU s", "reload_cpu_seconds", lambda v: f"{v:,.2f}"),
    ("growth MiB", "growth_bytes", lambda v: f"{v / 2**20:,.2f}"),
)


def describe_faults(figures: list[Figures]) -> str:
    """What went wrong in any round: wrk's errors by kind, and rounds without figures."""
    counts: dict[str, int] = {}
    for each in figures:
        for kind, count in each.get("errors", {}).items():
            if count:
                counts[kind] = counts.get(kind, 0) + count
    reasons = [each["failed"].replace("|", "/") for each in figures if "failed" in each]
    return "; ".join([*(f"{count} {kind}" for kind, count in counts.items()), *reasons[:1]])


def write_targets(targets: list[Target]) -> str:
    """The targets and the measured values."""
    lines = []
    for title, bound, value in targets:
        if value is not None and not bound:
            lines.append(f"| {title} | | {value:,.2f} | |")
        elif value is not None:
            sign, limit = bound.split()
            met = value >= float(limit) if sign == "≥" else value <= float(limit)
            if sign == "<":
                met = value < float(limit)
            lines.append(f"| {title} | {bound} | {value:,.2f} | {'yes' if met else 'no'} |")
    if not lines:
        return ""
    return "\n".join(["| target | bound | measured | met |", "| --- | --- | ---: | --- |", *lines])


def targets(rounds: Rounds) -> list[Target]:
    """Each target's name, bound and measured value."""

    def cpu(workload: str, theirs: str, ours: str = "gateway") -> float | None:
        return rounds.ratio(workload, "cpu_us", ours, theirs)

    def own(workload: str, key: str, unit: int = 1) -> float | None:
        value = rounds.median(workload, "gateway", key)
        return None if value is None else value / unit

    def latency(workload: str, key: str, ours: str, peers: Iterable[str]) -> float | None:
        """Ours over the best peer's."""
        ratios = [rounds.ratio(workload, key, ours, peer) for peer in peers]
        return max((ratio for ratio in ratios if ratio is not None), default=None)

    def p99(workload: str, ours: str) -> float | None:
        return latency(workload, "p99_us", ours, THREADED)

    best_p50 = latency("hello-1", "p50_us", "gateway", PEERS)
    growth, idle, further = "growth_bytes", "bytes_per_connection", "bytes_per_further_connection"
    log = "gateway-log"

    def nginx(theirs: str, ours: str = log) -> float | None:
        return cpu("nginx", f"{PREFIX}{theirs}", f"{PREFIX}{ours}")

    return [
        ("proxied, log on, CPU ÷ granian", "≤ 1.15", cpu("proxied", "granian", log)),
        ("proxied, log on, p99 ÷ the best threaded peer's", "< 1.0", p99("proxied", log)),
        ("browser, CPU ÷ granian", "≤ 0.8", cpu("browser", "granian")),
        ("browser, CPU ÷ bjoern", "≤ 2.0", cpu("browser", "bjoern")),
        ("browser, log on, CPU ÷ granian", "≤ 0.9", cpu("browser", "granian", log)),
        ("browser, p99 ÷ the best threaded peer's", "< 1.0", p99("browser", "gateway")),
        ("hello, CPU ÷ granian", "≤ 0.85", cpu("hello", "granian")),
        ("the same, each held to one core", "", cpu("hello-core", "granian")),
        ("hello, CPU ÷ bjoern", "≤ 1.5", cpu("hello", "bjoern")),
        ("hello, log on, CPU ÷ granian", "≤ 1.0", cpu("hello", "granian", log)),
        ("the same, held to one core", "", cpu("hello-core", "granian", log)),
        ("hello, p99 ÷ the best threaded peer's", "< 1.0", p99("hello", "gateway")),
        ("through nginx, log on, CPU ÷ nginx-granian", "≤ 1.1", nginx("granian")),
        ("through nginx, log on, CPU ÷ nginx-uwsgi", "≤ 0.65", nginx("uwsgi")),
        ("through nginx, log on, CPU ÷ nginx-gunicorn", "≤ 0.25", nginx("gunicorn")),
        ("through nginx, log on, CPU ÷ nginx alone", "", cpu("nginx", "nginx", f"{PREFIX}{log}")),
        ("hop to a pool, CPU µs", "≤ 20", rounds.median("hop", "gateway-pool", "extra_cpu_us")),
        ("hop and pool worker, CPU µs", "≤ 50", rounds.median("hop", "gateway-pool", "cpu_us")),
        (
            "through nginx and to a pool, CPU ÷ nginx-gunicorn",
            "< 1.0",
            nginx("gunicorn", "gateway-pool"),
        ),
        ("form, CPU ÷ granian", "≤ 0.75", cpu("form", "granian")),
        ("json 20 KiB, CPU ÷ granian", "", cpu("json", "granian")),
        ("Flask page, CPU ÷ the page alone", "≤ 1.15", cpu("page", ALONE.name)),
        ("the same for bjoern", "", cpu("page", ALONE.name, "bjoern")),
        ("50 ms wait, requests/s", "≥ 9000", own("wait", "requests_per_second")),
        ("50 ms wait, CPU ÷ gunicorn", "≤ 0.25", cpu("wait", "gunicorn")),
        ("new connections, CPU ÷ granian", "≤ 0.95", cpu("close", "granian")),
        ("1 MiB out, CPU ÷ uwsgi", "≤ 1.0", cpu("download", "uwsgi")),
        ("64 KiB streamed, CPU ÷ granian", "≤ 1.0", cpu("stream", "granian")),
        ("1 MiB in, CPU ÷ uwsgi", "≤ 1.2", cpu("upload", "uwsgi")),
        ("idle connection, KiB", "≤ 2", own("idle", idle, 1024)),
        ("idle connection, KiB, from 2,000 to 8,000", "≤ 2", own("idle", further, 1024)),
        ("1 GiB in, growth in MiB", "< 4", own("long-upload", growth, 2**20)),
        ("1 GiB out, growth in MiB", "< 4", own("long-download", growth, 2**20)),
        ("10,000 mounts, CPU ÷ 10", "≤ 1.05", cpu("mounts", "gateway-10", "gateway-10000")),
        ("hello on one connection, p50 ÷ the best peer's", "< 1.0", best_p50),
    ]


def insert(text: str, block: str = "bench", page: Path = PAGE) -> None:
    """Put the report between the page's markers of that name."""
    begin, end = f"<!-- {block}: begin -->", f"<!-- {block}: end -->"
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
