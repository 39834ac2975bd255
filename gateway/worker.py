"""One worker process: patch, load the apps, accept, retire or drain, report.

Refuses to know YAML and the other workers. Its supervisor gives it the configuration on stdin, the
listening socket and a control socket by descriptor. It reports on the control socket, one JSON
object a line, obeys what comes there (``accept``, ``retire``), and ends when that is closed or
SIGTERM comes.
"""

# before any other import: an import that keeps a reference to an unpatched function blocks the hub
from gevent import monkey

monkey.patch_all()

# ruff: noqa: E402
import contextlib
import gc
import json
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import gevent
from gevent.queue import Empty, SimpleQueue

from gateway.config.model import AppTarget, Config
from gateway.dispatch import MountTable
from gateway.http.environ import MountInfo, build_base_environ
from gateway.http.forwarded import TrustedProxies
from gateway.http.probe import ask_probe
from gateway.http.server import Server
from gateway.http.service import Service
from gateway.logs import AccessLog, configure_logs, faults
from gateway.mounts.loader import describe_cause, load_mounts

Orders = SimpleQueue[str]
STOP = "stop"
# how often a worker that has retired looks whether its last connection has gone
RETIRED_LOOK_SECONDS = 0.1


def main() -> int:
    """``worker.py STYLE GENERATION CONTROL_FD LISTENER_FD``; with ``STYLE`` alone it loads and
    reports on stdout."""
    # Ctrl-C and the end of a terminal reach the whole process group; what they mean is the
    # supervisor's to say
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # stdout holds access records, or the report, alone: what apps print goes with their errors
    output = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    config: Config = pickle.load(sys.stdin.buffer)
    sys.stdin.close()
    sys.stdin = open(os.devnull)  # noqa: SIM115
    style, *rest = sys.argv[1:]
    if rest:
        return work(config, style, output, *rest)
    configure_logs(style)
    _, _, report = load(config, lambda _: None)
    with open(output, "w") as file:
        json.dump(report, file)
    sys.stderr.flush()
    os._exit(0)  # threads that apps have started need not end for that


def work(
    config: Config,
    style: str,
    output: int,
    generation: str,
    control_descriptor: str,
    listener_descriptor: str,
) -> int:
    """Load, and serve when told to; the exit code. Access records go to ``output``."""
    configure_logs(style, generation)
    control = socket.socket(fileno=int(control_descriptor))
    listener = socket.socket(fileno=int(listener_descriptor))
    table, mounts, report = load(
        config, lambda name: send(control, {"event": "loading", "mount": name})
    )
    orders: Orders = SimpleQueue()
    gevent.signal_handler(signal.SIGTERM, orders.put, STOP)
    access_log = AccessLog(
        "off" if config.server.access_log == "off" else style,
        output,
        # before the loop waits, which is behind all that a turn has sent
        gevent.get_hub().loop.prepare(ref=False, priority=-2).start,
    )
    service = build_service(config, generation, access_log, listener, table, mounts)
    report += ask_probes(config, service)
    server = Server(listener, service, proxy_protocol=config.server.proxy_protocol)
    gevent.spawn(take_orders, control, orders)
    send(control, {"event": "loaded", "mounts": report})
    if orders.get() != "accept":
        return 0  # the other workers of the start did not load: nobody is to meet this one
    server.start()
    send(control, {"event": "ready"})
    serve(server, control, orders)
    cut = server.drain(config.server.limits.drain_timeout_seconds)
    send(control, {"event": "drained", "cut": cut})
    return 0


def serve(server: Server, control: socket.socket, orders: Orders) -> None:
    """Until it is to stop, or has retired and its last connection has gone."""
    order = orders.get()
    if order == "retire":
        server.retire()
        send(control, {"event": "retired"})
        while order != STOP and not server.has_retired():
            with contextlib.suppress(Empty):
                order = orders.get(timeout=RETIRED_LOOK_SECONDS)


def load(
    config: Config, announce: Callable[[str], None]
) -> tuple[MountTable, MountInfo, list[dict[str, Any]]]:
    """Import every app; the table, what apps may know of it, and what to report of each mount.

    ``announce`` is called with a mount's name before it is loaded.
    """
    sys.path.insert(0, str(config.directory))
    for mount in config.mounts:
        if isinstance(mount.target, AppTarget):
            os.environ.update(mount.target.env)
    loaded, errors = load_mounts(config.mounts, announce)
    info = tuple((mount.name, mount.kind, mount.name not in errors) for mount in loaded)
    report = [
        {"mount": name, "error": str(error), "traceback": describe_cause(error)}
        for name, error in errors.items()
    ]
    # what the apps have built stays: no collection needs to walk it again
    gc.collect()
    gc.freeze()
    return MountTable(loaded), info, report


def build_service(
    config: Config,
    generation: str,
    access_log: AccessLog,
    listener: socket.socket,
    table: MountTable,
    mounts: MountInfo,
) -> Service:
    """What all connections of this worker share."""
    name, port = "localhost", "80"
    if listener.family != socket.AF_UNIX:
        name, port = (str(part) for part in listener.getsockname()[:2])
    return Service(
        table=table,
        base_environ=build_base_environ(name, port, mounts, generation),
        limits=config.server.limits,
        proxies=TrustedProxies(config.server.trusted_proxies),
        access_log=access_log,
    )


def ask_probes(config: Config, service: Service) -> list[dict[str, Any]]:
    """What to report of each mount whose probe failed; all are asked at once."""
    asked = [
        (mount.name, gevent.spawn(ask_probe, service, mount, mount.target.probe))
        for mount in config.mounts
        if isinstance(mount.target, AppTarget) and mount.target.probe
    ]
    gevent.joinall([probe for _, probe in asked])
    return [
        {"mount": name, "error": probe.value, "traceback": "", "is_loaded": True}
        for name, probe in asked
        if probe.value
    ]


def send(control: socket.socket, message: dict[str, Any]) -> None:
    """Report to the supervisor; its absence is no reason to fail."""
    try:
        control.sendall(json.dumps(message).encode() + b"\n")
    except OSError as error:
        faults.warning("the supervisor is gone: %s", error)


def take_orders(control: socket.socket, orders: Orders) -> None:
    """Hand on what the supervisor says. A worker without supervisor drains and ends."""
    with contextlib.suppress(OSError), control.makefile() as lines:
        for line in lines:
            orders.put(line.strip())
    orders.put(STOP)


if __name__ == "__main__":
    sys.exit(main())
