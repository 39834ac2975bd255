"""What is not a WSGI app is refused when it loads, with what to write instead; what may be one is
accepted."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from running import wait_until

from gateway.config.model import PoolSettings
from gateway.mounts import packages
from gateway.mounts.callables import find_app_fault, find_call_fault
from gateway.mounts.packages import advise_package

UVICORN = (
    'it is an ASGI app, which workers do not run: write asgi: "%s" in the place of app, '
    "and Uvicorn runs it"
)
ASGI = UVICORN % "m:app"
PREAMBLE = """
import functools, inspect
def served(environ, start_response): return []
"""


def look(text: str, import_string: str = "m:app") -> str:
    """What is said of ``app``, which ``text`` makes."""
    module: dict[str, Any] = {"__name__": "m"}
    exec(PREAMBLE + text, module)
    return find_app_fault(import_string, module["app"])


def look_at_factory(text: str) -> str:
    """What is said of ``app`` before it is called as a factory."""
    module: dict[str, Any] = {"__name__": "m"}
    exec(PREAMBLE + text, module)
    return find_call_fault("m:app()", module["app"])


REFUSED = {
    "async def app(scope, receive, send): ...": ASGI,
    "async def app(a, b, c): ...": ASGI,
    "def app(scope, receive, send): ...": ASGI,
    "def app(scope): ...": ASGI,
    "class A:\n async def __call__(self, scope, receive, send): ...\napp = A()": ASGI,
    "class A:\n async def run(self, scope, receive, send): ...\napp = A().run": ASGI,
    "async def f(x, scope, receive, send): ...\napp = functools.partial(f, 1)": ASGI,
    "async def app(environ, start_response): ...": (
        'it is a coroutine function, which WSGI cannot call: write "def", not "async def"'
    ),
    "async def app(environ, start_response):\n yield b''": (
        'it is a coroutine function, which WSGI cannot call: write "def", not "async def"'
    ),
    "def app(): ...": 'it looks like a factory (did you mean "m:app()"?)',
    "def app(config=None): ...": 'it looks like a factory (did you mean "m:app()"?)',
    "def create_app(config=None, debug=False): ...\napp = create_app": (
        'it looks like a factory (did you mean "m:app()"?)'
    ),
    "def make_app(*, debug=False): ...\napp = make_app": (
        'it looks like a factory (did you mean "m:app()"?)'
    ),
    "app = lambda: served": 'it looks like a factory (did you mean "m:app()"?)',
    "def create_app(config): ...\napp = create_app": (
        "create_app(config) does not take environ and start_response; if it makes the app, "
        'write "app = create_app(...)" in its module, and mount that'
    ),
    "def app(a, b, c): ...": "app(a, b, c) does not take environ and start_response",
    "def app(a, b, *, c): ...": (
        "app(a, b, *, c) cannot be called with environ and start_response alone: give c a default"
    ),
    "def app(a, b, *, c, d=1, e): ...": (
        "app(a, b, *, c, e) cannot be called with environ and start_response alone: "
        "give c and e defaults"
    ),
    "def f(a, b, *, c, d): ...\napp = functools.partial(f, c=1)": (
        "f(a, b, *, d) cannot be called with environ and start_response alone: give d a default"
    ),
    "def make(*, debug): ...\napp = make": (
        "make(*, debug) does not take environ and start_response; if it makes the app, "
        'write "app = make(...)" in its module, and mount that'
    ),
    "app = functools.partial(served, 1)": (
        "served(start_response) does not take environ and start_response; if it makes the app, "
        'write "app = served(...)" in its module, and mount that'
    ),
    "class app:\n def __call__(self, environ, start_response): ...": (
        'it is a class, and its instances are the apps (did you mean "m:app()"?)'
    ),
    "class A:\n def __init__(self, a=1): ...\n def __call__(self, e, s): ...\napp = A": (
        'it is a class, and its instances are the apps (did you mean "m:app()"?)'
    ),
    "class A:\n def __init__(self, name): ...\n def __call__(self, e, s): ...\napp = A": (
        "it is a class, and its instances are the apps: "
        'write "app = A(...)" in its module, and mount that'
    ),
    "class app:\n def __init__(self, environ, start_response): ...": (
        "it is a class whose instances can be neither apps nor responses"
    ),
    "class Blueprint: ...\napp = Blueprint()": (
        "it is a Blueprint, a part of an app: mount the Flask app that registers it"
    ),
    "import json as app": "it is a module, not a WSGI app",
    "import types\napp = types.ModuleType('web')\napp.application = served": (
        'it is a module, not a WSGI app (did you mean "web:application"?)'
    ),
    "import types\napp = types.ModuleType('s')\napp.WSGI_APPLICATION = 'mysite.wsgi.application'": (
        'it is a module, not a WSGI app (did you mean "mysite.wsgi:application"?)'
    ),
    "app = 'notes.wsgi:app'": "it is not a WSGI callable (str)",
    "app = None": "it is not a WSGI callable (NoneType)",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_certainly_fails_is_refused(text: str) -> None:
    assert look(text) == REFUSED[text]


MADE = {
    "app = None": 'it is not a WSGI callable (NoneType): end the factory with "return app"',
    "async def make(): ...\napp = make()": (
        'its factory is a coroutine function: write "def", not "async def"'
    ),
    "async def app(scope, receive, send): ...": UVICORN % "m:make()",
    "def app(): ...": (
        "what it makes is not a WSGI app: app() does not take environ and start_response"
    ),
}


@pytest.mark.parametrize("text", MADE)
def test_what_a_factory_makes(text: str) -> None:
    assert look(text, "m:make()") == MADE[text]


CALLED = {
    "app = served": 'it is the app itself, not a factory (did you mean "m:app"?)',
    "class A:\n def __call__(self, environ, start_response): ...\napp = A()": (
        'it is the app itself, not a factory (did you mean "m:app"?)'
    ),
    "async def app(scope, receive, send): ...": ASGI,
    "def app(config): ...": (
        'app(config) cannot be called without arguments: write "app = app(...)" in its module, and '
        "mount that"
    ),
}


@pytest.mark.parametrize("text", CALLED)
def test_what_is_no_factory_is_not_called(text: str) -> None:
    assert look_at_factory(text) == CALLED[text]


@pytest.mark.parametrize(
    "text",
    [
        "def app(): ...",
        "def app(config=None): ...",
        "def app(*args): ...",
        "class app:\n def __call__(self, environ, start_response): ...",
        "class A:\n def __call__(self): ...\napp = A()",
        "app = functools.partial(lambda config: served, {})",
        "app = 'no callable'",
    ],
)
def test_what_may_be_a_factory_is_called(text: str) -> None:
    assert look_at_factory(text) == ""


ACCEPTED = [
    "app = served",
    "def app(environ, start_response, extra=None): ...",
    "def app(*args): ...",
    "def app(*args, **kwargs): ...",
    "def app(environ, *rest): ...",
    "app = lambda e, s: []",
    "class A:\n def __call__(self, environ, start_response): ...\napp = A()",
    "class A:\n def run(self, environ, start_response): ...\napp = A().run",
    "class A:\n @classmethod\n def run(cls, environ, start_response): ...\napp = A.run",
    "class A:\n @staticmethod\n def run(environ, start_response): ...\napp = A().run",
    "class A:\n @staticmethod\n def __call__(environ, start_response): ...\napp = A()",
    "app = functools.partial(lambda config, e, s: [], {})",
    "app = functools.partial(lambda e, s, config: [], config={})",
    "app = functools.partial(functools.partial(lambda a, b, e, s: [], 1), 2)",
    # wrapped: the signature that inspect follows is not that of what is called
    "@functools.wraps(lambda: 1)\ndef app(environ, start_response): ...",
    "async def f(scope, receive, send): ...\n@functools.wraps(f)\ndef app(*args): ...",
    "def create_app(): ...\n@functools.wraps(create_app)\ndef app(*args, **kwargs): ...",
    "def app(*a): ...\napp.__signature__ = inspect.signature(lambda: 1)",
    # PEP 3333: a class whose instance is the response
    "class app:\n def __init__(self, environ, start_response): ...\n def __iter__(self): ...",
    "class app:\n def __new__(cls, environ, start_response): return []",
    "class Meta(type):\n def __call__(cls, environ, start_response): return []\n"
    "class app(metaclass=Meta): ...",
    "class Blueprint:\n def __call__(self, environ, start_response): ...\napp = Blueprint()",
    # C, proxies
    "app = max",
    "import operator\napp = operator.methodcaller('x')",
    "from unittest.mock import MagicMock\napp = MagicMock()",
    "class Proxy:\n __call__ = property(lambda self: served)\napp = Proxy()",
    "def create_app(environ=None, start_response=None): ...\napp = create_app",
]


@pytest.mark.parametrize("text", ACCEPTED)
def test_what_may_be_an_app_is_accepted(text: str) -> None:
    assert look(text) == ""


def test_a_factory_may_make_what_has_a_factory_s_name() -> None:
    text = "def make_response(environ=None, start_response=None, x=1): ...\napp = make_response"
    assert look(text, "m:make()") == ""


def test_flask_and_django() -> None:
    flask = pytest.importorskip("flask")
    handlers = pytest.importorskip("django.core.handlers.wsgi")
    asgi = pytest.importorskip("django.core.asgi")
    application = flask.Flask("m")
    for app in (application, application.wsgi_app, handlers.WSGIHandler.__call__.__get__(1)):
        assert find_app_fault("m:app", app) == ""
    assert find_app_fault("m:get", asgi.get_asgi_application) == (
        'it looks like a factory (did you mean "m:get()"?)'
    )
    assert "it is an ASGI app" in find_app_fault("m:app", object.__new__(asgi.ASGIHandler))
    assert "Blueprint" in find_app_fault("m:app", flask.Blueprint("a", "m"))
    # Flask itself takes two arguments, and makes no response of them
    assert find_app_fault("flask:Flask", flask.Flask) == (
        "it is a class, and its instances are the apps: "
        'write "app = Flask(...)" in its module, and mount that'
    )


def test_it_is_refused_by_a_gateway_at_its_place(start: Any) -> None:
    good, bad = "  /: good:app\n", "  /bad: bad:app\n"
    gateway = start(good + bad, bad="async def app(scope, receive, send): ...")
    assert gateway.ask("/bad").startswith(b"HTTP/1.1 503 ")
    assert gateway.ask("/").startswith(b"HTTP/1.1 200 ")
    assert "mounts.yaml:8:3: mounts./bad: bad:app: it is an ASGI app" in gateway.log_text


# --- a package that is missing ----------------------------------------------------------------

MAIN = PoolSettings(name="main")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the gateway appears to be, with its environment below."""
    monkeypatch.setattr(packages.gateway, "__file__", str(tmp_path / "gateway/__init__.py"))
    fake = SimpleNamespace(
        prefix=str(tmp_path / ".venv"), executable="/x/python", stdlib_module_names=("tomllib",)
    )
    monkeypatch.setattr(packages, "sys", fake)
    (tmp_path / "apps").mkdir()
    (tmp_path / ".venv").mkdir()
    return tmp_path


PIP = 'run "/x/python -m pip install humanize" and "gateway reload"'


@pytest.mark.parametrize(
    ("files", "pool", "advice"),
    [
        (
            ["apps/requirements.txt"],
            MAIN,
            'add humanize to apps/requirements.txt and run "make up"',
        ),
        (
            ["apps/requirements.txt", "Makefile", ".venv/run.stamp"],
            MAIN,
            'add humanize to apps/requirements.txt and run "make run" again',
        ),
        (["apps/requirements.txt", "Makefile"], MAIN, PIP),
        ([], MAIN, PIP),
        ([], PoolSettings(name="a"), PIP),
        (["apps/requirements.txt"], PoolSettings(name="a", venv=Path("/x")), PIP),
        (["apps/requirements.txt"], PoolSettings(name="a", python="3.12"), PIP),
        (
            ["apps/requirements.txt"],
            PoolSettings(name="a", requirements=Path("/srv/a.txt")),
            'add humanize to /srv/a.txt and run "gateway reload"',
        ),
    ],
)
def test_how_a_missing_package_is_added(
    place: Path, files: list[str], pool: PoolSettings, advice: str
) -> None:
    for name in files:
        (place / name).write_text("")
    assert advise_package("humanize", pool) == advice


@pytest.mark.parametrize(
    ("module", "package"),
    [("PIL", "Pillow"), ("yaml2", "yaml2"), ("flask_login", "flask-login"), ("cv2", "opencv-")],
)
def test_a_package_has_its_own_name(place: Path, module: str, package: str) -> None:
    assert f" {package}" in advise_package(module, MAIN)


@pytest.mark.parametrize("module", ["shop.models", "tomllib", "json", "importlib.nothing"])
def test_what_no_package_would_bring(place: Path, module: str) -> None:
    assert advise_package(module, MAIN) == ""


def test_the_advice_reaches_the_log(start: Any) -> None:
    gateway = start('  /: good:app\n  /a: {app: "bad:app", pool: own}\n', bad="import humanise")
    advice = json.dumps(advise_package("humanise", PoolSettings(name="/a")))[1:-1]
    wait_until(lambda: "humanise" in gateway.log_text, "the failure is logged")
    assert f"No module named 'humanise' ({advice})" in gateway.log_text
