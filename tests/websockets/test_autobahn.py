"""The Autobahn test suite against WebSocket apps in every kind of worker, and an ASGI server behind
the gateway's tunnel: `make autobahn`. Its program runs in Python 2.7 alone, ``AUTOBAHN`` says how.
"""

import json
import os
import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import Running

APPS = """
from simple_websocket import ConnectionClosed, Server

def app(environ, start_response):
    websocket = Server.accept(environ)
    try:
        while True:
            websocket.send(websocket.receive())
    except ConnectionClosed:
        start_response("200 OK", [])
        return []

def gevent_app(environ, start_response):
    websocket = environ["wsgi.websocket"]
    while (message := websocket.receive()) is not None:
        websocket.send(message)
    return []

async def asgi_app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            said = {key: event[key] for key in ("text", "bytes") if event.get(key) is not None}
            await send({"type": "websocket.send", **said})
"""
MOUNTS = """\
  /shared: talk:app
  /greenlets: {app: "talk:app", pool: greenlets}
  /threads: {app: "talk:app", pool: threads}
  /gevent: talk:gevent_app
  /gevent-threads: {app: "talk:gevent_app", pool: threads}
  /asgi: {asgi: "talk:asgi_app"}
pools:
  greenlets: {}
  threads: {concurrency: threads, threads: 4}
"""
AGENTS = ("shared", "greenlets", "threads", "gevent", "gevent-threads", "asgi")
# all but compression, which none of these has; the tunnel passes it like all else
CASES = [f"{number}.*" for number in (1, 2, 3, 4, 5, 6, 7, 9, 10)]
GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}
# of the libraries, and the same under the servers that they come from
KNOWN = {
    # simple-websocket answers a ping in one thread while the app echoes in another
    *(("threads", case) for case in ("5.6", "5.7", "5.8", "5.19", "5.20")),
    # gevent-websocket repeats the reason of a close as Python prints bytes, which is too long
    *(("gevent", case) for case in ("7.3.4", "7.3.5")),
    *(("gevent-threads", case) for case in ("7.3.4", "7.3.5")),
}


def find_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def results(tmp_path_factory: Any) -> Iterator[dict[str, dict[str, Any]]]:
    """What came of each case, by agent."""
    folder: Path = tmp_path_factory.mktemp("autobahn")
    port = find_port()
    address = f"ws://127.0.0.1:{port}"
    servers = [{"agent": agent, "url": f"{address}/{agent}"} for agent in AGENTS]
    wanted = {"outdir": str(folder / "reports"), "servers": servers, "cases": CASES}
    wanted |= {"exclude-cases": [], "exclude-agent-cases": {}}
    (folder / "spec.json").write_text(json.dumps(wanted))
    program = shlex.split(os.environ["AUTOBAHN"])
    gateway = Running(folder, MOUNTS, option=f"--listen=127.0.0.1:{port}", talk=APPS)
    try:
        subprocess.run([*program, "-m", "fuzzingclient", "-s", folder / "spec.json"], check=True)
        yield json.loads((folder / "reports" / "index.json").read_text())
    finally:
        assert gateway.end() == 0


@pytest.mark.parametrize("agent", AGENTS)
def test_the_autobahn_suite_passes(results: dict[str, dict[str, Any]], agent: str) -> None:
    found = results[agent]
    assert len(found) > 290
    bad = {
        case: (result["behavior"], result["behaviorClose"])
        for case, result in found.items()
        if not {result["behavior"], result["behaviorClose"]} <= GOOD
    }
    assert {case for case in bad if (agent, case) not in KNOWN} == set(), bad
