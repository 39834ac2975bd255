"""Many small Flask apps: what they take, asked once each, and how soon they start and reload.

Owns the apps, which are written to .cache/bench, and how they are arranged: in one worker,
in a pool each, asleep, under a Gunicorn each. Knows nothing of their speed.
"""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import processes
from edge import together
from servers import (
    ANSWER_SECONDS,
    CACHE,
    GATEWAY_PACKAGES,
    ROOT,
    Command,
    NotMeasuredError,
    Place,
    Running,
    Server,
    get,
    gunicorn,
    serve,
    wait_until_served,
)

Figures = dict[str, Any]
FOLDER = CACHE / "twenty"
LOOK_SECONDS = 0.1
IDLE = "1s"
MOUNTS = 1000
APP = '''\
"""A list of notes."""

from flask import Flask, abort, jsonify, redirect, render_template, request, url_for

app = Flask(__name__)
notes = {{1: "the first note of app {number}"}}


@app.get("/")
def index():
    return render_template("index.html", title="app {number}", notes=notes)


@app.get("/note/<int:number>")
def note(number):
    return jsonify(number=number, text=notes.get(number) or abort(404))


@app.post("/note")
def add():
    notes[len(notes) + 1] = request.form["text"]
    return redirect(url_for("index"))
'''
PAGE = """\
<!doctype html>
<title>{{ title }}</title>
<h1>{{ title }}</h1>
{% for number, text in notes.items() %}
<p><a href="{{ url_for('note', number=number) }}">{{ text }}</a>
{% endfor %}
"""


def write_apps(count: int) -> list[str]:
    """The apps as packages of their own; their names."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    names = [f"app{number:02}" for number in range(1, count + 1)]
    for number, name in enumerate(names, 1):
        templates = FOLDER / name / "templates"
        templates.mkdir(parents=True)
        (templates / "index.html").write_text(PAGE)
        (FOLDER / name / "__init__.py").write_text(APP.format(number=number))
    return names


def gateway(names: list[str], *, own: bool, idle: str = "0") -> Command:
    """The apps in the front worker, or each in its ``own`` pool, which sleeps after ``idle``."""

    def command(bin_: Path, app: str, place: Place) -> list[str]:
        mounts = {f"/{n}": {"app": f"{n}:app", "pool": n if own else "main"} for n in names}
        pools = {name: {"idle": idle} for name in names} if own else {}
        return serve(bin_, FOLDER / "mounts.yaml", place, mounts, pools)

    return command


def gunicorns(names: list[str]) -> Command:
    """A Gunicorn for each app, at ports in a row."""

    def command(bin_: Path, app: str, place: Place) -> list[str]:
        places = [Place(place.port + number) for number in range(len(names))]
        each = zip(places, names, strict=True)
        more = ("--chdir", str(FOLDER))
        return together(*(gunicorn(bin_, f"{name}:app", own, *more) for own, name in each))

    return command


def arrange(names: list[str]) -> list[Server]:
    """The arrangements of the apps, all in one virtual environment."""
    packages = (*GATEWAY_PACKAGES, "gunicorn[gevent]")
    return [
        Server(name, "Flask", packages, command, setup)
        for name, command, setup in (
            ("shared", gateway(names, own=False), "all apps in the one front worker"),
            ("own", gateway(names, own=True), "each in a pool of its own, and the front worker"),
            ("asleep", gateway(names, own=True, idle=IDLE), "the same when all pools sleep"),
            ("gunicorns", gunicorns(names), "each under a Gunicorn: a master, a worker of gevent"),
        )
    ]


def measure(server: Server, names: list[str], port: int) -> Figures:
    """One arrangement, once: started, each app asked, measured, and reloaded."""
    figures: Figures = {}
    began = time.monotonic()
    with Running(server, "twenty", Place(port)) as running:
        if server.name in ("shared", "own"):
            wait_for(running, are_serving(1 if server.name == "shared" else 1 + len(names)))
            figures["start_seconds"] = time.monotonic() - began
            figures["start_cpu_seconds"] = processes.cpu_seconds(running.session)
        for number, name in enumerate(names):
            if server.name == "gunicorns":
                body = wait_until_served(running, "/", port + number)
            else:
                body = wait_until_served(running, f"/{name}/")
            if b"the first note of app" not in body:
                raise NotMeasuredError(f"answered wrongly: {body[:60]!r}")
        if server.name == "asleep":
            wait_for(running, are_asleep(len(names)))
        memory = processes.memory_bytes(running.session)
        figures["memory_bytes"], figures["memory_per_app_bytes"] = memory, memory / len(names)
        figures["processes"] = len(processes.pids(running.session))
        if "start_seconds" in figures:
            cpu = processes.cpu_seconds(running.session)
            figures["reload_seconds"] = reload(server, running)["seconds"]
            figures["reload_cpu_seconds"] = processes.cpu_seconds(running.session) - cpu
    return figures


def are_serving(count: int) -> Callable[[Any], bool]:
    """Whether so many pools, the front among them, have a worker that accepts."""

    def condition(status: Any) -> bool:
        ready = [
            generation["pool"]
            for generation in status["generations"]
            if any(worker["state"] == "ready" for worker in generation["workers"])
        ]
        return len(ready) == count

    return condition


def are_asleep(count: int) -> Callable[[Any], bool]:
    def condition(status: Any) -> bool:
        return [g["state"] for g in status["generations"]].count("asleep") == count

    return condition


def wait_for(running: Running, condition: Callable[[Any], Any]) -> Any:
    """The first status of the gateway that fulfils ``condition``."""
    status: Any = None

    def is_fulfilled() -> Any:
        nonlocal status
        status = json.loads(get(running.port + 1, "/status")[1])
        return condition(status)

    wait_until(running, is_fulfilled)
    return status


def wait_until(running: Running, condition: Callable[[], Any]) -> None:
    """Raises NotMeasuredError where it does not become true."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):  # does not listen yet
            if condition():
                return
        time.sleep(LOOK_SECONDS)
    raise NotMeasuredError(f"did not become what was waited for; see {running.log.name}")


def reload(server: Server, running: Running) -> Any:
    """How ``gateway reload`` ended. Raises NotMeasuredError where it failed."""
    command = [server.venv / "bin" / "python", "-m", "gateway", "reload"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    table = FOLDER / "mounts.yaml"
    subprocess.run([*command, "-c", table], env=environment, capture_output=True, check=False)
    return outcome(wait_for(running, lambda status: status.get("last_reload")))


def outcome(status: Any) -> Any:
    last = status["last_reload"]
    if last["exit_code"]:
        raise NotMeasuredError(f"the reload failed: {last['messages']}")
    return last


def many(bin_: Path, app: str, place: Place, edit: int = 0) -> list[str]:
    """The gateway with MOUNTS mounts; each ``edit`` changes the limits of all of them."""
    target = {"app": "apps:hello", "timeout": f"{30 + edit}s"}
    mounts: dict[str, Any] = {f"/app{number}": target for number in range(1, MOUNTS)}
    mounts["/edit"] = {"redirect": f"/edit-{edit}"}
    return serve(bin_, CACHE / "many.yaml", place, mounts)


MANY = Server("in-place", "", GATEWAY_PACKAGES, many, f"{MOUNTS:,} mounts, all of them changed")


def measure_edit(edit: int, port: int) -> Figures:
    """From the save of a table that changes in place to its being served."""
    with Running(MANY, "many", Place(port)) as running:
        wait_for(running, are_serving(1))
        many(MANY.venv / "bin", "many", Place(port), edit)
        # not by asking for the status, which with so many mounts is work
        wait_until(running, lambda: f"/edit-{edit}".encode() in get(port, "/edit")[1])
        last = outcome(wait_for(running, lambda status: status.get("last_reload")))
        if last["how"] != "in place":
            raise NotMeasuredError(f"was not done in place: {last['how']}")
    return {"reload_seconds": last["seconds"]}
