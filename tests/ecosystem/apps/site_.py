"""A WSGI app of functions: ``/NAME?…`` calls one with the query's parameters; its text is sent."""

import time
from pathlib import Path
from urllib.parse import parse_qs


def site(functions):
    def app(environ, start_response):
        work = functions[environ["PATH_INFO"].strip("/")]
        told = work(**parameters(environ)).encode()
        start_response("200 OK", [("Content-Length", str(len(told)))])
        return [told]

    return app


def parameters(environ):
    return {name: values[0] for name, values in parse_qs(environ["QUERY_STRING"]).items()}


def wait_for(path):
    """What comes in a file, waited for as Python code does."""
    tell_held(path)
    while not Path(path).exists():
        time.sleep(0.01)
    return Path(path).read_text()


def tell_held(path):
    Path(f"{path}.held").touch()


def neighbour(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
