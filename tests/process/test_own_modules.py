"""What only the gateway needs is not there for apps: not in threads, nor beside an environment of
their own. Apps that ask for gevent get the answer that is right for their process."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from running import Running

Start = Callable[..., Running]

# each way in which a library asks whether there is another; "" is no
ASKS = """
import importlib, importlib.metadata, importlib.util, json, sys, threading

def attempt(ask, *arguments):
    try:
        found = ask(*arguments)
    except (ImportError, importlib.metadata.PackageNotFoundError, ValueError) as error:
        return ""
    return str(getattr(found, "__name__", found) or "")

def of(name):
    return {
        "import": attempt(__import__, name),
        "import_module": attempt(importlib.import_module, name),
        "a part": attempt(importlib.import_module, f"{name}.{PARTS.get(name, name)}"),
        "find_spec": attempt(importlib.util.find_spec, name),
        "modules": str([each for each in sys.modules if each.partition(".")[0] == name] or ""),
        "metadata": attempt(importlib.metadata.version, DISTRIBUTIONS.get(name, name)),
        "installed": str(
            [d.name for d in importlib.metadata.distributions() if d.name.lower() == name] or ""
        ),
    }

NAMES = ("gevent", "greenlet", "zope", "yaml", "uv", "watchfiles")
PARTS = {"gevent": "monkey", "zope": "event"}
DISTRIBUTIONS = {"zope": "zope.event", "yaml": "PyYAML"}
AT_IMPORT = {name: of(name) for name in NAMES}

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    environ["wsgi.input"].read()
    told = {name: of(name) for name in NAMES}
    told["at import"] = AT_IMPORT
    return [json.dumps(told).encode()]
"""


def told(gateway: Running, target: str) -> dict[str, Any]:
    head, _, text = gateway.ask(target).partition(b"\r\n\r\n")
    assert b" 200 " in head, head
    return json.loads(text)  # type: ignore[no-any-return]


def serve(start: Start, settings: str, **modules: str) -> Running:
    pools = f"pools:\n  t: {{{settings}}}\n"
    return start("  /a: {app: 'asks:app', pool: t}\n", server=pools, **{"asks": ASKS, **modules})


def test_apps_in_threads_find_nothing_of_the_gateways(start: Start) -> None:
    found = told(serve(start, "concurrency: threads"), "/a")
    for asked in (found.pop("at import"), found):
        assert {name: answers for name, answers in asked.items() if any(answers.values())} == {}


def test_apps_in_greenlets_find_what_patches_them(start: Start) -> None:
    found = told(serve(start, ""), "/a")
    assert all(found["gevent"].values())


@pytest.mark.parametrize("name", ["uv", "gevent", "watchfiles"])
def test_modules_of_the_apps_own_may_have_their_names(start: Start, name: str) -> None:
    app = """
import NAME
def app(environ, start_response):
    start_response("200 OK", [])
    import NAME as again
    assert again is NAME
    return [NAME.whose.encode()]
""".replace("NAME", name)
    gateway = serve(start, "concurrency: threads", asks=app, **{name: "whose = 'the app'"})
    assert gateway.ask("/a").endswith(b"the app")
