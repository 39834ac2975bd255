"""Ends its worker, and keeps a list of what it was asked; ``/asked`` tells of it."""

import json
import os
from pathlib import Path

FILE = Path(os.environ.get("GATEWAY_DATA", "var"), "dies")


def app(environ, start_response):
    if environ["PATH_INFO"] == "/asked":
        asked = FILE.read_text().split("\n")[:-1] if FILE.exists() else []
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(asked).encode()]
    with FILE.open("a") as file:
        file.write(environ["QUERY_STRING"] + "\n")
    os._exit(1)
