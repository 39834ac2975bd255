"""One worker process: patch, load the apps, accept, drain, report.

Refuses to know YAML and the other workers. Its supervisor gives it the configuration on stdin, the
listening socket and a control socket by descriptor; it reports on the control socket, one JSON
object a line, and ends when that is closed or SIGTERM comes.
"""

# before any other import: an import that keeps a reference to an unpatched function blocks the hub
from gevent import monkey

monkey.patch_all()

# ruff: noqa: E402
import gc
import json
import os
import pickle
import signal
import socket
import sys
import time
from typing import Any

import gevent
from gevent.event import Event

from gateway.config.model import AppTarget, Config
from gateway.dispatch import MountTable
from gateway.http.environ import MountInfo, build_base_environ
from gateway.http.forwarded import TrustedProxies
from gateway.http.server import Server
from gateway.http.service import Service
from gateway.logs import AccessLog, configure_logs, faults
from gateway.mounts.loader import describe_cause, load_mounts

EXIT_APP_LOAD = 3


def main() -> int:
    """``worker.py STYLE CONTROL_FD LISTENER_FD``; with ``STYLE`` alone it loads and reports."""
    # Ctrl-C reaches the whole process group; what it means is the supervisor's to say
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    began = time.monotonic()
    # stdout holds access records, or the report, alone: what apps print goes with their errors
    output = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    config: Config = pickle.load(sys.stdin.buffer)
    sys.stdin.close()
    sys.stdin = open(os.devnull)  # noqa: SIM115
    style, *descriptors = sys.argv[1:]
    configure_logs(style)
    table, mounts, report = load(config)
    if not descriptors:
        with open(output, "w") as file:
            json.dump(report, file)
        sys.stderr.flush()
        os._exit(0)  # threads that apps have started need not end for that
    control = socket.socket(fileno=int(descriptors[0]))
    listener = socket.socket(fileno=int(descriptors[1]))
    stopped = Event()
    gevent.signal_handler(signal.SIGTERM, stopped.set)
    access_log = AccessLog(
        "off" if config.server.access_log == "off" else style,
        output,
        gevent.get_hub().loop.run_callback,
    )
    server = build_server(config, access_log, listener, table, mounts)
    server.start()
    send(control, {"event": "ready", "seconds": time.monotonic() - began, "mounts": report})
    gevent.spawn(watch_supervisor, control, stopped)
    stopped.wait()
    cut = server.drain(config.server.limits.drain_timeout_seconds)
    send(control, {"event": "drained", "cut": cut})
    return 0


def load(config: Config) -> tuple[MountTable, MountInfo, list[dict[str, str]]]:
    """Import every app; the table, what apps may know of it, and what to report of each mount."""
    sys.path.insert(0, str(config.directory))
    for mount in config.mounts:
        if isinstance(mount.target, AppTarget):
            os.environ.update(mount.target.env)
    loaded, errors = load_mounts(config.mounts)
    info = tuple((mount.name, mount.kind, mount.name not in errors) for mount in loaded)
    report = [
        {"mount": name, "error": str(error), "traceback": describe_cause(error)}
        for name, error in errors.items()
    ]
    # what the apps have built stays: no collection needs to walk it again
    gc.collect()
    gc.freeze()
    return MountTable(loaded), info, report


def build_server(
    config: Config,
    access_log: AccessLog,
    listener: socket.socket,
    table: MountTable,
    mounts: MountInfo,
) -> Server:
    """The server of this worker, not yet accepting."""
    name, port = "localhost", "80"
    if listener.family != socket.AF_UNIX:
        name, port = (str(part) for part in listener.getsockname()[:2])
    service = Service(
        table=table,
        base_environ=build_base_environ(name, port, mounts),
        limits=config.server.limits,
        proxies=TrustedProxies(config.server.trusted_proxies),
        access_log=access_log,
    )
    return Server(listener, service, proxy_protocol=config.server.proxy_protocol)


def send(control: socket.socket, message: dict[str, Any]) -> None:
    """Report to the supervisor; its absence is no reason to fail."""
    try:
        control.sendall(json.dumps(message).encode() + b"\n")
    except OSError as error:
        faults.warning("the supervisor is gone: %s", error)


def watch_supervisor(control: socket.socket, stopped: Event) -> None:
    """A worker without supervisor drains and ends. Waits for the end of the control socket."""
    while True:
        try:
            if not control.recv(4096):
                break
        except OSError:
            break
    stopped.set()


if __name__ == "__main__":
    sys.exit(main())
