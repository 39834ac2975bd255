"""``asgi:`` of a mount: Uvicorn below the prefix, with the client as it is."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from peer import Peer
from running import Running

from gateway.config.asgi import find_asgi_fault
from gateway.config.model import PoolSettings

Start = Callable[..., Running]

APP = """
import json, os

async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": scope["path"] + " " + event["text"]})
        return
    if scope["type"] != "http":
        return
    told = {key: scope[key] for key in ("scheme", "path", "root_path", "client")}
    told["variable"] = os.environ.get("ASGI_TEST", "")
    body = json.dumps(told).encode()
    fields = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": body})

def create_app():
    return app
"""
MOUNTS = """\
  /talk: {asgi: "speaks:app", env: {ASGI_TEST: given}, health: /healthz}
  /made: {asgi: "speaks:create_app()", pool: made}
pools:
  made: {}
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: Any) -> Iterator[Running]:
    server = "  trusted_proxies: ['unix:']\n"
    running = Running(tmp_path_factory.mktemp("gateway"), MOUNTS, server, speaks=APP)
    yield running
    running.end()


def ask(gateway: Running, target: str) -> dict[str, Any]:
    with gateway.connect() as connection:
        connection.sendall(
            f"GET {target} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n"
            "X-Forwarded-For: 192.0.2.9\r\nX-Forwarded-Proto: https\r\n\r\n".encode()
        )
        with connection.makefile("rb") as answer:
            found: dict[str, Any] = json.loads(answer.read().partition(b"\r\n\r\n")[2])
            return found


def test_an_asgi_app_knows_its_prefix_and_its_client(gateway: Running) -> None:
    assert ask(gateway, "/talk/a%20b") == {
        "scheme": "https",
        "path": "/talk/a b",
        "root_path": "/talk",
        "client": ["192.0.2.9", 0],
        "variable": "given",
    }


def test_a_factory_in_a_pool_of_the_table(gateway: Running) -> None:
    found = ask(gateway, "/made/x")
    assert (found["path"], found["root_path"], found["variable"]) == ("/made/x", "/made", "")


def test_a_websocket_of_an_asgi_app(gateway: Running) -> None:
    peer = Peer(gateway.connect(), "/talk/room")
    assert peer.ask("hello") == "/talk/room hello"
    peer.close()


def test_an_environment_without_uvicorn_is_refused_and_one_that_has_it_is_not(
    tmp_path: Path,
) -> None:
    pool = PoolSettings(name="apart", venv=tmp_path)
    assert find_asgi_fault(pool) == f"Uvicorn is not installed in {tmp_path}: add it there"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "uvicorn").touch()
    assert find_asgi_fault(pool) == ""
    assert find_asgi_fault(PoolSettings(name="apart", requirements="requirements.txt")) == ""
