"""What is measured: each workload's app, load, check of correctness, and figures.

A workload gives one dict of figures for one server in one round. Loads are bounded in time.
"""

import http.client
import socket
from collections.abc import Callable
from dataclasses import dataclass

import edge
import processes
from loads import CHECK_SECONDS, Figures, check, load, write_request
from servers import (
    ALL_CORES,
    ALONE,
    DIRECT,
    FASTEST,
    GATEWAYS,
    LAST_CORE,
    PEERS,
    NotMeasuredError,
    Running,
)

import apps

IDLE_CONNECTIONS = 2000
FURTHER_CONNECTIONS = 6000
LONG_BYTES = 1024 * apps.MIB


@dataclass(frozen=True)
class Workload:
    """``measure(running, seconds)`` gives the figures of one round of one server."""

    name: str
    title: str
    app: str
    measure: Callable[[Running, float], Figures]
    servers: tuple[str, ...] = (*GATEWAYS, *PEERS)
    cores: str = ALL_CORES
    on_unix: bool = False


def measure_idle(running: Running, seconds: float) -> Figures:
    """Memory for each idle connection, after one request on each."""
    held: list[socket.socket] = []
    try:
        keep_idle(running.port, held, 50)
        before = processes.memory_bytes(running.session)
        keep_idle(running.port, held, IDLE_CONNECTIONS)
        alive = sum(is_alive(connection) for connection in held)
        after = processes.memory_bytes(running.session)
        figures = {
            "connections": alive,
            "memory_bytes": after,
            "bytes_per_connection": (after - before) / IDLE_CONNECTIONS,
        }
        if running.server.name == "gateway":
            # what a process grows by once, whatever the number of connections, is left out
            keep_idle(running.port, held, FURTHER_CONNECTIONS)
            growth = processes.memory_bytes(running.session) - after
            figures["bytes_per_further_connection"] = growth / FURTHER_CONNECTIONS
        return figures
    finally:
        for connection in held:
            connection.close()


def keep_idle(port: int, held: list[socket.socket], count: int) -> None:
    """Open ``count`` connections more, each with one answered request."""
    for _ in range(count):
        try:
            connection = socket.create_connection(("127.0.0.1", port), 5)
            held.append(connection)
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while not answer.endswith(apps.HELLO):
                piece = connection.recv(65536)
                if not piece:
                    raise NotMeasuredError("a connection was closed after its first request")
                answer += piece
        except OSError as error:
            raise NotMeasuredError(
                f"holds {len(held) - 1} idle connections, then: {error}"
            ) from error


def is_alive(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False


def measure_long_upload(running: Running, seconds: float) -> Figures:
    """How much 1 GiB of request content makes the server grow."""
    head = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {LONG_BYTES}\r\n\r\n"
    check(running, write_request("/", apps.MIB), b"%d\n" % apps.MIB)
    before = processes.reset_peak(running.session)
    with socket.create_connection(("127.0.0.1", running.port), CHECK_SECONDS) as client:
        client.sendall(head.encode())
        for _ in range(LONG_BYTES // len(apps.PIECE)):
            client.sendall(apps.PIECE)
        answer = client.recv(65536)
    if b"200" not in answer[:20] or not answer.endswith(b"%d\n" % LONG_BYTES):
        raise NotMeasuredError(f"answered wrongly: {answer[:60]!r}")
    return {"growth_bytes": processes.peak_bytes(running.session) - before}


def measure_long_download(running: Running, seconds: float) -> Figures:
    """How much 1 GiB of response body makes the server grow."""
    check_head(running.port)
    before = processes.reset_peak(running.session)
    with socket.create_connection(("127.0.0.1", running.port), CHECK_SECONDS) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        buffer, total = bytearray(apps.MIB), 0
        while size := client.recv_into(buffer):
            total += size
    if not LONG_BYTES < total < LONG_BYTES + 1024:
        raise NotMeasuredError(f"answered wrongly: {total} bytes")
    return {"growth_bytes": processes.peak_bytes(running.session) - before}


def check_head(port: int) -> None:
    """Raises NotMeasuredError unless HEAD is answered with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=CHECK_SECONDS)
    connection.request("HEAD", "/")
    status = connection.getresponse().status
    connection.close()
    if status != 200:
        raise NotMeasuredError(f"answered wrongly: {status}")


MOUNTS = ("gateway-10", "gateway-10000")
PERSONAL = ("gateway-log", "gateway", *FASTEST)
SERVERS = DIRECT | edge.BEHIND | {ALONE.name: ALONE}
WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(
            "proxied",
            "A browser's request as the stack's nginx forwards it, over a Unix socket",
            "apps:hello",
            load(64, sends="proxied"),
            PERSONAL,
            on_unix=True,
        ),
        Workload(
            "browser",
            "A browser's request",
            "apps:hello",
            load(64, sends="browser"),
            PERSONAL,
        ),
        Workload("hello", "The same hello again and again, 64 connections", "apps:hello", load(64)),
        Workload(
            "nginx",
            "A browser's request through nginx, by way of a load balancer, 64 connections",
            "apps:hello",
            load(64, sends="balanced"),
            tuple(edge.BEHIND),
        ),
        Workload(
            "hop",
            "A forwarded request with and without a hop to a pool",
            "apps:hello",
            load(64, sends="proxied"),
            ("gateway", "gateway-pool"),
            on_unix=True,
        ),
        Workload(
            "form",
            "A form of 1 KiB",
            "apps:form",
            load(64, sends="form"),
            PERSONAL,
        ),
        Workload(
            "json",
            "A browser's request, answered with 20 KiB of JSON",
            "apps:json_out",
            load(64, apps.JSON, sends="browser"),
            PERSONAL,
        ),
        Workload(
            "page",
            "A browser's request, answered by a Flask page with a session",
            "page:app",
            load(64, b"</ul>", sends="page"),
            (ALONE.name, *PERSONAL),
        ),
        Workload(
            "hello-core",
            "The same hello, each server held to one core",
            "apps:hello",
            load(64),
            cores=LAST_CORE,
        ),
        Workload("hello-1", "Hello on one kept-alive connection", "apps:hello", load(1)),
        Workload(
            "wait",
            "A wait of 50 ms in the app, 500 connections",
            "apps:wait",
            load(500, warm=False),
        ),
        Workload(
            "close",
            "A new connection for each request, 64 at a time",
            "apps:close",
            load(64, close=True),
        ),
        Workload(
            "download", "1 MiB out, 16 connections", "apps:download", load(16, b"x" * apps.MIB)
        ),
        Workload(
            "stream", "64 KiB in 64 pieces, 16 connections", "apps:stream", load(16, b"x" * 65536)
        ),
        Workload(
            "upload",
            "1 MiB in, read in pieces, 16 connections",
            "apps:upload",
            load(16, b"%d\n" % apps.MIB, post=apps.MIB),
        ),
        Workload("idle", "2,000 idle connections", "apps:idle", measure_idle, ("gateway", *PEERS)),
        Workload("long-upload", "1 GiB in", "apps:upload", measure_long_upload, ("gateway",)),
        Workload(
            "long-download", "1 GiB out", "apps:long_download", measure_long_download, ("gateway",)
        ),
        Workload("mounts", "A table of 10 and of 10,000 mounts", "apps:hello", load(64), MOUNTS),
    )
}
