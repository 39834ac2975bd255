"""Streams as many numbered lines of 64 bytes as the query asks for, of no announced length."""


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return pieces(int(environ["QUERY_STRING"]))


def pieces(lines):
    for first in range(0, lines, 1024):
        last = min(first + 1024, lines)
        yield b"".join(b"%063d\n" % number for number in range(first, last))
