"""FastAPI and Starlette behind ``asgi:``: requests, WebSockets, lifespan, the prefix."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket
from running import wait_until
from talkers import OnPort, ask

APPS = Path(__file__).with_name("apps")
MOUNTS = """\
  /fastapi: {asgi: "asgis:fastapi_app", env: {LIFE: "%(folder)s/fastapi"}}
  /starlette/deep: {asgi: "asgis:make_starlette_app()", env: {LIFE: "%(folder)s/starlette"}}
"""
PREFIXES = ("/fastapi", "/starlette/deep")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: Any) -> Iterator[OnPort]:
    folder: Path = tmp_path_factory.mktemp("gateway")
    gateway = OnPort(folder, MOUNTS % {"folder": folder}, asgis=(APPS / "asgis.py").read_text())
    try:
        for prefix in PREFIXES:
            wait_until(lambda p=prefix: ask(gateway, f"{p}/hello?name=x")[0] == 200, "it answers")
        yield gateway
        assert gateway.end() == 0
        for name in ("fastapi", "starlette"):
            assert (folder / name).read_text() == "begun, ended"
    finally:
        gateway.end()


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_view_knows_its_parameters_and_its_address(gateway: OnPort, prefix: str) -> None:
    status, content = ask(gateway, f"{prefix}/hello?name=gr%C3%BC%C3%9Fe")
    assert status == 200
    assert json.loads(content) == {
        "name": "grüße",
        "url": f"http://a{prefix}/hello",
        "root_path": prefix,
    }
    assert ask(gateway, f"{prefix}/nowhere")[0] == 404


@pytest.mark.parametrize("prefix", PREFIXES)
def test_its_lifespan_has_begun_before_the_first_request(gateway: OnPort, prefix: str) -> None:
    name = prefix.split("/")[1]
    assert (gateway.folder / name).read_text() == "begun"


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_websocket_sends_back_what_it_gets(gateway: OnPort, prefix: str) -> None:
    connected = websocket.create_connection(f"ws://127.0.0.1:{gateway.port}{prefix}/talk")
    connected.send("grüße")
    assert connected.recv() == f"{prefix} grüße"
    connected.send_binary(bytes(100_000))
    assert connected.recv() == bytes(100_000)
    connected.close()


def test_the_documentation_of_fastapi_leads_to_its_schema(gateway: OnPort) -> None:
    status, page = ask(gateway, "/fastapi/docs")
    assert (status, "url: '/fastapi/openapi.json'" in page) == (200, True)
    status, schema = ask(gateway, "/fastapi/openapi.json")
    assert status == 200
    assert json.loads(schema)["servers"] == [{"url": "/fastapi"}]
