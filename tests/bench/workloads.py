"""What is measured: each workload's app, load, check of correctness, and figures.

A workload gives one dict of figures for one server in one round. Loads are bounded in time.
"""

import http.client
import json
import os
import random
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import heads
import processes
from servers import (
    ALL_CORES,
    ALONE,
    CACHE,
    FASTEST,
    GATEWAYS,
    HERE,
    LAST_CORE,
    LOAD_CORE,
    PEERS,
    SERVERS,
    NotMeasuredError,
    Place,
    Running,
    install,
)

import apps

Figures = dict[str, Any]
WARM_SECONDS = 0.5
CHECK_SECONDS = 60.0
IDLE_CONNECTIONS = 2000
FURTHER_CONNECTIONS = 6000
LONG_BYTES = 1024 * apps.MIB
PAGE = HERE / "page.py"


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


def load(
    connections: int,
    body: bytes = apps.HELLO,
    *,
    path: str = "/",
    post: int = 0,
    close: bool = False,
    warm: bool = True,
    sends: str = "",
) -> Callable[[Running, float], Figures]:
    """A load of wrk's: ``connections`` at a time, each answered with ``body``, or what ends so.

    ``sends`` names the requests of a file, no two of them alike; else it is the same one always.
    """

    def measure(running: Running, seconds: float) -> Figures:
        options = [*(("post", str(post)) if post else ()), *(("close",) if close else ())]
        if sends:
            file = request_file(sends)
            options += ["requests", str(file)]
            check_request(running.place, file.read_bytes().partition(b"\0")[0], body)
        else:
            check(running.port, path, b"x" * post, body)
        if warm:
            run_wrk(running.place, path, connections, WARM_SECONDS, options)
        cpu = processes.cpu_seconds(running.session)
        figures = run_wrk(running.place, path, connections, seconds, options)
        cpu = processes.cpu_seconds(running.session) - cpu
        requests = figures["requests"]
        return figures | {
            "requests_per_second": requests / figures["seconds"],
            "cpu_us": cpu * 1e6 / requests if requests else None,
            "memory_bytes": processes.memory_bytes(running.session),
        }

    return measure


def check(port: int, path: str, content: bytes, expected: bytes) -> None:
    """Raises NotMeasuredError unless one request is answered as it should be."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=CHECK_SECONDS)
    try:
        connection.request("POST" if content else "GET", path, content or None)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise NotMeasuredError(f"did not answer: {error!r}") from error
    finally:
        connection.close()
    if answer.status != 200 or body != expected:
        raise NotMeasuredError(
            f"answered wrongly: {answer.status}, {len(body)} bytes: {body[:60]!r}"
        )


@cache
def request_file(name: str) -> Path:
    """The requests of that name."""
    chance = random.Random(name)
    if name == "page":
        install(SERVERS["gateway"])
        ask = [SERVERS["gateway"].venv / "bin" / "python", PAGE, "sessions", str(heads.COUNT)]
        requests = heads.page(chance, subprocess.check_output(ask, text=True).split())
    else:
        kinds = {"browser": heads.browser, "proxied": heads.proxied, "form": heads.form}
        requests = kinds[name](chance)
    file = CACHE / f"{name}.requests"
    heads.write(file, requests)
    return file


def check_request(place: Place, request: bytes, ending: bytes) -> None:
    """Raises NotMeasuredError unless a request is answered with 200 and a body that ends so."""
    with place.connect(CHECK_SECONDS) as client:
        client.sendall(request)
        answer = http.client.HTTPResponse(client)
        try:
            answer.begin()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise NotMeasuredError(f"did not answer: {error!r}") from error
    if answer.status != 200 or not body.endswith(ending):
        raise NotMeasuredError(f"answered wrongly: {answer.status}: {body[-60:]!r}")


def measure_alone(seconds: float) -> Figures:
    """What the page costs without a server."""
    python = SERVERS["gateway"].venv / "bin" / "python"
    command = ["taskset", "-c", LAST_CORE, python, PAGE, "cost", request_file("page"), str(seconds)]
    figures: Figures = json.loads(subprocess.check_output(command))
    return figures


@cache
def preload() -> Path:
    """What has wrk connect to a Unix socket."""
    library = CACHE / "unix.so"
    source = HERE / "unix.c"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def run_wrk(
    place: Place, path: str, connections: int, seconds: float, options: list[str]
) -> Figures:
    """One run of wrk; its summary."""
    unix = {"LD_PRELOAD": str(preload()), "BENCH_SOCKET": place.unix} if place.unix else {}
    done = subprocess.run(
        [
            *("taskset", "-c", LOAD_CORE, "wrk", "--threads", "1", "--timeout", "10s"),
            *("--connections", str(connections), "--duration", f"{max(1, round(seconds))}s"),
            *("--script", str(HERE / "wrk.lua"), f"http://127.0.0.1:{place.port}{path}", "--"),
            *options,
        ],
        env={**os.environ, **unix},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise NotMeasuredError(f"wrk failed: {done.stderr.strip() or done.stdout.strip()}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


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
    check(running.port, "/", b"x" * apps.MIB, b"%d\n" % apps.MIB)
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
PERSONAL = (*GATEWAYS, *FASTEST)
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
        Workload(
            "hello-64", "The same hello again and again, 64 connections", "apps:hello", load(64)
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
            (ALONE, *PERSONAL),
        ),
        Workload(
            "hello-64-core",
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
