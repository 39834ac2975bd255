"""A worker in every Python that a pool may have: started as the supervisor starts one, in an
environment that has the app's own packages and nothing of the gateway's.

What is built is kept in pytest's cache. Packages come from the package index that pip knows.
"""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import coroutine_app
import pytest
from coroutine_app import CASES

import gateway
from gateway.config.model import Config
from gateway.config.parse import parse_config
from gateway.environments.cache import Cache, Environment
from gateway.environments.interpreter import RUNTIME, Interpreter, find
from gateway.inflight import InFlightReader
from gateway.supervisor.listeners.sockets import open_handover
from gateway.supervisor.processes.worker import pickled, to_bytes

PACKAGE = Path(gateway.__file__).parent
BOOT = PACKAGE / "worker" / "boot.py"
COROUTINES = Path(coroutine_app.__file__)
VERSIONS = ("3.9", "3.10", "3.11", "3.12", "3.13")
FLASK_2 = "Flask==2.0.3\nWerkzeug<2.1\n"
FLASK_3 = "Flask>=3.1\n"
WAIT_SECONDS = 60

APP = """
import json, sys, threading
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    body = environ["wsgi.input"].read()
    return [json.dumps({
        "version": "%d.%d" % sys.version_info[:2],
        "read": len(body),
        "thread": threading.current_thread().name,
        "in main thread": threading.current_thread() is threading.main_thread(),
        "patched": "gevent.monkey" in sys.modules and bool(sys.modules["gevent.monkey"].saved),
        "path": sys.path,
    }).encode()]
"""
FLASK_APP = """
from importlib.metadata import version
from flask import Flask, url_for
app = Flask(__name__)
@app.route("/page")
def page():
    return version("flask") + " " + url_for("page")
"""
TABLE = """
server: {drain_timeout: 500ms}
mounts:
  /: plain:app
  /flask: flasked:app
  /files: {static: ./public}
  /old: {redirect: /new}
"""


class Worker:
    """One worker process and the other end of its control socket."""

    def __init__(self, environment: Environment, config: Config, *options: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._address = str(config.directory / "worker.sock")
        self._listener.bind(self._address)
        self._listener.listen()
        ours, theirs = socket.socketpair()
        ours.settimeout(WAIT_SECONDS)
        self._in_flight = InFlightReader(config.server.limits.max_connections)
        self._handover = open_handover()
        descriptors = (
            *(theirs.fileno(), self._listener.fileno(), self._in_flight.descriptor),
            *(end.fileno() for end in self._handover),
        )
        with theirs, pickled(config) as order:
            self.process = subprocess.Popen(
                [
                    *(environment.python, str(BOOT), environment.runtime, *options),
                    *("json", "g1", *map(str, descriptors)),
                ],
                cwd=config.directory,
                stdin=order,
                stdout=subprocess.DEVNULL,
                pass_fds=descriptors,
            )
        self._control = ours
        self._reports = ours.makefile("r")

    def accept(self) -> list[dict[str, Any]]:
        """Have it serve; what it reported of its mounts."""
        while (report := self._read())["event"] != "loaded":
            pass
        self._control.sendall(b"accept\n")
        assert self._read() == {"event": "ready"}
        return report["mounts"]  # type: ignore[no-any-return]

    def apply(self, table: str) -> None:
        """Have it serve ``table`` with the apps that it has."""
        config = parse_config(table, "mounts.yaml", Path(self._address).parent, {})
        self._control.sendall(b"prepare " + b64encode(to_bytes(config)) + b"\n")
        assert self._read() == {"event": "prepared", "mounts": []}
        self._control.sendall(b"apply\n")
        assert self._read() == {"event": "applied"}

    def _read(self) -> dict[str, Any]:
        line = self._reports.readline()
        assert line, "the worker has ended; its stderr tells why"
        return json.loads(line)  # type: ignore[no-any-return]

    def ask(self, target: str, content: bytes = b"") -> tuple[str, bytes]:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(WAIT_SECONDS)
            client.connect(self._address)
            head = f"POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(content)}\r\n"
            if not content:
                head = f"GET {target} HTTP/1.1\r\nHost: a\r\n"
            client.sendall(head.encode() + b"Connection: close\r\n\r\n" + content)
            with client.makefile("rb") as answer:
                head_bytes, _, body = answer.read().partition(b"\r\n\r\n")
        return head_bytes.decode().partition("\r\n")[0], body

    def end(self) -> int:
        """Stop it; the exit code."""
        try:
            self.process.send_signal(signal.SIGTERM)
            return self.process.wait(WAIT_SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
            self._reports.close()
            self._control.close()
            for opened in (self._listener, *self._handover):
                opened.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "a.txt").write_text("a file")
    (tmp_path / "plain.py").write_text(APP)
    (tmp_path / "flasked.py").write_text(FLASK_APP)

    def start(environment: Environment, *options: str) -> Worker:
        config = parse_config(TABLE, str(tmp_path / "mounts.yaml"), tmp_path, {})
        workers.append(Worker(environment, config, *options))
        return workers[-1]

    yield start
    for worker in workers:
        if worker.process.poll() is None:
            worker.end()


@pytest.fixture
def cache(pytestconfig: pytest.Config) -> Cache:
    return Cache(Path(pytestconfig.cache.mkdir("environments")))  # type: ignore[union-attr]


def find_python(version: str) -> Interpreter:
    found = find(version, Path.cwd())
    if found is None:
        pytest.skip(f"there is no Python {version} on this machine")
    return found


@pytest.fixture(params=[("3.9", FLASK_2, "2.0.3"), ("3.13", FLASK_3, "3.")])
def flask_environment(
    request: pytest.FixtureRequest, cache: Cache, tmp_path: Path
) -> tuple[Environment, str]:
    version, requirements, flask_version = request.param
    python = find_python(version)
    (tmp_path / "requirements.txt").write_text(requirements)
    return cache.find_or_build(python.path, "requirements.txt", tmp_path), flask_version


@pytest.mark.parametrize("options", [(), ("--threads", "2")])
def test_a_worker_serves_flask_in_an_environment_of_its_own(
    flask_environment: tuple[Environment, str], start: Callable[..., Worker], options: Any
) -> None:
    environment, flask_version = flask_environment
    worker = start(environment, *options)
    assert worker.accept() == []
    status, page = worker.ask("/flask/page")
    assert status == "HTTP/1.1 200 OK"
    assert page.startswith(flask_version.encode())
    assert page.endswith(b" /flask/page")
    assert worker.ask("/files/a.txt") == ("HTTP/1.1 200 OK", b"a file")
    assert worker.ask("/old/x")[0] == "HTTP/1.1 308 Permanent Redirect"
    assert worker.end() == 0


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("options", [(), ("--threads", "2")])
def test_a_worker_serves_in_a_python_as_it_is(
    version: str, options: Any, cache: Cache, start: Callable[..., Worker], tmp_path: Path
) -> None:
    python = find_python(version)
    environment = cache.find_or_build(python.path, "", tmp_path)
    worker = start(environment, *options)
    failed = [each["mount"] for each in worker.accept()]
    assert failed in ([], ["/flask"])  # that Python has no Flask, and the others serve
    status, body = worker.ask("/", b"x" * 100_000)
    told = json.loads(body)
    assert status == "HTTP/1.1 200 OK"
    assert (told["version"], told["read"]) == (version, 100_000)
    assert told["patched"] is (not options)
    assert told["thread"].startswith("main-") is bool(options)
    assert worker.end() == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_each_request_has_a_loop_of_its_own_in_every_python(
    version: str, cache: Cache, start: Callable[..., Worker], tmp_path: Path
) -> None:
    python = find_python(version)
    (tmp_path / "plain.py").write_text(COROUTINES.read_text())
    worker = start(cache.find_or_build(python.path, "", tmp_path))
    worker.accept()
    targets = [f"/{case}?key={case}&most=3" for case in CASES for _ in range(3)]
    with ThreadPoolExecutor(len(targets)) as clients:
        answers = list(clients.map(worker.ask, targets))
    assert answers == [("HTTP/1.1 200 OK", b"ok")] * len(targets)
    assert worker.end() == 0


def test_a_worker_can_import_only_what_is_meant_for_it(
    flask_environment: tuple[Environment, str], start: Callable[..., Worker]
) -> None:
    environment, _ = flask_environment
    worker = start(environment)
    worker.accept()
    path = json.loads(worker.ask("/")[1])["path"]
    assert path[-1] == environment.runtime
    assert str(BOOT.parent) not in path
    assert str(PACKAGE) not in path
    assert str(PACKAGE.parent) not in path
    own = {each.name.partition("-")[0].lower() for each in Path(environment.runtime).iterdir()}
    allowed = {"complete", "zope", *(name.replace(".", "_") for name in RUNTIME)}
    assert own <= allowed, own - allowed


ENGINE = """
import importlib.util, json, sys
import engineio
def app(environ, start_response):
    start_response("200 OK", [])
    names = ("gevent", "greenlet", "zope.interface", "yaml")
    def is_there(name):
        try:
            return importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:
            return False
    return [json.dumps({
        "mode": engineio.Server().async_mode,
        "there": [name for name in names if is_there(name)],
        "loaded": [name for name in names if name in sys.modules],
        "runtime": [place for place in sys.path if "runtime" in place],
    }).encode()]
"""


@pytest.mark.parametrize("version", ["3.9", "3.13"])
@pytest.mark.parametrize(
    ("options", "requirements", "mode", "there"),
    [
        (("--threads", "2"), "", "threading", []),
        (("--threads", "2"), "gevent<26\n", "gevent", ["gevent", "greenlet", "zope.interface"]),
        (("--threads", "2"), "greenlet\n", "threading", ["greenlet"]),
        # all is patched, so whatever asks for gevent has to find it
        ((), "", "gevent", ["gevent", "greenlet", "zope.interface"]),
    ],
)
def test_apps_of_an_own_environment_find_what_it_lists(
    version: str,
    options: Any,
    requirements: str,
    mode: str,
    there: list[str],
    cache: Cache,
    start: Callable[..., Worker],
    tmp_path: Path,
) -> None:
    (tmp_path / "requirements.txt").write_text(f"python-engineio\n{requirements}")
    (tmp_path / "plain.py").write_text(ENGINE)
    python = find_python(version)
    worker = start(cache.find_or_build(python.path, "requirements.txt", tmp_path), *options)
    worker.accept()
    told = json.loads(worker.ask("/")[1])
    assert (told["mode"], told["there"]) == (mode, there)
    assert bool(told["runtime"]) is (not options)
    assert set(told["loaded"]) <= set(there)
    # its own code still imports what it needs
    worker.apply("mounts:\n  /moved: plain:app\n")
    assert json.loads(worker.ask("/moved")[1])["there"] == there
    assert worker.end() == 0


def test_an_app_stays_in_its_threads_when_it_is_moved(
    cache: Cache, start: Callable[..., Worker], tmp_path: Path
) -> None:
    python = find_python("3.9")
    worker = start(cache.find_or_build(python.path, "", tmp_path), "--threads", "2")
    worker.accept()
    worker.apply("mounts:\n  /moved: plain:app\n")
    assert worker.ask("/")[0] == "HTTP/1.1 404 Not Found"
    assert json.loads(worker.ask("/moved")[1])["in main thread"] is False


def test_an_apps_own_pin_is_kept_and_the_rest_goes_with_it(
    cache: Cache, start: Callable[..., Worker], tmp_path: Path
) -> None:
    """As where SQLAlchemy has brought greenlet into a lock file of its time."""
    python = find_python("3.12")
    (tmp_path / "requirements.txt").write_text("greenlet==3.0.3\n")
    environment = cache.find_or_build(python.path, "requirements.txt", tmp_path)
    (tmp_path / "plain.py").write_text(
        "import gevent, greenlet\ndef app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [f'{greenlet.__version__} {greenlet.__file__}'.encode()]\n"
    )
    worker = start(environment)
    worker.accept()
    version, place = worker.ask("/")[1].decode().split()
    assert version == "3.0.3"
    assert environment.uses[0] in place


def test_the_order_of_a_worker_names_no_class_that_only_some_pythons_know(tmp_path: Path) -> None:
    (tmp_path / "public").mkdir()
    (tmp_path / "plain.py").touch()
    table = "mounts:\n  /: plain:app\n  /files: {static: ./public}\n"
    config = parse_config(table, "mounts.yaml", tmp_path, {})
    order = to_bytes(config)
    assert pickle.loads(order) == config
    assert b"pathlib" not in order  # Python 3.13's are of pathlib._local


def test_a_thread_that_never_ends_does_not_hold_the_worker(
    cache: Cache, start: Callable[..., Worker], tmp_path: Path
) -> None:
    text = "import time\ndef app(environ, start_response):\n    time.sleep(600)\n"
    environment = cache.find_or_build("", "", tmp_path)
    (tmp_path / "plain.py").write_text(text)
    worker = start(environment, "--threads", "2")
    worker.accept()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "worker.sock"))
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        worker.process.send_signal(signal.SIGTERM)
        assert worker.end() == 0


def test_every_module_of_a_worker_is_checked_for_the_oldest_python() -> None:
    """So that what is new in a later version is found before it runs: see pyproject.toml."""
    asked = subprocess.run(
        [sys.executable, "-c", "import sys, gateway.worker.process; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )
    text = (PACKAGE.parent / "pyproject.toml").read_text()
    imported = {name for name in asked.stdout.split() if name.partition(".")[0] == "gateway"}
    for name in imported | {"gateway.worker.boot"}:
        parts = name.split(".")
        if parts[1:2] in (["http"], ["mounts"], ["protocol"], ["worker"]):
            continue  # all of them
        last = parts[-1] if name not in ("gateway", "gateway.config") else "__init__"
        assert f"{last}," in text or f"{last}}}" in text, f"{name}: no per-file-target-version"
