"""Asks the gateway itself, as a request forgery would have an app do, and answers what it gets."""

import json
import socket
from contextlib import closing, suppress

ADDRESSES = "/run/http/gateway.sock", ("127.0.0.1", 8000), ("gateway", 8000), ("nginx", 8080)


def app(environ, start_response):
    head = environ["wsgi.input"].read()
    answers = {}
    for address in ADDRESSES:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        with suppress(OSError), closing(socket.socket(family)) as gateway:
            gateway.connect(address)
            gateway.sendall(head)
            answer = b"".join(iter(lambda: gateway.recv(65536), b""))
            answers[str(address)] = json.loads(answer.partition(b"\r\n\r\n")[2])
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answers).encode()]
