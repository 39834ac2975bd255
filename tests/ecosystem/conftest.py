"""The servers and the three gateways of the library table, each started once."""

import fcntl
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rows import MOUNTS
from services import (
    FileGate,
    Gate,
    Grpc,
    GrpcGate,
    LockGate,
    Moto,
    NoGate,
    Postgres,
    PostgresGate,
    Redis,
    RedisGate,
    Web,
    WebGate,
)
from talkers import OnPort

APPS = Path(__file__).with_name("apps")
SETUPS = {
    "Shared worker": "",
    "Greenlet pool": "pools: {apart: {}}\n",
    "Threads pool": "pools: {apart: {concurrency: threads, threads: 8}}\n",
}


def running_server(kind: Callable[[], Any]) -> Any:
    @pytest.fixture(scope="session")
    def server() -> Iterator[Any]:
        started = kind()
        yield started
        started.end()

    return server


postgres = running_server(Postgres)
redis_server = running_server(Redis)
moto = running_server(Moto)
web = running_server(Web)
grpc_server = running_server(Grpc)


def lock_file(path: str) -> Callable[[], None]:
    file = open(path, "a")  # noqa: SIM115
    fcntl.flock(file, fcntl.LOCK_EX)
    return file.close


def lock_database(path: str) -> Callable[[], None]:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("begin exclusive")
    return connection.close


@pytest.fixture(scope="session")
def make_gate(
    postgres: Postgres,
    redis_server: Redis,
    moto: Moto,
    web: Web,
    grpc_server: Grpc,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, str], Gate]:
    """``make_gate(kind, token)``: what a row waits for."""
    folder = tmp_path_factory.mktemp("gates")
    kinds: dict[str, Callable[[str], Gate]] = {
        "web": lambda token: WebGate(token, web),
        "postgres": lambda token: PostgresGate(token, postgres),
        "redis": lambda token: RedisGate(token, redis_server),
        "grpc": lambda token: GrpcGate(token, grpc_server),
        "file": lambda token: FileGate(token, folder),
        "flock": lambda token: LockGate(token, folder, lock_file),
        "sqlite": lambda token: LockGate(token, folder, lock_database),
        "moto": lambda token: NoGate(token, url=moto.url),
        "redis server": lambda token: NoGate(token, url=redis_server.url),
        "nothing": NoGate,
    }
    return lambda kind, token: kinds[kind](token)


@pytest.fixture(scope="session", params=SETUPS)
def setup(
    request: pytest.FixtureRequest, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, OnPort]]:
    """The name of a column of the table, and a gateway that serves all rows so."""
    folder = tmp_path_factory.mktemp("gateway")
    modules = {path.stem: path.read_text() for path in APPS.glob("*.py")}
    pool = "" if request.param == "Shared worker" else ", pool: apart"
    mounts = "".join(
        f"  {at}: {{app: '{app}'{pool}, env: {{PGHOST: '{postgres.host}'}}}}\n"
        for at, app in MOUNTS.items()
    )
    gateway = OnPort(folder, mounts, SETUPS[request.param], **modules)
    try:
        yield request.param, gateway
    finally:
        gateway.end()
