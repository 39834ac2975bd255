"""Dev mode: a save of code is served, a broken one is told, and pages show tracebacks; without it
no page ever does."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from running import ENVIRON, Running, wait_until

from gateway.commands.development import for_development
from gateway.commands.main import main
from gateway.config.model import Config, Mount, ServerSettings, StaticTarget, Where
from gateway.limits import MountLimits
from gateway.supervisor.watching.code import forget_bytecode, is_code

Start = Callable[..., Running]

MOMENT = int(time.time())
MOUNTS = "  /app: shop.wsgi:app\n  /fails: fails:app\n"
SAYS = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"NUMBER"]
"""
FAILS = """
def app(environ, start_response):
    raise LookupError("<no> answer")
"""


FLASKY = """
from flask import Flask
app = Flask(__name__)
@app.get("/")
def show():
    return {}["b"]
"""


@pytest.fixture
def start(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Start]:
    monkeypatch.delitem(ENVIRON, "PYTHONDONTWRITEBYTECODE", raising=False)
    started: list[Running] = []
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "wsgi.py").write_text(SAYS.replace("NUMBER", "1"))
    os.utime(tmp_path / "shop" / "wsgi.py", (MOMENT, MOMENT))

    def start(**options: Any) -> Running:
        started.append(Running(tmp_path, MOUNTS, fails=FAILS, **options))
        request.addfinalizer(started[-1].end)
        return started[-1]

    yield start
    for running in started:
        assert running.end() == 0


def save(gateway: Running, text: str) -> None:
    """As editors do, a new file takes the old one's place; all within one second."""
    path = gateway.folder / "shop" / "wsgi.py"
    new = path.with_suffix(".new")
    new.write_text(text)
    os.utime(new, (MOMENT, MOMENT))
    new.replace(path)


def says(gateway: Running, number: str) -> bool:
    return gateway.ask("/app").endswith(f"\r\n\r\n{number}".encode())


# --- saves ------------------------------------------------------------------------------------


def test_a_save_of_code_is_served(start: Start) -> None:
    gateway = start(option="--dev")
    assert len(gateway.children()) == 1
    # of one size and second: no bytecode of the one before may be taken for it
    for number in "2345":
        save(gateway, SAYS.replace("NUMBER", number))
        wait_until(lambda number=number: says(gateway, number), f"{number} is served")
    told = "INFO    reload (edit of shop/wsgi.py): generation g5 serves"
    wait_until(lambda: told in gateway.log_text, "the outcome is told")
    assert gateway.control("status")["last_reload"]["trigger"] == "edit of shop/wsgi.py"


def test_code_that_does_not_load_leaves_the_old_one_serving_and_the_terminal_tells(
    start: Start,
) -> None:
    gateway = start(option="--dev")
    for broken, told in [
        ("app = (\n", "SyntaxError: '(' was never closed"),
        ("import nowhere\n", "No module named 'nowhere'"),
        ("raise RuntimeError('no database')\n", "RuntimeError: no database"),
        ("import os; os._exit(3)\n", "exited with 3 while it was loading"),
    ]:
        save(gateway, broken)
        wait_until(lambda told=told: told in gateway.log_text, f"the terminal tells {told}")
        assert says(gateway, "1")
    assert "reload (edit of shop/wsgi.py) failed" in gateway.log_text
    save(gateway, SAYS.replace("NUMBER", "2"))
    wait_until(lambda: says(gateway, "2"), "the mended code is served")


def test_a_save_of_the_table_is_served(start: Start) -> None:
    gateway = start(option="--dev", server="  reload_on_edit: false\n")
    gateway.write_table(MOUNTS + "  /more: shop.wsgi:app\n")
    wait_until(lambda: b" 200 " in gateway.ask("/more"), "the new mount is served")


def test_without_dev_mode_a_save_of_code_waits_for_a_reload(start: Start) -> None:
    gateway = start()
    save(gateway, SAYS.replace("NUMBER", "2 "))
    gateway.write_table(MOUNTS + "  /more: shop.wsgi:app\n")
    last = wait_until(lambda: gateway.control("status")["last_reload"], "the table is reloaded")
    assert (last["trigger"], last["generation"]) == ("edit", "g1")
    assert says(gateway, "1")
    assert gateway.control("reload")["exit_code"] == 0
    assert says(gateway, "2 ")
    assert "dev mode" not in gateway.log_text


# --- pages ------------------------------------------------------------------------------------


def test_the_page_of_a_failing_app_shows_its_traceback(start: Start) -> None:
    gateway = start(option="--dev")
    head, _, page = gateway.ask("/fails").decode().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 500 ")
    assert "Traceback (most recent call last):" in page
    assert "fails.py&quot;, line 3, in app" in page
    assert "LookupError: &lt;no&gt; answer" in page
    assert "gateway/http" not in page
    [request_id] = [line[14:] for line in head.split("\r\n") if line.startswith("X-Request-ID: ")]
    assert f"Request {request_id}" in page
    assert request_id in gateway.log_text


@pytest.mark.parametrize("place", ["environment", "table", "env_file"])
@pytest.mark.parametrize("variable", [None, "0"])
def test_the_page_of_a_failing_flask_view_shows_its_traceback_unless_debug_is_off(
    start: Start, monkeypatch: pytest.MonkeyPatch, variable: "str | None", place: str
) -> None:
    monkeypatch.delitem(ENVIRON, "FLASK_DEBUG", raising=False)
    gateway = start(option="--dev", flasky=FLASKY)
    line, pool = "" if variable is None else f"FLASK_DEBUG={variable}", "{}"
    if place == "environment" and line:
        gateway.end()
        monkeypatch.setitem(ENVIRON, "FLASK_DEBUG", variable)
        gateway = start(option="--dev", flasky=FLASKY)
    elif place == "table" and line:
        pool = f'{{env: {{FLASK_DEBUG: "{variable}"}}}}'
    elif place == "env_file":
        (gateway.folder / "more.env").write_text(f"MORE=1\n{line}\n")
        pool = "{env_file: more.env}"
    mounts = f"{MOUNTS}  /flask: {{app: flasky:app, pool: other}}\n"
    gateway.write_table(f"{mounts}pools:\n  other: {pool}\n")
    wait_until(lambda: b"404" not in gateway.ask("/flask/")[:20], "the table is served")
    page = gateway.ask("/flask/").decode()
    assert page.startswith("HTTP/1.1 500 ")
    assert ("KeyError: &#x27;b&#x27;" in page) is (variable is None)


def test_the_page_of_an_app_that_did_not_load_shows_why_until_it_is_mended(start: Start) -> None:
    gateway = start(option="--dev")
    gateway.end()
    (gateway.folder / "shop" / "wsgi.py").write_text("raise RuntimeError('<no> database')\n")
    gateway = start(option="--dev")
    page = gateway.ask("/app").decode()
    assert page.startswith("HTTP/1.1 503 ")
    assert "shop.wsgi:app: RuntimeError: &lt;no&gt; database" in page
    assert "shop/wsgi.py&quot;, line 1" in page
    save(gateway, "import nowhere\n")
    wait_until(lambda: b"nowhere" in gateway.ask("/app"), "the page tells the new cause")
    save(gateway, SAYS.replace("NUMBER", "2"))
    wait_until(lambda: says(gateway, "2"), "the mended code is served")


def test_without_dev_mode_no_page_tells_a_cause(start: Start, tmp_path: Path) -> None:
    (tmp_path / "shop" / "wsgi.py").write_text("raise RuntimeError('no database')\n")
    gateway = start()
    for target, status, cause in [("/fails", b" 500 ", b"answer"), ("/app", b" 503 ", b"database")]:
        page = gateway.ask(target)
        assert status in page
        for word in (b"Traceback", b"Error:", b".py", b"<pre", cause):
            assert word not in page


def test_each_request_has_a_connection_of_its_own(start: Start) -> None:
    gateway = start(option="--dev")
    with gateway.connect() as connection:
        connection.sendall(b"GET /app HTTP/1.1\r\nHost: a\r\n\r\n")
        with connection.makefile("rb") as answer:
            assert b"\r\nConnection: close\r\n" in answer.read()


# --- what is code -----------------------------------------------------------------------------

HERE = Path("/site")
CONFIG = Config(
    source="/site/mounts.yaml",
    directory=HERE,
    server=ServerSettings(),
    mounts=(
        Mount(
            name="/files",
            host=None,
            prefix="/files",
            target=StaticTarget(directory=HERE / "public"),
            limits=MountLimits(),
            where=Where(line=1, column=1),
        ),
    ),
)


@pytest.mark.parametrize(
    ("path", "is_edit"),
    [
        ("app.py", True),
        ("shop/views.py", True),
        ("shop/templates/cart.html", True),
        ("publications/app.py", True),
        ("public/page.html", False),
        ("public/deep/page.html", False),
        ("shop.sqlite3", False),
        ("mounts.yaml", False),
        ("shop/__pycache__/views.cpython-313.pyc", False),
        ("shop/__pycache__/views.py", False),
        (".git/hooks/update.py", False),
        (".venv/lib/site.py", False),
        ("venv/lib/python3.13/site-packages/flask/app.py", False),
        ("node_modules/tool/gyp.py", False),
        ("shop/.#views.py", False),
    ],
)
def test_what_is_code(path: str, is_edit: bool) -> None:
    assert is_code(HERE / path, CONFIG) is is_edit


def test_forgotten_bytecode_is_that_of_the_edited_file_alone(tmp_path: Path) -> None:
    cache = tmp_path / "__pycache__"
    cache.mkdir()
    tag = sys.implementation.cache_tag
    for name in ("one", "two"):
        (cache / f"{name}.{tag}.pyc").touch()
    forget_bytecode([tmp_path / "one.py", tmp_path / "gone.html"])
    assert [path.name for path in cache.iterdir()] == [f"two.{tag}.pyc"]


# --- the command ------------------------------------------------------------------------------


def test_dev_mode_is_one_worker_and_keeps_the_rest() -> None:
    dev = for_development(CONFIG)
    assert (dev.is_dev, dev.server.workers, dev.server.access_log) == (True, 1, "text")
    assert [m.name for m in dev.mounts] == [m.name for m in CONFIG.mounts]
    assert dev.server.listen == CONFIG.server.listen
    assert not CONFIG.is_dev


def test_a_missing_package_is_told_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    assert main(["serve", "--dev"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("gateway: --dev needs the package watchfiles, which is not installed: ")
    assert line.endswith(" -m pip install watchfiles")


def test_dev_mode_takes_no_number_of_workers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["serve", "--dev", "--workers", "2"])
    assert "--workers: not allowed with argument --dev" in capsys.readouterr().err
