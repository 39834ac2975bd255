"""One worker process: patch, load the apps, accept, retire or drain, report.

Refuses to know YAML and the other workers. Its supervisor gives it the configuration on stdin, the
listening socket and a control socket by descriptor. It reports on the control socket, one JSON
object a line, obeys what comes there, an order a line, and ends when that is closed or SIGTERM
comes.
"""

from __future__ import annotations

import sys

# ``--threads N``: apps run in N native threads, and what they wait in is left as it is
THREADS = int(sys.argv[2]) if sys.argv[1:2] == ["--threads"] else 0
if not THREADS:
    # before any other import: one that keeps a reference to an unpatched function blocks the hub
    from gevent import get_hub, monkey

    monkey.patch_all()
    # gevent does so behind the first fork alone, and a child that has ended by then is never seen
    get_hub().loop.install_sigchld()
    # before any app is imported, too
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
from gateway.http.service import Service, tell_nothing
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
# how often a worker that has retired looks whether its last connection has gone
RETIRED_LOOK_SECONDS = 0.1
# how often one that serves no more looks whether what its apps do beside requests has ended
SETTLING_LOOK_SECONDS = 0.01


def main() -> int:
    """``worker.py [--threads N] STYLE GENERATION CONTROL_FD LISTENER_FD IN_FLIGHT_FD
    GIVING_FD TAKING_FD``."""
    # Ctrl-C and the end of a terminal reach the whole process group; what they mean is the
    # supervisor's to say
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # stdout holds access records alone: what apps print goes with their errors
    output, errors = duplicate(1), Outlet(duplicate(2))
    os.dup2(2, 1)
    set_standard_streams(errors)
    faulthandler.enable(errors.crash_descriptor)  # a crash in C, or SIGABRT, tells the stack
    config: Config = pickle.load(sys.stdin.buffer)
    left_out: dict[str, str] = pickle.load(sys.stdin.buffer)
    if app_threads is not None:
        app_threads.name = config.pool.name.strip("/") or "app"
    style, *rest = sys.argv[3:] if THREADS else sys.argv[1:]
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # where the configuration was, with its secrets
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
    """Load all but what is ``left_out``, and serve when told to; the exit code. Access records go
    to ``output``, all else that is written to ``errors``. ``descriptors`` are as in ``main``."""
    configure_logs(style, generation, OutletStream(errors, errors.descriptor))
    report_uncaught()
    control, listener, in_flight, handover = open_shared(*map(int, descriptors))

    def note(name: str, text: str) -> None:
        send(control, {"event": "noted", "mount": name, "text": text})

    lifecycle.own.move(lifecycle.LOADING)
    # what comes of a pool's worker passes the front's
    is_live = config.is_live and config.pool.name == MAIN
    chain = Chain(app_threads, Live() if is_live else None)
    table, mounts, report = load_apps(
        config,
        chain,
        lambda name: send(control, {"event": "loading", "mount": name}),
        note,
        left_out,
    )
    send(control, {"event": "loading", "mount": ""})
    faulthandler.enable(errors.crash_descriptor)  # an app may have turned it off
    # gevent closes what an app has closed at the loop's next turn, at times
    wait_for(gevent.spawn(gevent.sleep, 0))
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
    report += wait_for(gevent.spawn(ask_probes, config.mounts, service))
    access_log.flush()  # the server, which does, may never start: for what a probe says
    Watchdog(service, errors).start()
    detach_at_fork(service, is_patched=not THREADS)
    gevent.spawn(take_orders, control, orders)
    lifecycle.own.move(lifecycle.STANDBY)
    send(control, {"event": "loaded", "mounts": report})
    code: int = wait_for(
        gevent.spawn(Worker(config, service, chain, listener, control, handover).run, orders)
    )
    wait_for(gevent.spawn(end_apps, errors.crash_descriptor))
    finish(access_log.outlet, errors)
    in_flight.beat(in_flight.heartbeat)  # what was dropped then counts, too
    return code


def open_shared(
    control: int, listener: int, in_flight: int, giving: int, taking: int
) -> tuple[socket.socket, socket.socket, InFlight, Handover]:
    """What it shares with its supervisor and the workers beside it; no process that its apps start
    is to have a part in it."""
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
    """For what apps change while they serve; ``stopping`` watches for SIGTERM."""

    def find_mounts() -> list[str]:
        return [mount.name for mount in service.table.mounts if mount.kind == "app"]

    def undo(before: Any) -> None:
        """Python's own handler takes the place of libev's."""
        undo_signals(before)
        callback, arguments = stopping.callback, stopping.args
        stopping.stop()
        stopping.start(callback, *arguments)

    things = [
        thing._replace(undo=undo) if thing.undo is undo_signals else thing
        for thing in build_footprint(config.mounts).things
    ]
    return Guard(things, service.in_flight, find_mounts, note)


def keep_watch(guard: Guard) -> None:
    """As long as the worker lives."""
    while True:
        try:
            seconds = guard.look()
        except Exception as error:  # noqa: BLE001  apps may have replaced what it looks at
            report_own("the look at what apps change for others", error)
            seconds = 60.0
        gevent.sleep(seconds)


def wait_for(running: Any) -> Any:
    """Wait for its result, whatever apps have left running as they were imported, in this very
    greenlet: a ``gevent.Timeout`` that goes off here ends no worker."""
    while not running.ready():
        try:
            running.join()
        except BaseException as error:  # noqa: BLE001  whatever it is
            report_apps("an app, as it was imported, has left running what has failed", error)
    return running.get()


class Worker:
    """Obeys: ``accept``, ``pause``, ``retire``, ``prepare`` another configuration and ``apply`` it,
    ``find`` what is loaded, ``quarantine`` mounts, note that other workers were ``reloaded``, that
    mounts which have not loaded are ``put_off``, and that its apps may ``serve`` by themselves.

    Each order but the last four is answered when it is done, by an event.
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
        """Until told to stop, or retired and without connections; the exit code."""
        obey = {
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
                obey[word](rest)
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
        """Have the apps stop what they do by themselves, and report once they have."""
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
        """Make what another configuration asks for, of the apps that are loaded."""
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
        """Serve what was prepared."""
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
        """Answer 503 for these mounts, and no others, from the next request on."""
        self._chain.quarantined = pickle.loads(b64decode(pickled))
        self._chain.serve(self._service.table.mounts, self._config.mounts)

    def _put_off(self, pickled: str) -> None:
        """Say so where one of these mounts is asked for."""
        pauses = pickle.loads(b64decode(pickled))
        for mount in self._service.table.mounts:
            app = mount.bare_app
            is_away = isinstance(app, Unavailable) or mount.kind == "upstream"
            if is_away and mount.name in pauses:
                app.put_off(*pauses[mount.name])

    def _find(self, pickled: str) -> None:
        """Which of these files are of modules that are loaded."""
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
    """Import every app; the table, what apps may know of it, and what to report of each mount.

    ``announce`` is called with a mount's name before it is loaded, ``note`` with a name and what
    its app has changed for the others. ``left_out`` are mounts that are not to be loaded, and why.
    """
    sys.path.insert(0, str(config.directory))
    for mount in config.mounts:
        if isinstance(mount.target, AppTarget):
            # Django's variable is set while its own mount is loaded
            os.environ.update((k, v) for k, v in mount.target.env.items() if k != VARIABLE)
    made = build_table(config, chain, announce, {}, note, left_out)
    if config.is_dev:
        show_exceptions()
    # what the apps have built stays: no collection needs to walk it again
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
    """See ``load_apps``; those named in ``apps`` are loaded already. Apps are ready for probes."""
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
    """What all connections of this worker share."""
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
        tell_fault=describe_fault if config.is_dev else tell_nothing,
        # what is asked after a save meets the new code
        keeps_connections=not config.is_dev,
    )


def ask_probes(mounts: Iterable[Mount], service: Service) -> list[dict[str, Any]]:
    """What to report of each mount that has loaded, and whose probe failed; all are asked at
    once."""
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
    """Report to the supervisor; its absence is no reason to fail."""
    try:
        control.sendall(json.dumps(message).encode() + b"\n")
    except OSError as error:
        faults.warning("the supervisor is gone: %s", error)


def take_orders(control: socket.socket, orders: SimpleQueue[str]) -> None:
    """Hand on what the supervisor says. A worker without supervisor drains and ends."""
    with contextlib.suppress(OSError), control.makefile() as lines:
        for line in lines:
            orders.put(line.strip())
    orders.put(STOP)


if __name__ == "__main__":
    os._exit(main())  # nothing that apps have left running is waited for any longer
