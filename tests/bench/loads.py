"""Loads of wrk's, and what they cost a server.

Its requests are one and the same, or those of a file in turn. wrk reads that before it begins, and
its script does no more than hand out the next one. It knows TCP alone, so for a Unix socket
its ``connect`` is another one.
"""

import http.client
import json
import os
import random
import subprocess
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import heads
import processes
from servers import (
    CACHE,
    DIRECT,
    HERE,
    LAST_CORE,
    LOAD_CORE,
    NotMeasuredError,
    Place,
    Running,
    install,
)

import apps

Figures = dict[str, Any]
WARM_SECONDS = 0.5
CHECK_SECONDS = 60.0
PAGE = HERE / "page.py"
KINDS = {
    "browser": heads.browser,
    "proxied": heads.proxied,
    "balanced": heads.balanced,
    "form": heads.form,
}


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
            check(running, file.read_bytes().partition(b"\0")[0], body)
        else:
            check(running, write_request(path, post), body)
        if warm:
            run_wrk(running.place, path, connections, WARM_SECONDS, options)
        cpu = processes.cpu_seconds(running.session)
        figures = run_wrk(running.place, path, connections, seconds, options)
        cpu = processes.cpu_seconds(running.session) - cpu
        if not cpu:
            raise NotMeasuredError("something else listens there")
        requests = figures["requests"]
        return figures | {
            "requests_per_second": requests / figures["seconds"],
            "cpu_us": cpu * 1e6 / requests if requests else None,
            "memory_bytes": processes.memory_bytes(running.session),
        }

    return measure


@cache
def request_file(name: str) -> Path:
    """The requests of that name."""
    chance = random.Random(name)
    if name == "page":
        install(DIRECT["gateway"])
        ask = [DIRECT["gateway"].venv / "bin" / "python", PAGE, "sessions", str(heads.COUNT)]
        requests = heads.page(chance, subprocess.check_output(ask, text=True).split())
    else:
        requests = KINDS[name](chance)
    file = CACHE / f"{name}.requests"
    heads.write(file, requests)
    return file


def write_request(path: str, post: int) -> bytes:
    """The request that is sent again and again, but for the fields that wrk adds."""
    method, length = ("POST", f"Content-Length: {post}\r\n") if post else ("GET", "")
    return f"{method} {path} HTTP/1.1\r\nHost: bench\r\n{length}\r\n".encode() + b"x" * post


def check(running: Running, request: bytes, ending: bytes) -> None:
    """Raises NotMeasuredError unless a request is answered with 200 and a body that ends so.

    A server that has one behind it answers 502 or 503 until that one is there.
    """
    deadline = time.monotonic() + CHECK_SECONDS
    status, body = 0, b""
    while status in (0, 502, 503):
        if time.monotonic() > deadline:
            raise NotMeasuredError(f"was not served; see {running.log.name}")
        time.sleep(0.02)
        status, body = ask(running.place, request)
    if status != 200 or not body.endswith(ending):
        raise NotMeasuredError(f"unexpected response: {status}, {len(body)} bytes: {body[-60:]!r}")


def ask(place: Place, request: bytes) -> tuple[int, bytes]:
    """Status and body. Raises NotMeasuredError."""
    with place.connect(CHECK_SECONDS) as client:
        try:
            client.sendall(request)
            answer = http.client.HTTPResponse(client)
            answer.begin()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise NotMeasuredError(f"did not respond: {error!r}") from error


def measure_alone(seconds: float) -> Figures:
    """What the page costs without a server."""
    python = DIRECT["gateway"].venv / "bin" / "python"
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
