"""Fails: at once, or with ``/late`` after the head and a first piece have gone out."""


def app(environ, start_response):
    if environ["PATH_INFO"] != "/late":
        raise LookupError("the answer is missing")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return late()


def late():
    yield b"so far so good\n"
    raise LookupError("the rest is missing")
