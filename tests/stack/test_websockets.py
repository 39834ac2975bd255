"""WebSockets through nginx: of WSGI apps in every kind of worker, and of an ASGI server."""

import json
from typing import Any

import pytest
from compose_stack import Stack, wait_for
from peer import Peer
from stacks import Example, Lab
from wire import Connection, wait_until

MIB = 1024 * 1024
MOUNTS = """
  /talk/shared: talker:app
  /talk/greenlets: {app: "talker:app", pool: greenlets}
  /talk/threads: {app: "talker:app", pool: threads, timeout: 1s}
pools:
  greenlets: {}
  threads: {concurrency: threads, threads: 2}
"""
KINDS = ("shared", "greenlets", "threads")
TABLE = ("-c", "/srv/apps/mounts.yaml")


def talk(stack: Stack, target: str) -> Peer:
    connection = Connection(stack.address)
    return Peer(connection.socket, target, connection.host)


@pytest.fixture
def talking(disturbed_lab: Lab) -> Lab:
    """The lab, with a WebSocket in every kind of worker."""
    disturbed_lab.table += MOUNTS
    for kind in KINDS:
        wait_for(disturbed_lab, f"/talk/{kind}", lambda answer: answer.status == 400)
    return disturbed_lab


def in_flight(lab: Lab) -> set[str]:
    ran = lab.run_in("gateway", "gateway", "status", "--json", *TABLE)
    generations = json.loads(ran.out)["generations"]
    return {g["pool"] for g in generations if any(w["in_flight"] for w in g["workers"])}


def test_websockets_of_every_kind_of_worker(talking: Lab) -> None:
    for kind in KINDS:
        peer = talk(talking, f"/talk/{kind}")
        assert peer.ask("grüße") == "grüße"
        assert peer.ask(bytes(range(256)) * (MIB // 256)) == bytes(range(256)) * (MIB // 256)
        assert in_flight(talking) >= {"main" if kind == "shared" else kind}
        peer.close()

        def records(kind: str = kind) -> list[dict[str, Any]]:
            found = [r for r in talking.records("gateway") if r.get("target") == f"/talk/{kind}"]
            return [r for r in found if r["status"] == 101]

        [record] = wait_until(records, "its record")
        assert record["bytes_in"] > MIB
        assert record["bytes_out"] > MIB


def test_a_reload_leaves_websockets_open_and_others_meet_the_new_code(talking: Lab) -> None:
    peers = {kind: talk(talking, f"/talk/{kind}") for kind in KINDS}
    app = talking.folder / "talker.py"
    app.write_text(app.read_text().replace("for WebSockets", "for new WebSockets"))
    assert talking.run_in("gateway", "gateway", "reload", *TABLE).exit_code == 0
    for kind, peer in peers.items():
        assert talking.fetch(f"/talk/{kind}").text == "for new WebSockets"
        assert peer.ask("still here?") == "still here?"
        peer.socket.close()


def test_a_websocket_of_an_asgi_app(example: Example) -> None:
    refused = talk(example, "/files/")
    assert not refused.accepted
    refused.socket.close()
    peer = talk(example, "/talk/ws")
    assert peer.accepted
    assert peer.ask("hello") == "hello"
    peer.close()
