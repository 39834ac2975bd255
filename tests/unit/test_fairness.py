"""A client whose bytes are always there already: others are answered meanwhile."""

import threading
from typing import Any

import gevent
import pytest
from harness import GET, PEER

from gateway.limits import MountLimits


@pytest.mark.parametrize("buffering", ["on", "off"])
def test_a_client_that_sends_fast_lets_others_be_answered(serve: Any, buffering: str) -> None:
    begun = threading.Event()
    answered: list[str] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        environ["wsgi.input"].read()
        start_response("200 OK", [])
        return [b""]

    gateway = serve(app, mount_limits=MountLimits(request_buffering=buffering))

    # threads with blocking sockets: their bytes are there before the gateway asks for them
    def upload() -> None:
        with gateway.listener.connect(PEER) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            client.sendall(b"1\r\nx\r\n" * 50_000)  # more than the kernel takes unread
            begun.set()
            client.sendall(b"1\r\nx\r\n" * 150_000 + b"0\r\n\r\n")
            client.recv(1000)
            answered.append("POST")

    def ask() -> None:
        begun.wait()
        with gateway.listener.connect(PEER) as client:
            client.sendall(GET)
            client.recv(1000)
            answered.append("GET")

    threads = [threading.Thread(target=upload), threading.Thread(target=ask)]
    for thread in threads:
        thread.start()
    with gevent.Timeout(30):
        while len(answered) < 2:
            gevent.sleep(0.001)
    for thread in threads:
        thread.join()
    assert answered == ["GET", "POST"]
