"""A live page fed by server-sent events: the pages, and an event each second.

Plain WSGI (PEP 3333); the stream is a generator. Knows nothing of who reads it: one ``Feed`` per
worker process does the waiting. Source: HTML Living Standard, "Server-sent events".
"""

import json
import math
import os
import time
from pathlib import Path
from urllib.parse import quote

from events.feed import Feed

HERE = Path(__file__).parent
FILES = {
    "/": ("text/html; charset=utf-8", (HERE / "index.html").read_bytes()),
    "/live.js": ("text/javascript; charset=utf-8", (HERE / "live.js").read_bytes()),
    "/style.css": ("text/css", (HERE / "style.css").read_bytes()),
}
PAST_SECONDS = 90


def app(environ, start_response):
    path = environ.get("PATH_INFO", "")
    is_head = environ["REQUEST_METHOD"] == "HEAD"
    if path == "/stream" and environ["REQUEST_METHOD"] in ("GET", "HEAD"):
        headers = [("Content-Type", "text/event-stream"), ("Cache-Control", "no-store")]
        headers.append(("X-Accel-Buffering", "no"))  # nginx forwards each event at once
        start_response("200 OK", headers)
        # A gateway that stops says so; the browser comes back by itself after "retry".
        is_draining = environ.get("gateway.is_draining", lambda: False)
        return [] if is_head else stream(is_draining)
    status, headers, body = answer(environ, path)
    start_response(status, [*headers, ("Content-Length", str(len(body)))])
    return [] if is_head else [body]


def answer(environ, path):
    text = ("Content-Type", "text/plain; charset=utf-8")
    if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        return "405 Method Not Allowed", [text, ("Allow", "GET, HEAD")], b"Only to be read.\n"
    if path == "":
        # The page's own links are relative, so its address has to end with a slash.
        location = quote(environ.get("SCRIPT_NAME", "").encode("latin-1")) + "/"
        return "308 Permanent Redirect", [text, ("Location", location)], b"One slash further.\n"
    if path not in FILES:
        return "404 Not Found", [text], b"Not found.\n"
    content_type, body = FILES[path]
    return "200 OK", [("Content-Type", content_type), ("Cache-Control", "no-cache")], body


def stream(is_draining):
    # A second's tick is also the heartbeat: no proxy sees this stream idle for longer.
    now = int(time.time())
    past = [level(now - ago) for ago in range(PAST_SECONDS, 0, -1)]
    yield b"retry: 2000\n" + event("past", past)
    for message in feed.read():
        yield message
        if is_draining():
            return


def event(name, value):
    return f"event: {name}\ndata: {json.dumps(value, separators=(',', ':'))}\n\n".encode()


def level(second):
    """A made-up tide between 0 and 100; made from the clock, so it is the same in every worker."""
    turn = 2 * math.pi * second
    return round(
        50 + 24 * math.sin(turn / 61) + 15 * math.sin(turn / 23) + 5 * math.sin(turn / 7), 1
    )


class Meter:
    """The share of one core that this process used since the last call, in percent."""

    def __init__(self):
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def percent(self):
        wall, cpu = time.monotonic(), time.process_time()
        used = 100 * (cpu - self._cpu) / max(wall - self._wall, 0.001)
        self._wall, self._cpu = wall, cpu
        return round(used, 1)


def next_tick():
    """Waits for the full second, so that all workers tick together."""
    now = int(time.time()) + 1
    while (early := now - time.time()) > 0:  # a sleep may end a moment too soon
        time.sleep(early)
    fact = {"time": now, "level": level(now), "streams": feed.readers}
    return event("tick", {**fact, "worker": os.getpid(), "cpu": meter.percent()})


meter = Meter()
feed = Feed(next_tick)
