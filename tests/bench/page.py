"""A Flask page with a session, and what it costs without a server: ``page.py sessions|cost ...``.

``sessions N`` prints cookies that the app takes for its own, ``cost FILE SECONDS`` calls the app
with that file's requests and prints the result as JSON.
"""

import io
import json
import sys
import time
from itertools import cycle
from pathlib import Path
from urllib.parse import unquote_to_bytes

from flask import Flask, render_template, request, session
from jinja2 import DictLoader

TEMPLATE = """\
<!doctype html>
<title>Notes</title>
<p>{{ user }}, your visit number {{ visits }}
<ul>
{% for number in numbers %}
<li><a href="{{ url_for('show', number=number) }}">Note {{ number }}</a>
{% endfor %}
</ul>
"""
app = Flask(__name__)
app.secret_key = "not a secret"
app.jinja_loader = DictLoader({"page.html": TEMPLATE})


@app.get("/notes/<int:number>")
def show(number):
    """Ten links; what the session knows is read, and changed for the next visit."""
    session["visits"] += 1
    first = number + 10 * request.args.get("page", 0, type=int)
    numbers = range(first, first + 10)
    return render_template("page.html", numbers=numbers, **session)


def write_sessions(count):
    serializer = app.session_interface.get_signing_serializer(app)
    for number in range(count):
        print(serializer.dumps({"user": f"user {number}", "visits": number}))


def build_environ(text):
    """What a server makes of a request without content."""
    head = text.decode("latin-1").rstrip("\r\n")
    request_line, *lines = head.split("\r\n")
    method, target, protocol = request_line.split(" ")
    path, _, query = target.partition("?")
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": protocol,
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for line in lines:
        name, _, value = line.partition(": ")
        environ[f"HTTP_{name.upper().replace('-', '_')}"] = value
    return environ


def call(environ):
    """The body. The environ is a copy, since the app writes into it."""
    body = app(dict(environ), lambda status, headers, exc_info=None: None)
    try:
        return b"".join(body)
    finally:
        body.close()


def measure_cost(path, seconds):
    environs = [build_environ(text) for text in Path(path).read_bytes().split(b"\0")[:-1]]
    for environ in environs:  # the templates, and all that is made at a first request
        call(environ)
    count, began, cpu = 0, time.monotonic(), time.process_time()
    for environ in cycle(environs):
        call(environ)
        count += 1
        if time.monotonic() - began > seconds:
            break
    cpu, wall = time.process_time() - cpu, time.monotonic() - began
    print(json.dumps({"requests_per_second": count / wall, "cpu_us": cpu * 1e6 / count}))


if __name__ == "__main__":
    if sys.argv[1] == "sessions":
        write_sessions(int(sys.argv[2]))
    else:
        measure_cost(sys.argv[2], float(sys.argv[3]))
