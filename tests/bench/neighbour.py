"""What an app notices of one that computes beside it: in a pool of its own, or in the same worker.

Owns the load, which is light and steady, as that of a small app: a request each 5 ms, on one
connection. All cores are everybody's, as on a box that hosts both.
"""

import os
import socket
import threading
import time
from pathlib import Path
from statistics import quantiles
from typing import Any

from servers import (
    CACHE,
    GATEWAY_PACKAGES,
    Command,
    NotMeasuredError,
    Place,
    Running,
    Server,
    get,
    serve,
    wait_until_served,
)

Figures = dict[str, Any]
PAUSE_SECONDS = 0.005
REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
# long enough that the same worker answers something meanwhile
COMPUTE_SECONDS = 1.0


def beside(pool: str, nice: int = 0) -> Command:
    """``hello`` in the front worker, and ``compute`` in ``pool``."""

    def command(bin_: Path, app: str, place: Place) -> list[str]:
        mounts = {"/": "apps:hello", "/compute": {"app": "apps:compute", "pool": pool}}
        pools = {} if pool == "main" else {pool: {"nice": nice}}
        cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        table = CACHE / f"neighbour-{pool}-{nice}.yaml"
        return ["taskset", "-c", cores, *serve(bin_, table, place, mounts, pools)]

    return command


def arrange() -> list[Server]:
    """All in the gateway's own environment."""
    own, nice, main = beside("computing"), beside("computing", 10), beside("main")
    return [
        Server("quiet", "", GATEWAY_PACKAGES, own, "nobody computes"),
        Server("computing", "", GATEWAY_PACKAGES, own, "an app computes in a pool of its own"),
        Server("nice", "", GATEWAY_PACKAGES, nice, "it computes there, with `nice: 10`"),
        Server("in-process", "", GATEWAY_PACKAGES, main, "it computes in the same worker"),
    ]


def measure(server: Server, port: int, seconds: float) -> Figures:
    """Latencies of steady requests, while the neighbour computes without a pause."""
    with Running(server, "neighbour", Place(port)) as running:
        wait_until_served(running, "/")
        wait_until_served(running, "/compute?0")
        is_over = threading.Event()
        computing = threading.Thread(target=compute, args=(port, is_over))
        if server.name != "quiet":
            computing.start()
        try:
            times = ask(port, seconds)
        finally:
            is_over.set()
            if computing.ident:
                computing.join()
    hundredths = quantiles(times, n=100)
    return {"p50_us": hundredths[49] * 1e6, "p99_us": hundredths[98] * 1e6}


def compute(port: int, is_over: threading.Event) -> None:
    while not is_over.is_set():
        get(port, f"/compute?{COMPUTE_SECONDS}")


def ask(port: int, seconds: float) -> list[float]:
    """How long each answer took."""
    times = []
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end = time.monotonic() + seconds
        while (began := time.monotonic()) < end:
            client.sendall(REQUEST)
            if not client.recv(65536).startswith(b"HTTP/1.1 200 "):
                raise NotMeasuredError("answered wrongly")
            times.append(time.monotonic() - began)
            time.sleep(PAUSE_SECONDS)
    return times
