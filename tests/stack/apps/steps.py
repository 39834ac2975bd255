"""Goes on only when told to, so that a test decides what happens before what.

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
    return answer[environ["PATH_INFO"]](environ["QUERY_STRING"], start_response)


def permit(name, start_response):
    note(name, ".")
    start_response("204 No Content", [])
    return []


def state(name, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(read(f"{name}.done").split()).encode()]


def slow(name, start_response):
    note(f"{name}.done", "began\n")
    wait_for_permit(name, 1)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"finished\n"]


def stream(name, start_response):
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    return events(name)


def events(name):
    note(f"{name}.done", "began\n")
    number = 0
    try:
        while True:
            number += 1
            wait_for_permit(name, number)
            yield f"data: {number}\n\n".encode()
    finally:
        note(f"{name}.done", "closed\n")


def wait_for_permit(name, number):
    while len(read(name)) < number:
        time.sleep(0.01)


def note(name, text):
    with open(FOLDER / name, "a") as file:
        file.write(text)


def read(name):
    try:
        return (FOLDER / name).read_text()
    except FileNotFoundError:
        return ""
