"""The apps that are measured, one callable for each workload. Plain PEP 3333, no framework."""

import json
import time

HELLO = b"Hello, world!\n"
MIB = 1024 * 1024
PIECE = b"x" * 64 * 1024
_TEXT = ("Content-Type", "text/plain")


def hello(environ, start_response):
    start_response("200 OK", [_TEXT, ("Content-Length", str(len(HELLO)))])
    return [HELLO]


# the same app, under the names that uWSGI is set up otherwise for (servers.py)
idle = close = hello


def wait(environ, start_response):
    """50 ms of waiting, as for a database; a server of gevent patches ``time.sleep``."""
    time.sleep(0.05)
    return hello(environ, start_response)


_MIB_OUT = b"x" * MIB


def download(environ, start_response):
    start_response("200 OK", [_TEXT, ("Content-Length", str(MIB))])
    return [_MIB_OUT]


def stream(environ, start_response):
    """64 KiB in 64 pieces, without Content-Length."""
    start_response("200 OK", [_TEXT])
    return (b"x" * 1024 for _ in range(64))


def upload(environ, start_response):
    """Reads the content in pieces and answers how much it was."""
    read, total = environ["wsgi.input"].read, 0
    while piece := read(64 * 1024):
        total += len(piece)
    body = b"%d\n" % total
    start_response("200 OK", [_TEXT, ("Content-Length", str(len(body)))])
    return [body]


def form(environ, start_response):
    """Reads all of the content."""
    environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    return hello(environ, start_response)


_ROWS = [{"id": n, "name": f"row {n}", "price": n * 1.25, "tags": ["a", "b"]} for n in range(300)]
JSON = json.dumps(_ROWS).encode()[: 20 * 1024]


def json_out(environ, start_response):
    start_response(
        "200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(JSON)))]
    )
    return [JSON]


def long_download(environ, start_response):
    """1 GiB from a generator."""
    start_response("200 OK", [_TEXT, ("Content-Length", str(1024 * MIB))])
    return (PIECE for _ in range(1024 * MIB // len(PIECE)))


def compute(environ, start_response):
    """Computes for as many seconds as the query says."""
    end = time.process_time() + float(environ["QUERY_STRING"])
    while time.process_time() < end:
        pass
    return hello(environ, start_response)
