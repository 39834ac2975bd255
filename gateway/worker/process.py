"""One worker process: patch, load the apps, accept, retire or drain, report.

The supervisor passes the configuration on stdin, and the listening socket and a control socket as
descriptors. The worker reads orders from the control socket, one a line, and writes reports to it,
one JSON object a line. It exits when the socket is closed, or on SIGTERM.
"""

from __future__ import annotations

import sys

# ``--threads N``: apps run in N native threads, and nothing is patched
THREADS = int(sys.argv[2]) if sys.argv[1:2] == ["--threads"] else 0
if not THREADS:
    # before any other import: a module with a reference to an unpatched function blocks the hub
    from gevent import get_hub, monkey

    monkey.patch_all()
    # gevent does so only after the first fork, and misses a child that has exited before
    get_hub().loop.install_sigchld()
    # also before any app is imported
    from gateway.worker.coroutines import isolate_event_loops

    isolate_event_loops()

# ruff: noqa: E402
import contextlib
import faulthandler
import gc
import json
import os
import pickle
import signal
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import gevent
from gevent import socket
from gevent.queue import Empty, SimpleQueue

from gateway import lifecycle
from gateway.access_log import AccessLog
from gateway.config.model import MAIN, AppTarget, Config, Mount
from gateway.debugger import give_terminal
from gateway.http.connection import find_request
from gateway.http.dispatch import MountTable
from gateway.http.environ import MountInfo, build_base_environ, name_server
from gateway.http.forwarded import TrustedProxies
from gateway.http.handover import Handover
from gateway.http.probe import ask_probe
from gateway.http.server import Server
from gateway.http.service import Service, hide_fault
from gateway.http.statement import FrontWorkers
from gateway.inflight import InFlight
from gateway.logs import configure_logs, faults, keep_from_apps, report_dropped
from gateway.mounts.chain import Chain
from gateway.mounts.footprint import undo_signals
from gateway.mounts.guard import Guard
from gateway.mounts.live import Live
from gateway.mounts.loader import Unavailable, build_footprint, describe_cause, load_mounts
from gateway.mounts.projects import VARIABLE, show_exceptions
from gateway.mounts.reuse import reuse_apps
from gateway.mounts.threadpool import ThreadPool
from gateway.outlet import Outlet, finish
from gateway.streams import OutletStream, duplicate, find_closed, reopen, set_standard_streams
from gateway.tracebacks import describe_fault
from gateway.uncaught import report_apps, report_hub, report_own, report_uncaught
from gateway.worker.ending import end_apps
from gateway.worker.forks import close_in_children, detach_at_fork
from gateway.worker.watchdog import Watchdog
from gateway.wsgi import WSGIApp

app_threads = ThreadPool(THREADS) if THREADS else None
STOP = "stop"
# how often a retired worker checks whether its last connection has closed
RETIRED_LOOK_SECONDS = 0.1
# how often a worker checks whether the lifecycle callbacks of its apps have returned
SETTLING_LOOK_SECONDS = 0.01


def main() -> int:
    """``worker.py [--threads N] STYLE GENERATION CONTROL_FD LISTENER_FD IN_FLIGHT_FD
    GIVING_FD TAKING_FD``."""
    # Ctrl-C and a closed terminal signal the whole process group; the supervisor handles them
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # stdout is for access records only: what apps print goes to stderr
    output, errors = duplicate(1), Outlet(duplicate(2))
    os.dup2(2, 1)
    set_standard_streams(errors)
    faulthandler.enable(errors.crash_descriptor)  # stack on a crash in C, or SIGABRT
    config: Config = pickle.load(sys.stdin.buffer)
    left_out: dict[str, str] = pickle.load(sys.stdin.buffer)
    if app_threads is not None:
        app_threads.name = config.pool.name.strip("/") or "app"
    style, *rest = sys.argv[3:] if THREADS else sys.argv[1:]
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # in place of the configuration and its secrets
    os.close(nothing)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    keep_from_apps()
    if config.is_dev:
        give_terminal()
    return work(config, left_out, style, output, errors, *rest)


def work(
    config: Config,
    left_out: dict[str, str],
    style: str,
    output: int,
    errors: Outlet,
    generation: str,
    *descriptors: str,
) -> int:
    """Load the apps that are not ``left_out``, and run; returns the exit code. Access records go to
    ``output``, all other output to ``errors``. ``descriptors`` are those of ``main``."""
    configure_logs(style, generation, OutletStream(errors, errors.descriptor))
    report_uncaught()
    control, listener, in_flight, handover = open_shared(*map(int, descriptors))

    def note(name: str, text: str) -> None:
        send(control, {"event": "noted", "mount": name, "text": text})

    lifecycle.own.move(lifecycle.LOADING)
    # responses of pools pass through the front workers
    chain = Chain(app_threads, Live() if config.is_live and config.pool.name == MAIN else None)
    loading = partial(report_loading, control)
    table, mounts, report = load_apps(config, chain, loading, note, left_out)
    loading("")
    faulthandler.enable(errors.crash_descriptor)  # an app may have turned it off
    # gevent may defer closing what an app has closed to the next iteration of the loop
    wait_for_result(gevent.spawn(gevent.sleep, 0))
    reopen(find_closed())
    orders: SimpleQueue[str] = SimpleQueue()
    stopping = gevent.signal_handler(signal.SIGTERM, orders.put, STOP)
    access_log = AccessLog("off" if config.server.access_log == "off" else style, output)
    service = build_service(config, generation, access_log, listener, table, mounts, in_flight)
    report_dropped(errors, access_log.outlet)
    in_flight.count_dropped = lambda: access_log.outlet.dropped + errors.dropped
    service.base_environ["wsgi.errors"] = OutletStream(errors, 2)
    report_hub(gevent.get_hub(), partial(find_request, service.connections))
    gevent.spawn(keep_watch, build_guard(config, service, stopping.watcher, note))
    report += wait_for_result(gevent.spawn(ask_probes, config.mounts, service))
    access_log.flush()  # records of probes: the server, which flushes, may never start
    Watchdog(service, errors).start()
    detach_at_fork(service, is_patched=not THREADS)
    gevent.spawn(take_orders, control, orders)
    lifecycle.own.move(lifecycle.STANDBY)
    send(control, {"event": "loaded", "mounts": report})
    worker = Worker(config, service, chain, listener, control, handover)
    code: int = wait_for_result(gevent.spawn(worker.run, orders))
    wait_for_result(gevent.spawn(end_apps, errors.crash_descriptor))
    finish(access_log.outlet, errors)
    in_flight.beat(in_flight.heartbeat)  # publish what was dropped last
    return code


def open_shared(
    control: int, listener: int, in_flight: int, giving: int, taking: int
) -> tuple[socket.socket, socket.socket, InFlight, Handover]:
    """What the worker shares with its supervisor and other workers, hidden from processes that apps
    start."""
    os.set_inheritable(in_flight, False)
    memory = InFlight(in_flight)
    os.close(in_flight)
    close_in_children((control, listener, giving, taking))
    return (
        socket.socket(fileno=control),
        socket.socket(fileno=listener),
        memory,
        Handover(giving, taking),
    )


def build_guard(
    config: Config, service: Service, stopping: Any, note: Callable[[str, str], object]
) -> Guard:
    """A guard against process-wide changes that apps make while they serve; ``stopping`` watches
    for SIGTERM."""

    def find_mounts() -> list[str]:
        return [mount.name for mount in service.table.mounts if mount.kind == "app"]

    def undo(before: Any) -> None:
        """Restoring signals replaces libev's handler, so install that again."""
        undo_signals(before)
        callback, arguments = stopping.callback, stopping.args
        stopping.stop()
        stopping.start(callback, *arguments)

    states = [
        state._replace(undo=undo) if state.undo is undo_signals else state
        for state in build_footprint(config.mounts).states
    ]
    return Guard(states, service.in_flight, find_mounts, note)


def keep_watch(guard: Guard) -> None:
    """Run ``guard`` until the worker exits."""
    while True:
        try:
            seconds = guard.look()
        except Exception as error:  # noqa: BLE001  apps may have replaced what it checks
            report_own("the check for what apps change for others failed", error)
            seconds = 60.0
        gevent.sleep(seconds)


def wait_for_result(running: Any) -> Any:
    """Wait for the result of a greenlet, in spite of what apps have left running in the current
    one when they were imported: a ``gevent.Timeout`` that is raised here must not end the worker.
    """
    while not running.ready():
        try:
            running.join()
        except BaseException as error:  # noqa: BLE001  whatever it is
            report_apps("what an app left running at its import failed", error)
    return running.get()


class Worker:
    """Carries out orders: ``accept``, ``pause``, ``retire``, ``prepare`` another configuration,
    ``apply`` it, ``find`` loaded files, ``quarantine`` mounts, ``reloaded`` (other workers were),
    ``put_off`` mounts that have not loaded, and ``serve`` (apps may work outside of requests).

    An event reports the completion of each order but the last four.
    """

    def __init__(
        self,
        config: Config,
        service: Service,
        chain: Chain,
        listener: socket.socket,
        control: socket.socket,
        handover: Handover,
    ) -> None:
        self._config = config
        self._service = service
        self._server = Server(
            listener,
            service,
            proxy_protocol=config.server.proxy_protocol,
            is_shared=config.pool.sticky == "off",
            handover=handover,
        )
        self._control = control
        self._has_accepted = False
        self._chain = chain
        chain.serve(service.table.mounts, config.mounts)
        if chain.live is not None:
            service.end_page = chain.live.end_page
        self._prepared: tuple[Config, MountTable, MountInfo] | None = None

    def run(self, orders: SimpleQueue[str]) -> int:
        """Carry out orders until a stop, or until a retired worker has no connections; returns the
        exit code."""
        handlers = {
            "accept": self._accept,
            "pause": self._pause,
            "retire": self._retire,
            "prepare": self._prepare,
            "apply": self._apply,
            "quarantine": self._quarantine,
            "find": self._find,
            "reloaded": self._note_reload,
            "put_off": self._put_off,
            "serve": self._serve,
        }
        seconds: float | None = None
        while not self._server.has_retired():
            with contextlib.suppress(Empty):
                order = orders.get(timeout=seconds)
                if order == STOP:
                    break
                word, _, rest = order.partition(" ")
                handlers[word](rest)
                seconds = RETIRED_LOOK_SECONDS if word == "retire" else seconds
        self._let_listen(is_on=False)
        self._move(lifecycle.LEAVING)
        if self._has_accepted:
            cut = self._server.drain(self._service.limits.drain_timeout_seconds)
            send(self._control, {"event": "drained", "cut": cut})
        self._settling.join()
        return 0

    def _serve(self, _: str) -> None:
        lifecycle.own.move(lifecycle.SERVING)

    def _move(self, state: str) -> None:
        """Notify the apps of a new state, and report once their callbacks have returned."""
        lifecycle.own.move(state)
        self._settling = gevent.spawn(self._settle)

    def _settle(self) -> None:
        while not lifecycle.own.is_settled():
            gevent.sleep(SETTLING_LOOK_SECONDS)
        send(self._control, {"event": "settled"})

    def _let_listen(self, *, is_on: bool) -> None:
        if self._chain.live is not None:
            self._chain.live.serve(is_on=is_on)

    def _note_reload(self, _: str) -> None:
        if self._chain.live is not None:
            self._chain.live.note_reload()

    def _accept(self, _: str) -> None:
        self._let_listen(is_on=True)
        if self._has_accepted:
            self._server.resume()
        else:
            self._has_accepted = True
            self._server.start()
        send(self._control, {"event": "ready"})

    def _pause(self, pickled: str) -> None:
        self._let_listen(is_on=False)
        self._move(lifecycle.STANDBY)
        self._server.pause(hands_over=pickle.loads(b64decode(pickled)))
        send(self._control, {"event": "paused"})

    def _retire(self, _: str) -> None:
        self._move(lifecycle.LEAVING)
        self._server.retire()
        send(self._control, {"event": "retired"})

    def _prepare(self, pickled: str) -> None:
        """Build the mounts of another configuration from the apps that are loaded."""
        config: Config = pickle.loads(b64decode(pickled))
        running = {mount.name: mount for mount in self._config.mounts}
        apps = {mount.name: mount.bare_app for mount in self._service.table.mounts}
        apps = reuse_apps(running.values(), apps, config.mounts)
        table, mounts, report = build_table(config, self._chain, lambda _: None, apps)
        service = self._service.adjusted(table, config.server.limits, mounts)
        changed = (mount for mount in config.mounts if running.get(mount.name) != mount)
        report += ask_probes(changed, service)
        self._prepared = config, table, mounts
        send(self._control, {"event": "prepared", "mounts": report})

    def _apply(self, _: str) -> None:
        """Serve the prepared configuration."""
        if self._prepared is not None:
            self._config, table, mounts = self._prepared
            used = {id(mount.bare_app) for mount in table.mounts}
            for mount in self._service.table.mounts:
                if mount.kind == "upstream" and id(mount.bare_app) not in used:
                    mount.bare_app.close()
            self._chain.serve(table.mounts, self._config.mounts)
            self._server.adjust(table, self._config.server.limits, mounts)
            self._prepared = None
        send(self._control, {"event": "applied"})

    def _quarantine(self, pickled: str) -> None:
        """Respond with 503 for these mounts, and no others, from the next request on."""
        self._chain.quarantined = pickle.loads(b64decode(pickled))
        self._chain.serve(self._service.table.mounts, self._config.mounts)

    def _put_off(self, pickled: str) -> None:
        """Set Retry-After and the cause for responses of mounts that have not loaded."""
        pauses = pickle.loads(b64decode(pickled))
        for mount in self._service.table.mounts:
            app = mount.bare_app
            is_away = isinstance(app, Unavailable) or mount.kind == "upstream"
            if is_away and mount.name in pauses:
                app.put_off(*pauses[mount.name])

    def _find(self, pickled: str) -> None:
        """Report which of these files belong to loaded modules."""
        files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
        loaded = {os.path.realpath(file) for file in files if isinstance(file, str)}
        paths = pickle.loads(b64decode(pickled))
        found = [path for path in paths if os.path.realpath(path) in loaded]
        send(self._control, {"event": "found", "paths": found})


def load_apps(
    config: Config,
    chain: Chain,
    announce: Callable[[str], None],
    note: Callable[[str, str], None],
    left_out: Mapping[str, str] = MappingProxyType({}),
) -> tuple[MountTable, MountInfo, list[dict[str, Any]]]:
    """Import all apps. Returns the table, what apps see of it, and a report for each failed mount.

    ``announce`` is called with a mount's name before it is loaded, ``note`` with a name and what
    its app has changed for the others. ``left_out`` maps mounts that must not be loaded to reasons.
    """
    sys.path.insert(0, str(config.directory))
    for mount in config.mounts:
        if isinstance(mount.target, AppTarget):
            # Django's variable is set only while its mount is loaded
            os.environ.update((k, v) for k, v in mount.target.env.items() if k != VARIABLE)
    made = build_table(config, chain, announce, {}, note, left_out)
    if config.is_dev:
        show_exceptions()
    # objects of loaded apps stay: keep them out of garbage collections
    gc.collect()
    gc.freeze()
    return made


def build_table(
    config: Config,
    chain: Chain,
    announce: Callable[[str], None],
    apps: dict[str, WSGIApp],
    note: Callable[[str, str], None] = lambda mount, text: None,
    left_out: Mapping[str, str] = MappingProxyType({}),
) -> tuple[MountTable, MountInfo, list[dict[str, Any]]]:
    """As ``load_apps``; ``apps`` are those already loaded, by mount. Apps are ready for probes."""
    loaded, errors = load_mounts(
        config.mounts, announce, apps, config.is_dev, config.pool, note, left_out
    )
    chain.probe(loaded, config.mounts)
    info = tuple((mount.name, mount.kind, mount.name not in errors) for mount in loaded)
    report = [
        {"mount": name, "error": str(error), "traceback": describe_cause(error)}
        for name, error in errors.items()
    ]
    return MountTable(loaded), info, report


def build_service(
    config: Config,
    generation: str,
    access_log: AccessLog,
    listener: socket.socket | None,
    table: MountTable,
    mounts: MountInfo,
    in_flight: InFlight,
) -> Service:
    """The state that all connections of this worker share."""
    address = listener.getsockname() if listener else ""
    name, port = name_server(address, socket.gethostname())
    believed = config.server.trusted_proxies
    return Service(
        table=table,
        base_environ=build_base_environ(name, port, mounts, generation),
        limits=config.server.limits,
        proxies=FrontWorkers() if config.server.is_behind_front else TrustedProxies(believed),
        access_log=access_log,
        in_flight=in_flight,
        show_fault=describe_fault if config.is_dev else hide_fault,
        # so that requests after a save are answered by the new code
        keeps_connections=not config.is_dev,
    )


def ask_probes(mounts: Iterable[Mount], service: Service) -> list[dict[str, Any]]:
    """Run the probes of all loaded mounts at once; a report for each one that failed."""
    loaded = {name for name, _, is_loaded in service.base_environ["gateway.mounts"] if is_loaded}
    asked = [
        (mount.name, gevent.spawn(ask_probe, service, mount, mount.target.probe))
        for mount in mounts
        if isinstance(mount.target, AppTarget) and mount.target.probe and mount.name in loaded
    ]
    gevent.joinall([probe for _, probe in asked])
    return [
        {"mount": name, "error": probe.value, "traceback": "", "is_loaded": True}
        for name, probe in asked
        if probe.value
    ]


def send(control: socket.socket, message: dict[str, Any]) -> None:
    """Report to the supervisor; does not raise if it has exited."""
    try:
        control.sendall(json.dumps(message).encode() + b"\n")
    except OSError as error:
        faults.warning("the supervisor has exited: %s", error)


def report_loading(control: socket.socket, name: str) -> None:
    """Report the mount whose app is imported from now on, "" for none."""
    send(control, {"event": "loading", "mount": name})


def take_orders(control: socket.socket, orders: SimpleQueue[str]) -> None:
    """Queue the supervisor's orders. Without a supervisor, the worker drains and exits."""
    with contextlib.suppress(OSError), control.makefile() as lines:
        for line in lines:
            orders.put(line.strip())
    orders.put(STOP)


if __name__ == "__main__":
    os._exit(main())  # without waiting for what apps have left running
