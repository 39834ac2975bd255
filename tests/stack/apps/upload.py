"""Reads what is sent to ``/NAME`` piece by piece; a GET of it tells how many bytes that were."""

import hashlib
import json
import os
from pathlib import Path

FOLDER = Path(os.environ.get("GATEWAY_DATA", "var"), "uploads")
PIECE_BYTES = 64 * 1024


def app(environ, start_response):
    FOLDER.mkdir(parents=True, exist_ok=True)
    progress = FOLDER / environ["PATH_INFO"].strip("/")
    if environ["REQUEST_METHOD"] == "GET":
        body = (progress.read_text() if progress.exists() else "0").encode()
    else:
        body = json.dumps(take(environ["wsgi.input"], progress)).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]


def take(content, progress):
    digest, received = hashlib.sha256(), 0
    while piece := content.read(PIECE_BYTES):
        digest.update(piece)
        received += len(piece)
        # whole or not at all: a reader never sees it half written
        fresh = progress.with_suffix(".new")
        fresh.write_text(str(received))
        fresh.replace(progress)
    return {"received": received, "sha256": digest.hexdigest()}
