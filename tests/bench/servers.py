"""The servers that are compared: how each is installed, started and ended. One worker each.

Each lives in a virtual environment of its own under .cache/bench and listens on loopback, or on a
Unix socket.
"""

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import processes

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = ROOT / ".cache" / "bench"
START_SECONDS = 60.0
STOP_SECONDS = 3.0
ANSWER_SECONDS = 120.0
# the load has the first core; a server uses all, or the last one to itself
LOAD_CORE, *_, LAST_CORE = map(str, sorted(os.sched_getaffinity(0)) * 2)
ALL_CORES = ",".join(map(str, sorted(os.sched_getaffinity(0))))


def find_ports(count: int) -> int:
    """The first of so many free ports in a row, below those that the kernel gives to clients."""
    for _ in range(1000):
        first = random.randrange(10_000, 30_000)
        with contextlib.suppress(OSError), contextlib.ExitStack() as held:
            for port in range(first, first + count):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    raise NotMeasuredError("no free ports")


class NotMeasuredError(Exception):
    """A server could not be installed or started, or its response was unexpected; says why."""


@dataclass(frozen=True)
class Place:
    """Where a server listens: at the port of loopback, or on the Unix socket if one is named."""

    port: int
    unix: str = ""

    @property
    def address(self) -> str:
        return f"unix:{self.unix}" if self.unix else f"127.0.0.1:{self.port}"

    def connect(self, timeout: float) -> socket.socket:
        if not self.unix:
            return socket.create_connection(("127.0.0.1", self.port), timeout)
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(timeout)
        client.connect(self.unix)
        return client


Command = Callable[[Path, str, Place], list[str]]


@dataclass(frozen=True)
class Server:
    """``command(bin, app, place)`` is the argument vector; ``setup`` is what the report says of it.

    ``distribution`` is the one whose version counts; "" is the gateway in the working tree.
    """

    name: str
    distribution: str
    packages: tuple[str, ...]
    command: Command
    setup: str

    @property
    def venv(self) -> Path:
        return CACHE / (self.distribution or "gateway")


def serve(
    bin_: Path,
    table: Path,
    place: Place,
    mounts: dict[str, Any],
    pools: dict[str, Any] | None = None,
    **server: Any,
) -> list[str]:
    """The gateway with one front worker; writes its table. The admin listener is the next port.

    What this user's processes forward on a Unix socket is believed, as nginx's is in the stack.
    """
    addresses = {"listen": place.address, "admin": f"127.0.0.1:{place.port + 1}"}
    believed = {"trusted_proxies": [f"unix:{os.getuid()}"]} if place.unix else {}
    content = {
        "server": {**addresses, "workers": 1, "access_log": "off", **believed, **server},
        "defaults": {"max_body": "2GiB"},
        "mounts": mounts,
        "pools": pools or {},
    }
    table.write_text(json.dumps(content))  # JSON is YAML
    return [str(bin_ / "python"), "-m", "gateway", "serve", "-c", str(table)]


def gateway(access_log: str, mounts: int = 1, pool: str = "main") -> Command:
    """The gateway with ``mounts`` mounts, of which the last, or the only one, is at /."""

    def command(bin_: Path, app: str, place: Place) -> list[str]:
        others = {f"/app{n}/v{n % 3}": app for n in range(1, mounts)}
        table = CACHE / f"gateway-{place.port}.yaml"
        root = {"app": app, "pool": pool}
        return serve(bin_, table, place, {**others, "/": root}, access_log=access_log)

    return command


def bjoern(bin_: Path, app: str, place: Place) -> list[str]:
    return [str(bin_ / "python"), str(HERE / "launch.py"), "bjoern", app, place.address]


def granian(bin_: Path, app: str, place: Place) -> list[str]:
    listen = ("--uds", place.unix) if place.unix else ("--port", str(place.port))
    return [
        *(str(bin_ / "granian"), "--interface", "wsgi", "--workers", "1", "--http", "1", "--no-ws"),
        *("--blocking-threads", "8", "--backlog", "4096", *listen, app),
    ]


def uwsgi(bin_: Path, app: str, place: Place) -> list[str]:
    # Its http11-socket keeps connections alive, a thread for each, but needs a length to end a
    # response; http-socket ends it by closing. The router holds idle connections without a thread.
    address = place.address.removeprefix("unix:")
    listener = {
        "apps:stream": ["--http-socket", address, "--add-header", "Connection: close"],
        "apps:close": ["--http-socket", address, "--add-header", "Connection: close"],
        "apps:idle": ["--http", address, "--http-keepalive"],
    }.get(app, ["--http11-socket", address, "--threads", "64"])
    return [*uwsgi_command(bin_, app), *listener]


def uwsgi_protocol(bin_: Path, app: str, place: Place) -> list[str]:
    return [*uwsgi_command(bin_, app), "--socket", place.unix, "--threads", "8"]


def uwsgi_command(bin_: Path, app: str) -> list[str]:
    return [
        *(str(bin_ / "uwsgi"), "--master", "--die-on-term", "--processes", "1"),
        *("--disable-logging", "--need-app", "--listen", "1024", "--module", app),
    ]


def gunicorn(bin_: Path, app: str, place: Place, *more: str) -> list[str]:
    return [
        *(str(bin_ / "gunicorn"), "--worker-class", "gevent", "--workers", "1"),
        *("--worker-connections", "4000", "--keep-alive", "75"),
        *("--bind", place.address, *more, app),
    ]


def pywsgi(bin_: Path, app: str, place: Place) -> list[str]:
    return [str(bin_ / "python"), str(HERE / "launch.py"), "pywsgi", app, place.address]


def waitress(bin_: Path, app: str, place: Place) -> list[str]:
    return [
        *(str(bin_ / "waitress-serve"), "--threads", "8", "--connection-limit", "4000"),
        *("--asyncore-use-poll", "--listen", place.address, app),
    ]


GATEWAY_PACKAGES = (
    *tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"],
    "Flask",  # for the app that uses it
)
# those that listen themselves
DIRECT = {
    server.name: server
    for server in (
        Server("gateway", "", GATEWAY_PACKAGES, gateway("off"), "access log off"),
        Server("gateway-log", "", GATEWAY_PACKAGES, gateway("json"), "JSON into a pipe"),
        Server("gateway-pool", "", GATEWAY_PACKAGES, gateway("off", pool="own"), "in its own pool"),
        Server("gateway-10", "", GATEWAY_PACKAGES, gateway("off", 10), "10 mounts"),
        Server("gateway-10000", "", GATEWAY_PACKAGES, gateway("off", 10_000), "10,000 mounts"),
        Server("bjoern", "bjoern", ("bjoern", "Flask"), bjoern, "one request at a time"),
        Server("granian", "granian", ("granian", "Flask"), granian, "8 blocking threads"),
        Server("uwsgi", "uwsgi", ("uwsgi", "Flask"), uwsgi, "http11-socket, 64 threads"),
        Server("gunicorn", "gunicorn", ("gunicorn[gevent]", "Flask"), gunicorn, "gevent worker"),
        Server("pywsgi", "gevent", ("gevent",), pywsgi, "gevent.pywsgi, log off"),
        Server("waitress", "waitress", ("waitress",), waitress, "8 threads, poll"),
    )
}
# the app called in a loop, without a server, in the gateway's environment
ALONE = Server("alone", "", GATEWAY_PACKAGES, lambda bin_, app, place: [], "without a server")
GATEWAYS = ("gateway", "gateway-log")
OURS = (*GATEWAYS, "gateway-pool")
PEERS = tuple(name for name, server in DIRECT.items() if server.distribution)
THREADED = ("granian", "uwsgi", "waitress")
# for requests as people send them
FASTEST = ("bjoern", "granian", "uwsgi", "gunicorn")


def install(server: Server) -> str:
    """Make its environment at the current releases, unless this Python's is there; its version."""
    python = server.venv / "bin" / "python"
    stamp = server.venv / "made-by"
    made_by = "\n".join([sys.version, *server.packages])
    if not stamp.exists() or stamp.read_text() != made_by:
        subprocess.run([sys.executable, "-m", "venv", "--clear", server.venv], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, *server.packages], capture_output=True, text=True)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
            raise NotMeasuredError(f"not installed: {(lines or ['pip failed'])[-1].strip()}")
        stamp.write_text(made_by)
    names = (server.distribution,) if server.distribution else ("gevent",)
    ask = "import sys; from importlib.metadata import version as v; print(*map(v, sys.argv[1:]))"
    found = subprocess.check_output([python, "-c", ask, *names], text=True).split()
    return ", ".join(f"{name} {version}" for name, version in zip(names, found, strict=True))


class Running:
    """A started server: ``session`` names its processes. Ended at the end of a ``with``."""

    def __init__(self, server: Server, app: str, place: Place, cores: str = LAST_CORE) -> None:
        if place.unix:
            Path(place.unix).unlink(missing_ok=True)
        self.server = server
        self.place = place
        self.port = place.port
        command = server.command(server.venv / "bin", app, place)
        self.log = CACHE / "logs" / f"{server.name}-{app.replace(':', '.')}.log"
        self.log.parent.mkdir(exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["taskset", "-c", cores, *command],
                cwd=CACHE,
                # no more: Granian copies it into the environ of each request
                env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{HERE}{os.pathsep}{ROOT}"},
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        # what is logged is read, as a log collector would
        self._reader = subprocess.Popen(
            ["taskset", "-c", LOAD_CORE, "cat"],
            stdin=self._process.stdout,
            stdout=subprocess.DEVNULL,
        )
        self._process.stdout.close()  # type: ignore[union-attr]
        self.session = self._process.pid

    def __enter__(self) -> "Running":
        try:
            self._wait_until_it_listens()
        except BaseException:
            self.stop()
            raise
        return self

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                self.place.connect(1).close()
                return
            time.sleep(0.02)
        raise NotMeasuredError(f"did not start; see {self.log.relative_to(ROOT)}")

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop all its processes: SIGTERM, then SIGKILL."""
        if self._process.poll() is None:
            self._process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        while (left := processes.pids(self.session)) or self._process.poll() is None:
            if time.monotonic() > deadline:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        self._reader.wait()


def get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def wait_until_served(running: Running, path: str = "/", port: int | None = None) -> bytes:
    """The body of the first 200. Raises NotMeasuredError where none comes."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            status, body = get(port or running.port, path)
        except (OSError, http.client.HTTPException):
            status, body = 0, b""
        if status == 200:
            return body
        if time.monotonic() > deadline:
            raise NotMeasuredError(f"{path} was not served; see {running.log.name}")
        time.sleep(0.02)
