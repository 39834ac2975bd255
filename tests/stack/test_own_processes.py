"""The examples that have processes and packages of their own: built at the first start, while the
stack is healthy already; an old Flask beside a new one, and a WebSocket through nginx, gateway and
the server that a pool runs.
"""

import base64
import hashlib
import os
import struct

import pytest
from compose_stack import wait_for
from stacks import Example
from wire import Connection, build_request, wait_until

# both environments are downloaded and built meanwhile
BUILD_SECONDS = 120
# RFC 6455 §1.3
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE, PING = 1, 2, 8, 9


@pytest.fixture(scope="module")
def built(example: Example) -> Example:
    """Once what is built at the first start serves."""
    for mount in ("/legacy/", "/talk/"):
        wait_until(
            lambda mount=mount: example.fetch(mount).status == 200,
            f"{mount} answers",
            BUILD_SECONDS,
        )
    return example


class WebSocket:
    """A client's side of one. Source: RFC 6455 §4.1 (opening), §5.2 (frames)."""

    def __init__(self, client: Connection, target: str) -> None:
        self._socket = client.socket
        self._reader = client.socket.makefile("rb")
        key = base64.b64encode(os.urandom(16))
        client.send(
            build_request(
                client.host,
                target,
                "GET",
                ("Connection", "Upgrade"),
                ("Upgrade", "websocket"),
                ("Sec-WebSocket-Version", "13"),
                ("Sec-WebSocket-Key", key.decode()),
            )
        )
        head = b"".join(iter(self._reader.readline, b"\r\n")).decode().lower()
        assert head.startswith("http/1.1 101 "), head
        accepted = base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()
        assert f"sec-websocket-accept: {accepted}".lower() in head

    def send(self, kind: int, content: bytes) -> None:
        """One frame, masked as a client's has to be."""
        mask = os.urandom(4)
        size = len(content)
        length = struct.pack(">B", 0x80 | size) if size < 126 else struct.pack(">BH", 0xFE, size)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(content))
        self._socket.sendall(bytes([0x80 | kind]) + length + mask + masked)

    def receive(self) -> tuple[int, bytes]:
        """The kind and the content of the next frame. Uvicorn's pings, one in 20 s, are none."""
        while True:
            first, size = self._reader.read(2)
            if size == 126:
                [size] = struct.unpack(">H", self._reader.read(2))
            content = self._reader.read(size)
            if first & 0x0F != PING:
                return first & 0x0F, content

    def close(self) -> None:
        self._reader.close()


def test_two_majors_of_flask_serve_side_by_side(built: Example):
    old = built.fetch("/legacy/versions").json()
    asked = "from importlib.metadata import version; print(version('flask'))"
    new = built.run_in("gateway", "python", "-c", asked).out.strip()
    assert old["Flask"].startswith("2.")
    assert int(new.partition(".")[0]) >= 3
    assert built.fetch("/notes/").status == 200
    assert old["Flask"] in built.fetch("/legacy/").text


def test_a_websocket_echoes_through_nginx_gateway_and_the_pools_server(built: Example):
    with Connection(built.address) as client:
        spoken = WebSocket(client, "/talk/ws")
        for kind, content in ((TEXT, "Grüße".encode()), (BINARY, os.urandom(5000)), (TEXT, b"")):
            spoken.send(kind, content)
            assert spoken.receive() == (kind, content)
        spoken.send(CLOSE, struct.pack(">H", 1000))
        assert spoken.receive() == (CLOSE, struct.pack(">H", 1000))
        spoken.close()


def test_what_is_no_websocket_of_it_is_refused(built: Example):
    assert built.fetch("/talk/ws").status == 404
    fields = (("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"))
    key = ("Sec-WebSocket-Key", base64.b64encode(bytes(16)).decode())
    assert built.fetch("/talk/other", "GET", *fields, key).status == 403


def test_its_page_leads_to_what_is_below_its_mount(built: Example):
    page = wait_for(built, "/talk/", lambda answer: answer.status == 200).text
    for name in ("style.css", "talk.js"):
        assert f'"/talk/{name}"' in page
        assert built.fetch(f"/talk/{name}").status == 200


def test_a_reload_starts_another_server_and_a_websocket_goes_on_with_the_old_one(built: Example):
    with Connection(built.address) as client:
        spoken = WebSocket(client, "/talk/ws")
        ran = built.run_in("gateway", "gateway", "reload", "-c", "/srv/apps/mounts.yaml")
        assert ran.exit_code == 0, ran.err
        spoken.send(TEXT, b"still there")
        assert spoken.receive() == (TEXT, b"still there")
        spoken.close()
    assert built.fetch("/talk/").status == 200
