"""Readiness probes: requests of the gateway to an app before clients can reach it.

They are handled like any other request, from the connection through dispatch to the app.
"""

from __future__ import annotations

import _socket
import contextlib
from typing import Any, Protocol
from urllib.parse import quote

import gevent
from gevent import get_hub
from gevent import socket as gevent_socket

from gateway.http.connection import Connection
from gateway.http.service import Service
from gateway.limits import MountLimits
from gateway.protocol.names import UNIX_PEER
from gateway.protocol.probe_request import advise, build_probe_request


class ProbedMount(Protocol):
    """The attributes of a mount that its probe needs."""

    @property
    def host(self) -> str | None: ...
    @property
    def prefix(self) -> str: ...
    @property
    def limits(self) -> MountLimits: ...


class ProbeRequest(Protocol):
    """The settings of a probe; ``status`` 0 is any 2xx or 3xx, ``within_seconds`` 0 the mount's
    timeout."""

    @property
    def path(self) -> str: ...
    @property
    def status(self) -> int: ...
    @property
    def contains(self) -> str: ...
    @property
    def within_seconds(self) -> float: ...
    @property
    def host(self) -> str: ...
    @property
    def scheme(self) -> str: ...


def ask_probe(service: Service, mount: ProbedMount, probe: ProbeRequest) -> str:
    """Why the probe failed, "" if it succeeded. May switch greenlets."""
    target = quote(mount.prefix) + probe.path
    client_side, server_side = _socket.socketpair()
    server_side.setblocking(False)
    host = probe.host if probe.host != "auto" else mount.host or "localhost"
    connection = Connection(speak_for(service, probe.scheme), server_side, UNIX_PEER, "")
    seconds = probe.within_seconds or mount.limits.timeout_seconds
    # a watcher, not a callback: its effects run in the same iteration of the loop
    beginning: Any = get_hub().loop.timer(0)
    beginning.start(connection.begin)
    with beginning, gevent_socket.socket(fileno=client_side.detach()) as client:
        try:
            with gevent.Timeout(seconds or None):
                client.sendall(build_probe_request(target, host, "gateway-probe", ""))
                head, contains = read_all(client, probe.contains.encode())
        except gevent.Timeout:
            return f"its probe {target} was not answered within {seconds:g} s"
    _, _, status = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
    if not status:
        return f"its probe {target} was cut"
    if not (status.startswith(str(probe.status)) if probe.status else status[:1] in ("2", "3")):
        wanted = f" instead of {probe.status}" if probe.status else ""
        hint = advise(status, host, probe.scheme, f"probe: {{{{path: {probe.path}, {{}}: ...}}}}")
        return f"its probe {target} was answered {status}{wanted}{hint}"
    return "" if contains else f'its probe {target} was answered without "{probe.contains}"'


def speak_for(service: Service, scheme: str) -> Service:
    """A copy of ``service`` for requests with this scheme, with caches of its own."""
    mounts = service.base_environ["gateway.mounts"]
    other = service.adjusted(service.table, service.limits, mounts)
    other.base_environ["wsgi.url_scheme"] = scheme
    return other


def read_all(client: gevent_socket.socket, text: bytes) -> tuple[bytes, bool]:
    """The first bytes of a response, after its end, and whether it contains ``text``."""
    head = tail = b""
    found = not text
    with contextlib.suppress(OSError):
        while data := client.recv(65536):
            head = head or data
            tail += data
            found = found or text in tail
            tail = tail[-len(text) :]
    return head, found
