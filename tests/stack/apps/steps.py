"""Goes on only when told to, or when its client has left: a test decides what comes before what.

``/next?NAME`` permits one more step of the request NAME; ``/stream?NAME`` sends one event a step,
``/slow?NAME`` answers after the first; ``/state?NAME`` tells what that request has done so far.
The permits are bytes of a file: any worker may take them, and ``docker exec`` may give them.
"""

import json
import os
import time
from pathlib import Path

FOLDER = Path(os.environ.get("GATEWAY_DATA", "var"), "steps")


def app(environ, start_response):
    FOLDER.mkdir(parents=True, exist_ok=True)
    answer = {"/next": permit, "/state": state, "/slow": slow, "/stream": stream}
    return answer[environ["PATH_INFO"]](environ, environ["QUERY_STRING"], start_response)


def permit(environ, name, start_response):
    note(name, ".")
    start_response("204 No Content", [])
    return []


def state(environ, name, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(read(f"{name}.done").split()).encode()]


def slow(environ, name, start_response):
    note(f"{name}.done", "began\n")
    while not read(name):
        time.sleep(0.01)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"finished\n"]


def stream(environ, name, start_response):
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    return events(name, environ["gateway.client_disconnected"])


def events(name, has_left):
    note(f"{name}.done", "began\n")
    sent = 0
    try:
        while not has_left():
            if sent < len(read(name)):
                sent += 1
                yield f"data: {sent}\n\n".encode()
            time.sleep(0.01)
    finally:
        note(f"{name}.done", "closed\n")


def note(name, text):
    with open(FOLDER / name, "a") as file:
        file.write(text)


def read(name):
    try:
        return (FOLDER / name).read_text()
    except FileNotFoundError:
        return ""
