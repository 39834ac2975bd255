"""Answers with bytes that its client can foretell: a GET of ``/SIZE/NAME`` with as many made of the
path, a POST with its own content from the last byte to the first. Odd sizes come in chunks."""

import hashlib


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if environ["REQUEST_METHOD"] == "POST":
        content = environ["wsgi.input"].read()[::-1]
    else:
        content = hashlib.shake_128(path.encode()).digest(int(path.split("/")[1]))
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return pieces(content) if len(content) % 2 else [content]


def pieces(content):
    for place in range(0, len(content), 20_000):
        yield content[place : place + 20_000]
