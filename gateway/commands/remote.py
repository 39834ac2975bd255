"""The commands for a running gateway: their arguments and output.

The gateway is found by its table, which names the control socket, or by the table's path.
"""

import argparse
import contextlib
import json
import re
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from gateway.config.compare.plan import build_plan
from gateway.config.load import read_in_time, read_table
from gateway.config.values.units import format_size
from gateway.errors import ConfigError, GatewayError
from gateway.file_tasks import touching
from gateway.logs import escape_controls, hide_controls
from gateway.supervisor.generations.failures import describe_troubles
from gateway.supervisor.listeners.control import Answer, send_command
from gateway.supervisor.listeners.socket_paths import find_control
from gateway.supervisor.reload import explain

EXIT_CHANGES = 10
CODE = " in the table; `gateway reload` reloads the code"
# for each file that the table names; the control socket can be found without them
LOCATE_SECONDS = 1.0
# consecutive crashes that are shown as a crash loop
MIN_CRASHES = 2
# also in an invalid table
CONTROL_LINE = re.compile(r"""\bcontrol:\s*["']?(unix:/[^\s"',}]+)""")


def add_commands(commands: Any, table: argparse.ArgumentParser, default_table: Path) -> None:
    """Add them to the command line; ``table`` has the option that names the table."""
    plan = commands.add_parser(
        "plan",
        help="show what an edit would change",
        description="Show what the running gateway would change if it served FILE, or its own "
        "table as saved. With -c and FILE: what changes between the two, without a running "
        "gateway. Exit codes: 0 no changes, 10 changes, 2 mistakes in the table.",
    )
    plan.add_argument(
        "-c",
        "--config",
        type=Path,
        metavar="TABLE",
        help=f"the running gateway's table (default: {default_table}), or the one to compare with",
    )
    plan.add_argument("file", type=Path, nargs="?", metavar="FILE", help="another table")
    plan.set_defaults(run=run_plan, default_table=default_table)
    reload = commands.add_parser(
        "reload",
        parents=[table],
        help="load the table and the code of the apps again",
        description="Load the code of all apps again, and serve the table as saved. With names: "
        "only the pools of these mounts, or these pools, get new workers; main is the pool of the "
        "front workers. Exit codes: 0 success, 2 mistakes in the table, 3 an app does not load.",
    )
    reload.add_argument(
        "names", nargs="*", metavar="MOUNT|POOL", help="a mount's key, such as /notes, or a pool"
    )
    reload.set_defaults(run=run_reload)
    rollback = commands.add_parser(
        "rollback", parents=[table], help="go back to what was served before the last reload"
    )
    rollback.set_defaults(run=run_rollback)
    status = commands.add_parser(
        "status", parents=[table], help="show generations, workers, mounts and the last reload"
    )
    form = status.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument(
        "--failed", action="store_true", help="only mounts that do not serve, and why"
    )
    status.set_defaults(run=run_status)
    stop = commands.add_parser(
        "stop", parents=[table], help="let requests in flight finish, and stop the gateway"
    )
    stop.set_defaults(run=run_stop)


def ask_gateway(table: Path, command: str, **more: str | list[str]) -> Answer:
    """Send a command to the gateway that serves ``table``, and print its progress. Raises
    GatewayError if there is none."""
    return send_command(locate_control(table), command, _show, patience_seconds=None, **more)


def _show(progress: str) -> None:
    show(progress, sys.stderr)


def show(text: str, stream: TextIO | None = None) -> None:
    """Print the gateway's output without control characters: it may contain messages of apps'
    exceptions."""
    print(hide_controls(text), file=stream)


def locate_control(table: Path) -> Path:
    """The control socket of the gateway that serves ``table``, even if the table is invalid now."""
    try:
        control = read_table(table, LOCATE_SECONDS).server.control
    except ConfigError:
        text = read_in_time(lambda: _read_text(table))
        found = CONTROL_LINE.search(text)
        control = found[1] if found else "auto"
    return find_control(control, table)


def _read_text(table: Path) -> str:
    with touching(lambda: str(table)), contextlib.suppress(OSError):
        # a regular file: reading a pipe would block
        return table.read_text("utf-8", "replace") if table.is_file() else ""
    return ""


def run_plan(options: argparse.Namespace) -> int:
    """``gateway plan``"""
    if options.config and options.file:
        old, new = (read_table(path) for path in (options.config, options.file))
        plan = build_plan(old, new)
        answer: Answer = {"exit_code": EXIT_CHANGES if plan else 0, "messages": plan.describe()}
    else:
        more = {"file": str(options.file.absolute())} if options.file else {}
        answer = ask_gateway(options.config or options.default_table, "plan", **more)
    exit_code: int = answer["exit_code"]
    stream = sys.stdout if exit_code == EXIT_CHANGES else sys.stderr
    for message in answer["messages"]:
        show(message, stream)
    if not exit_code:
        is_running = not (options.config and options.file)
        print(f"no changes{CODE if is_running else ''}")
    return exit_code


def run_reload(options: argparse.Namespace) -> int:
    """``gateway reload``; waits for the outcome."""
    more = {"names": list(options.names)} if options.names else {}
    return print_outcome(ask_gateway(options.config, "reload", **more), str(options.config))


def run_rollback(options: argparse.Namespace) -> int:
    """``gateway rollback``"""
    return print_outcome(ask_gateway(options.config, "rollback"), "the previous table")


def print_outcome(outcome: Answer, what: str) -> int:
    """Print the outcome of a reload or rollback; returns the exit code."""
    if not outcome:
        raise GatewayError("the gateway stopped before the reload finished")
    exit_code: int = outcome["exit_code"]
    for message in outcome["messages"]:
        show(message, sys.stderr)
    if outcome.get("how"):
        generation, seconds, how = (outcome[key] for key in ("generation", "seconds", "how"))
        # that of the front workers, unless a reload by name left them alone
        serves = f"generation {generation} serves" if _renews_front(how) else "served"
        rest = "; the mounts above answer 503" if exit_code else ""
        show(f"{what}: {serves} after {seconds:.2f} s, {explain(how)}{rest}")
    return exit_code


def _renews_front(how: str) -> bool:
    return not re.match("(new|standby) workers of |asleep", how)


def run_stop(options: argparse.Namespace) -> int:
    """``gateway stop``; waits until the gateway has stopped."""
    answer = ask_gateway(options.config, "stop")
    if answer:
        raise GatewayError("\n".join(answer["messages"]))
    print("stopped")
    return 0


def run_status(options: argparse.Namespace) -> int:
    """``gateway status``"""
    report = ask_gateway(options.config, "status")
    if options.json:
        print(escape_controls(json.dumps(report, indent=2, ensure_ascii=False)))
    elif options.failed:
        for line in describe_troubles(report["mounts"]):
            show(line.strip())
    else:
        show("\n".join(format_status(report)))
    return 0


def format_status(report: Answer) -> list[str]:
    """The status report in lines of text."""
    failed = [mount for mount in report["mounts"] if mount["state"] == "failed"]
    lines = [
        f"gateway      {report['status']}, pid {report['pid']}, table {report['table']}",
        f"mounts       {len(report['mounts'])}, failed: {len(failed)}",
        *describe_troubles(report["mounts"]),
    ]
    lines += describe_reload(report["last_reload"])
    workers = [worker for generation in report["generations"] for worker in generation["workers"]]
    if dropped := report["dropped"] + sum(worker["dropped"] or 0 for worker in workers):
        lines.append(f"logs         {dropped} lines dropped: the logs were not read in time")
    for generation in report["generations"]:
        age = describe_age(generation["age"])
        name = f"{generation['pool']} {generation['generation']}"
        more = describe_crashes(generation)
        if queued := generation.get("queued"):
            more += f", workers waiting to load: {queued}"
        lines.append(f"{name:<12} {generation['state']}, {age} old{more}")
        for worker in generation["workers"]:
            lines.append(f"  worker {worker['pid']:<7} {describe_worker(worker)}")
    return lines


def describe_crashes(generation: Answer) -> str:
    """A crash loop of a generation's workers, "" for none."""
    if generation["crashes"] < MIN_CRASHES:
        return ""
    delay = generation["delay"]
    return f", crash loop: {generation['crashes']} times in a row, started again after {delay:g} s"


def describe_worker(worker: Answer) -> str:
    """A worker in one line."""
    loading = f", at {worker['loading']}" if worker["loading"] else ""
    silent = f", silent for {worker['silent']:.1f} s" if worker["silent"] else ""
    served = f"requests {worker['requests']}, in flight {worker['in_flight']}"
    return (
        f"{worker['state']}{loading}{silent}, {describe_age(worker['age'])} old, "
        f"{worker.get('address') or served}, {describe_memory(worker['memory'])}"
    )


def describe_reload(last: Answer | None) -> list[str]:
    """The last reload: time, trigger and outcome."""
    if last is None:
        return ["last reload  none since the start"]
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last["finished"]))
    how = (
        "failed, nothing changed"
        if not last["how"]
        else f"{last['generation']} serves, {explain(last['how'])}"
    )
    line = f"last reload  {when}, by {last['trigger']}, after {last['seconds']:.2f} s: {how}"
    return [line, *(f"  {message}" for message in last["messages"])]


def describe_age(seconds: float) -> str:
    """A duration in whole seconds, minutes, hours or days: 90 is ``1m``."""
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds / size)}{unit}"
    return f"{int(seconds)}s"


def describe_memory(count: int) -> str:
    """Bytes, rounded to mebibytes."""
    return format_size(round(count / 2**20) * 2**20)
