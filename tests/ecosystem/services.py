"""What the libraries talk to: real servers on Unix sockets and loopback, started by the tests.

Each ``Gate`` holds what waits for it until it is released, so that a test knows that a request is
being waited for, without a clock.
"""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import psycopg
import redis

WAIT_SECONDS = 60.0


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.01)
    return value


def find_program(name: str) -> str:
    """Debian keeps those of PostgreSQL apart."""
    folders = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"))]
    found = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], *folders]))
    assert found, f"{name} is not installed: `.ci/apt postgresql redis-server`"
    return found


class Postgres:
    """A cluster of its own in a temporary directory, on a Unix socket alone."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))
        data = self._folder / "data"
        # it refuses to run as root
        user = "postgres" if os.getuid() == 0 else None
        if user:
            owner = pwd.getpwnam(user)
            os.chown(self._folder, owner.pw_uid, owner.pw_gid)
            self._folder.chmod(0o755)
        options: dict[str, Any] = {"user": user, "stdout": subprocess.DEVNULL}
        make = [find_program("initdb"), "-D", str(data), "-U", "eco", "-A", "trust", "-N"]
        subprocess.run(make, check=True, cwd="/", **options)
        settings = ["listen_addresses=", f"unix_socket_directories={self._folder}", "fsync=off"]
        command = [find_program("postgres"), "-D", str(data)]
        command += [part for setting in settings for part in ("-c", setting)]
        self._process = subprocess.Popen(command, cwd="/", stderr=subprocess.DEVNULL, **options)
        self.host = str(self._folder)
        self.url = f"postgresql://eco@/postgres?host={self.host}"
        self.admin: Any = wait_until(self._connect, "PostgreSQL takes connections")

    def _connect(self) -> Any:
        assert self._process.poll() is None
        try:
            return psycopg.connect(self.url, autocommit=True)
        except psycopg.OperationalError:
            return None

    def ask(self, query: str) -> Any:
        """The first value of the answer."""
        return self.admin.execute(query).fetchone()[0]

    def end(self) -> None:
        self.admin.close()
        self._process.terminate()
        self._process.wait(WAIT_SECONDS)
        shutil.rmtree(self._folder)


class Redis:
    """On a Unix socket and a port, for libraries that take no path."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="redis-"))
        path = str(self._folder / "redis.sock")
        self.port = find_port()
        command = [find_program("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--unixsocket", path, "--save", "", "--dir", str(self._folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.admin: Any = redis.Redis(unix_socket_path=path)
        wait_until(self._answers, "Redis takes connections")

    def _answers(self) -> bool:
        try:
            return bool(self.admin.ping())
        except redis.ConnectionError:
            return False

    def end(self) -> None:
        self.admin.close()
        self._process.terminate()
        self._process.wait(WAIT_SECONDS)
        shutil.rmtree(self._folder)


def find_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


class Moto:
    """The storage of moto, in a process of its own."""

    def __init__(self) -> None:
        port = find_port()
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._address = ("127.0.0.1", port)
        self.url = f"http://127.0.0.1:{port}"
        wait_until(self._answers, "moto takes connections")

    def _answers(self) -> bool:
        assert self._process.poll() is None
        try:
            socket.create_connection(self._address).close()
        except OSError:
            return False
        return True

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(WAIT_SECONDS)


# --- gates ------------------------------------------------------------------------------------


class Gate:
    """Holds one who waits. ``parameters`` say where; the waiting one is given ``token``."""

    def __init__(self, token: str) -> None:
        self.token = token

    parameters: dict[str, str]

    def is_held(self) -> Any:
        raise NotImplementedError

    def release(self) -> None:
        raise NotImplementedError


class Web:
    """An HTTP server that answers ``/TOKEN`` once TOKEN is released."""

    def __init__(self) -> None:
        self.held: set[str] = set()
        self.released: dict[str, threading.Event] = {}
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                token = self.path.strip("/").rpartition("/")[2]
                if token in web.released:
                    web.held.add(token)
                    assert web.released[token].wait(WAIT_SECONDS)
                content = token.encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class WebGate(Gate):
    def __init__(self, token: str, web: Web) -> None:
        super().__init__(token)
        self._web = web
        web.released[token] = threading.Event()
        self.parameters = {"url": f"{web.url}/{token}"}

    def is_held(self) -> bool:
        return self.token in self._web.held

    def release(self) -> None:
        self._web.released[self.token].set()


class PostgresGate(Gate):
    """A lock that the test holds."""

    def __init__(self, token: str, postgres: Postgres) -> None:
        super().__init__(token)
        self._postgres = postgres
        self._number = abs(hash(token)) % 2**31
        postgres.ask(f"select pg_advisory_lock({self._number})")
        query = f"select '{token}' from (select pg_advisory_xact_lock({self._number})) as held"
        self.parameters = {"dsn": postgres.url, "query": query}

    def is_held(self) -> bool:
        query = "select count(*) from pg_locks where not granted and locktype = 'advisory'"
        return bool(self._postgres.ask(f"{query} and objid = {self._number}"))

    def release(self) -> None:
        self._postgres.ask(f"select pg_advisory_unlock({self._number})")


class RedisGate(Gate):
    """A list that has nothing yet."""

    def __init__(self, token: str, server: Redis) -> None:
        super().__init__(token)
        self._redis = server
        self.parameters = {"url": server.url, "key": token}

    def is_held(self) -> bool:
        return bool(self._redis.admin.info("clients")["blocked_clients"])

    def release(self) -> None:
        self._redis.admin.rpush(self.token, self.token)


class FileGate(Gate):
    """A file that comes; another one says that it is waited for."""

    def __init__(self, token: str, folder: Path) -> None:
        super().__init__(token)
        self._path = folder / token
        self.parameters = {"path": str(self._path)}

    def is_held(self) -> bool:
        return self._path.with_suffix(".held").exists()

    def release(self) -> None:
        made = self._path.with_suffix(".new")
        made.write_text(self.token)
        made.rename(self._path)


class LockGate(FileGate):
    """A file that is locked, by ``flock`` or as SQLite does."""

    def __init__(self, token: str, folder: Path, lock: Callable[[str], Callable[[], None]]) -> None:
        super().__init__(token, folder)
        self.parameters["token"] = token
        self._unlock = lock(str(self._path))

    def release(self) -> None:
        self._unlock()


class Grpc:
    """Answers ``/eco/hold`` with what it was sent, once that is released."""

    def __init__(self) -> None:
        self.held: set[str] = set()
        self.released: dict[str, threading.Event] = {}
        self._server = grpc.server(ThreadPoolExecutor(8))
        handler = grpc.unary_unary_rpc_method_handler(self._hold)
        handlers = grpc.method_handlers_generic_handler("eco", {"hold": handler})
        self._server.add_generic_rpc_handlers((handlers,))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def _hold(self, request: bytes, _: object) -> bytes:
        token = request.decode()
        self.held.add(token)
        assert self.released[token].wait(WAIT_SECONDS)
        return request

    def end(self) -> None:
        self._server.stop(None)


class GrpcGate(Gate):
    def __init__(self, token: str, server: Grpc) -> None:
        super().__init__(token)
        self._server = server
        server.released[token] = threading.Event()
        self.parameters = {"port": str(server.port), "token": token}

    def is_held(self) -> bool:
        return self.token in self._server.held

    def release(self) -> None:
        self._server.released[self.token].set()


class NoGate(Gate):
    """For what does not wait."""

    def __init__(self, token: str, **parameters: str) -> None:
        super().__init__(token)
        self.parameters = {"token": token, **parameters}

    def is_held(self) -> bool:
        return False

    def release(self) -> None:
        pass
