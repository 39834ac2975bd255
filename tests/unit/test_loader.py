"""Import strings to apps: what can be loaded, and what a person is told of what cannot."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from wsgi_caller import ask

from gateway.config.model import AppTarget, Mount, PoolSettings, RedirectTarget, StaticTarget, Where
from gateway.errors import AppLoadError
from gateway.limits import MountLimits
from gateway.mounts.loader import describe_cause, load_app, load_mounts
from gateway.mounts.packages import advise_package

APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"served"]
"""

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module into a folder on the path; it is forgotten after the test."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
        importlib.invalidate_caches()

    yield write
    for name in [name for name in sys.modules if name.startswith("site_")]:
        del sys.modules[name]


def failure(import_string: str) -> tuple[str, str]:
    """What is told of an app that cannot be loaded, and its traceback."""
    with pytest.raises(AppLoadError) as refused:
        load_app(import_string)
    message = str(refused.value)
    assert "\n" not in message
    return message, describe_cause(refused.value)


# --- what can be loaded -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("import_string", "more"),
    [
        ("site_app:app", ""),
        ("site_app:inner.app", "class inner:\n    app = staticmethod(app)\n"),
        ("site_app:create()", "def create():\n    return app\n"),
        (
            "site_app:inner.create()",
            "class inner:\n    create = staticmethod(lambda: app)\n",
        ),
        (
            "site_app:instance",
            "class App:\n    def __call__(self, environ, start):\n"
            "        return app(environ, start)\ninstance = App()\n",
        ),
    ],
)
def test_every_form_of_import_string(write: Write, import_string: str, more: str) -> None:
    write("site_app.py", APP + more)
    assert ask(load_app(import_string)).content == b"served"


def test_a_module_in_a_package(write: Write) -> None:
    write("site_pages/__init__.py", "")
    write("site_pages/web/wsgi.py", APP)
    assert ask(load_app("site_pages.web.wsgi:app")).content == b"served"


def test_a_module_is_imported_once(write: Write) -> None:
    write("site_app.py", APP + "import sys\nsys.modules[__name__].count = 1\n")
    assert load_app("site_app:app") is load_app("site_app:app")


# --- what cannot ------------------------------------------------------------------------------


def test_a_missing_module() -> None:
    assert failure("no_such_module:app") == (
        "no_such_module:app: there is no module no_such_module on sys.path",
        "",
    )


def test_a_missing_module_of_a_package(write: Write) -> None:
    write("site_app/__init__.py", "")
    message, cause = failure("site_app.wsgi:app")
    assert message == "site_app.wsgi:app: there is no module site_app.wsgi on sys.path"
    assert cause == ""


def test_a_package_that_another_module_hides() -> None:
    message, _ = failure("site.web:app")  # the standard library has a module of that name
    assert message == "site.web:app: No module named 'site.web'; 'site' is not a package"


def test_a_module_whose_own_import_is_missing(write: Write, tmp_path: Path) -> None:
    write("site_app.py", "import flusk\n")
    message, cause = failure("site_app:app")
    told = "site_app:app: ModuleNotFoundError: No module named 'flusk'"
    assert message == f"{told} ({advise_package('flusk', PoolSettings(name='main'))})"
    assert cause == (
        "Traceback (most recent call last):\n"
        f'  File "{tmp_path}/site_app.py", line 1, in <module>\n'
        "    import flusk\n"
        "ModuleNotFoundError: No module named 'flusk'"
    )


def test_a_module_whose_own_submodule_is_missing(write: Write) -> None:
    write("site_app/__init__.py", "import site_app.models\n")
    message, cause = failure("site_app:app")
    assert message == "site_app:app: ModuleNotFoundError: No module named 'site_app.models'"
    assert "import site_app.models" in cause


@pytest.mark.parametrize(
    ("module", "wanted", "meant"),
    [
        ("def shop(e, s): ...", "shpo", "shop"),
        ("def shop(): ...", "shpo()", "shop()"),
        (APP, "application", "app"),
        ("def create_app(): ...", "app", "create_app()"),
        ("def create_app(): ...", "creat_app()", "create_app()"),
        ("globals()[7] = shop = print", "shpo", "shop"),
        ("import sys\nsys.modules[__name__] = object()", "app", ""),
        ("def shop(e, s): ...", "shpo.app", "shop"),
        ("def shop(): ...", "shpo.app()", "shop"),
        ("def shop(e, s): ...", "wiki", ""),
        ("shop = 7", "shpo", ""),
        ("WSGI_APPLICATION = 'shop.wsgi.application'", "wsgi", "shop.wsgi:application"),
    ],
)
def test_a_missing_attribute(write: Write, module: str, wanted: str, meant: str) -> None:
    write("site_app.py", module)
    owner = "'object' object" if "object()" in module else "module 'site_app'"
    told = f"{owner} has no attribute '{wanted.partition('.')[0].removesuffix('()')}'"
    hint = f' (did you mean "{meant}"?)' if meant else ""
    assert failure(f"site_app:{wanted}") == (f"site_app:{wanted}: AttributeError: {told}{hint}", "")


def test_what_an_attribute_lacks_is_not_guessed_at(write: Write) -> None:
    write("site_app.py", "class shop: ...\ndef app(e, s): ...\n")
    message, _ = failure("site_app:shop.app")
    assert message == "site_app:shop.app: AttributeError: type object 'shop' has no attribute 'app'"


def test_an_attribute_that_the_app_itself_lacks_is_not_guessed_at(write: Write) -> None:
    write("site_app.py", "import os\ndef app(e, s): ...\nos.getpit()\n")
    message, _ = failure("site_app:app")
    assert message == "site_app:app: AttributeError: module 'os' has no attribute 'getpit'"


def test_a_factory_that_fails(write: Write) -> None:
    write("site_app.py", "def create():\n    raise ValueError('no DATABASE_URL\\nset one')\n")
    message, cause = failure("site_app:create()")
    assert message == "site_app:create(): ValueError: no DATABASE_URL"
    assert "in create" in cause
    assert cause.endswith("ValueError: no DATABASE_URL\nset one")


def test_what_led_to_a_failure_is_told_too(write: Write) -> None:
    write(
        "site_app.py",
        "try:\n    {}['DATABASE_URL']\n"
        "except KeyError as error:\n    raise RuntimeError('not configured') from error\n",
    )
    _, cause = failure("site_app:app")
    assert "KeyError: 'DATABASE_URL'" in cause
    assert cause.endswith("RuntimeError: not configured")
    assert "importlib" not in cause
    assert "loader.py" not in cause


@pytest.mark.parametrize(
    ("value", "kind"), [("None", "NoneType"), ("'app'", "str"), ("{}", "dict"), ("5", "int")]
)
def test_what_is_not_callable(write: Write, value: str, kind: str) -> None:
    write("site_app.py", f"app = {value}\ndef create():\n    return app\n")
    told = f"it is not a WSGI callable ({kind})"
    hint = ': end the factory with "return app"' if value == "None" else ""
    assert failure("site_app:app")[0] == f"site_app:app: {told}"
    assert failure("site_app:create()")[0] == f"site_app:create(): {told}{hint}"


def test_a_syntax_error_shows_its_line(write: Write, tmp_path: Path) -> None:
    write("site_app.py", "x = 1\ndef app(:\n    pass\n")
    message, cause = failure("site_app:app")
    assert message == "site_app:app: SyntaxError: invalid syntax (site_app.py, line 2)"
    assert f'File "{tmp_path}/site_app.py", line 2\n    def app(:' in cause
    assert cause.endswith("SyntaxError: invalid syntax")


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("sys.exit(3)", "the app called sys.exit(3) while it was loaded"),
        ("sys.exit()", "the app called sys.exit(None) while it was loaded"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise Unprintable", "Unprintable: the exception has no message"),
        ("raise RecursionError('deep')", "RecursionError: deep"),
    ],
)
def test_whatever_a_module_raises_is_its_own_failure(
    write: Write, statement: str, told: str
) -> None:
    write(
        "site_app.py",
        "import sys\nclass Unprintable(Exception):\n"
        f"    def __str__(self):\n        raise ValueError\n{statement}\n",
    )
    message, cause = failure("site_app:app")
    assert message == f"site_app:app: {told}"
    assert statement in cause


# --- a table of mounts ------------------------------------------------------------------------


def mount(name: str, target: Any) -> Mount:
    return Mount(
        name=name,
        host=None,
        prefix=name.rstrip("/"),
        target=target,
        limits=MountLimits(),
        where=Where(line=1, column=1),
    )


def test_a_mount_that_fails_answers_503_and_the_others_serve(write: Write, tmp_path: Path) -> None:
    write("site_app.py", APP)
    write("site_broken.py", "raise ValueError('a secret of the app')")
    (tmp_path / "index.html").write_text("a page")
    loaded, errors = load_mounts(
        [
            mount("/broken", AppTarget(import_string="site_broken:app")),
            mount("/", AppTarget(import_string="site_app:app")),
            mount("/files", StaticTarget(directory=tmp_path)),
            mount("/old", RedirectTarget(location="/new")),
        ]
    )
    assert list(errors) == ["/broken"]
    assert [each.kind for each in loaded] == ["app", "app", "static", "redirect"]
    broken, app, static, redirect = (
        ask(each.app, "/", environ={"gateway.request_id": "id-1"}) for each in loaded
    )
    assert broken.status == 503
    assert "Retry-After" in broken.headers
    assert b"id-1" in broken.content
    assert b"secret" not in broken.content
    assert app.content == b"served"
    assert static.content == b"a page"
    assert redirect.status == 308
