"""Takes what it is asked for: ``/compute/SECONDS`` of the processor, ``/keep/BYTES`` of memory for
good; or ``/all/0`` of the content, of which it tells the SHA-256."""

import hashlib
import os
import time

kept = []


def app(environ, start_response):
    _, what, amount = environ["PATH_INFO"].split("/")
    if what == "compute":
        ends = time.monotonic() + float(amount)
        while time.monotonic() < ends:
            pass
    elif what == "keep":
        kept.append(b"x" * int(amount))
    else:
        digest = hashlib.sha256()
        while piece := environ["wsgi.input"].read(64 * 1024):
            digest.update(piece)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [digest.hexdigest().encode()]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % os.getpid()]
