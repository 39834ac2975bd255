"""Which of the gateway's own variables a process of an app gets, and what an app that lacks one is
told."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import running
from running import Running, wait_until

from gateway.config.model import PoolSettings
from gateway.errors import AppLoadError
from gateway.mounts.loader import load_app
from gateway.supervisor.processes.launch import build_environment

Start = Callable[..., Running]
TELLING = """
import json, os
def app(environ, start_response):
    start_response("200 OK", [])
    began = open("/proc/self/environ").read().split("\\0")
    return [json.dumps([dict(os.environ), began]).encode()]
"""
SERVER = """
import http.server, json, os, socketserver, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        began = open("/proc/self/environ").read().split("\\0")
        content = json.dumps([dict(os.environ), began]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    def address_string(self):
        return "unix"
socketserver.ThreadingUnixStreamServer(sys.argv[1], Handler).serve_forever()
"""
POOLS = f"""\
pools:
  greenlets: {{pass_env: [ONE]}}
  threads: {{concurrency: threads}}
  another: {{python: {sys.executable}}}
  served: {{command: "python server.py {{socket}}", directory: ., env: {{GIVEN: "1"}}}}
"""
MOUNTS = """\
  /: {app: "telling:app", env: {GIVEN: "1"}}
  /own: {app: "telling:app", pool: own, env: {GIVEN: "1"}}
  /greenlets: {app: "telling:app", pool: greenlets, env: {GIVEN: "1"}}
  /threads: {app: "telling:app", pool: threads, env: {GIVEN: "1"}}
  /another: {app: "telling:app", pool: another, env: {GIVEN: "1"}}
  /served: {upstream: "pool:served"}
"""
PATHS = ("/", "/own", "/greenlets", "/threads", "/another", "/served")
SECRETS = {"OTHERS_SECRET": "wombat", "ONE": "1", "PGHOST": "db", "PGPORT": "5432"}
COMMON = {"LANG": "C.UTF-8", "LC_TIME": "C", "TZ": "Europe/Oslo", "HOME": "/nowhere"}


@pytest.fixture
def outer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway's own variables have secrets."""
    for name, value in {**SECRETS, **COMMON}.items():
        monkeypatch.setitem(running.ENVIRON, name, value)


def save(gateway: Running, mounts: str, server: str) -> None:
    gateway.server = running.SERVER.format(gateway.folder) + server
    gateway.write_table(mounts)


def ask(gateway: Running, path: str) -> tuple[dict[str, str], list[str]]:
    """The variables of who answers, and those that its process began with."""
    answer = wait_until(lambda: _read(gateway, path), f"{path} answers")
    return answer[0], answer[1]


def _read(gateway: Running, path: str) -> Any:
    try:
        head, _, content = gateway.ask(path).partition(b"\r\n\r\n")
    except TimeoutError:
        return None  # its Python is still being asked
    return json.loads(content) if b" 200 " in head.partition(b"\r\n")[0] else None


@pytest.mark.usefixtures("outer")
def test_no_process_sees_the_gateways_whole_environment(start: Start, tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(SERVER)
    gateway = start(MOUNTS, POOLS, telling=TELLING)
    for path in PATHS:
        seen, began = ask(gateway, path)
        assert seen.items() >= {**COMMON, "GIVEN": "1"}.items()
        assert "PATH" in seen
        others = {"ONE": "1"} if path == "/greenlets" else {}
        assert {name: seen[name] for name in SECRETS if name in seen} == others
        assert "wombat" not in "".join(began)


@pytest.mark.usefixtures("outer")
def test_what_is_named_is_passed_to_those_that_name_it(start: Start) -> None:
    pools = '  a: {pass_env: [OTHERS_SECRET, "PG*", ABSENT]}\n'
    mounts = '  /: "telling:app"\n  /a: {app: "telling:app", pool: a}\n'
    gateway = start(mounts, f"  pass_env: [ONE]\npools:\n{pools}", telling=TELLING)

    def passed(path: str) -> set[str]:
        return ask(gateway, path)[0].keys() & {*SECRETS, "ABSENT"}

    assert passed("/") == {"ONE"}
    assert passed("/a") == {"OTHERS_SECRET", "PGHOST", "PGPORT"}
    save(gateway, mounts, f"  pass_env: [PGHOST]\npools:\n{pools}")
    wait_until(lambda: passed("/") == {"PGHOST"}, "the save is served")


@pytest.mark.usefixtures("outer")
def test_an_edit_of_what_is_passed_is_a_change_that_needs_new_workers(start: Start) -> None:
    mounts = '  /: "telling:app"\n  /a: {app: "telling:app", pool: a}\n'
    table = "  reload_on_edit: false\n  pass_env: [%s]\npools:\n  a: {pass_env: [%s]}\n"
    gateway = start(mounts, table % ("ONE", "ONE"), telling=TELLING)
    ask(gateway, "/a")
    assert gateway.control("plan")["messages"] == []
    save(gateway, mounts, table % ("ONE", "PGHOST"))
    assert gateway.control("plan")["messages"] == [
        "~ pools.a: pass_env [ONE] -> [PGHOST]",
        "! new workers of a: pools.a.pass_env changes",
    ]
    save(gateway, mounts, table % ("PGHOST", "ONE"))
    assert gateway.control("plan")["messages"] == [
        "~ server: pass_env [ONE] -> [PGHOST]",
        "! new workers: server.pass_env changes",
    ]


def test_the_table_wins_over_what_is_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("A", "B", "C"):
        monkeypatch.setenv(name, "gateway's")
    of_file = (("B", "file's"), ("C", "file's"))
    pass_env = ("A", "B", "C")
    pool = PoolSettings(
        name="a", pass_env=pass_env, env_file_variables=of_file, env={"C": "table's"}
    )
    given = build_environment(pool, None)
    assert [given[name] for name in ("A", "B", "C")] == ["gateway's", "file's", "table's"]


# --- apps that lack one ---------------------------------------------------------------------------

LACKING = {
    "directly": "import os\nos.environ['DATABASE_URL']\n",
    "wrapped": (
        "import os\ntry:\n    os.environ['DATABASE_URL']\nexcept KeyError as error:\n"
        "    raise RuntimeError('Set the DATABASE_URL environment variable') from error\n"
    ),
    "beside": "import os\ntry:\n    os.environ['DATABASE_URL']\nexcept KeyError:\n    1 / 0\n",
}
WHY = "(apps get few of the gateway's own variables: "


def refusal(tmp_path: Path, text: str, pool: PoolSettings) -> str:
    (tmp_path / "lacking.py").write_text(text)
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.raises(AppLoadError) as refused:
            load_app("lacking:app", pool)
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("lacking", None)
    return str(refused.value)


@pytest.mark.parametrize("how", LACKING)
def test_an_app_that_lacks_a_variable_is_told_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    advice = {
        "main": 'name it in server.pass_env, or set it in "env")',
        "shop": 'name it in pools.shop.pass_env, or set it in "env")',
        "/shop": 'set it in the mount, as with env: {DATABASE_URL: "${DATABASE_URL}"})',
    }
    for name, said in advice.items():
        assert refusal(tmp_path, LACKING[how], PoolSettings(name=name)).endswith(WHY + said)


@pytest.mark.parametrize("text", ["{}['DATABASE_URL']", "import os\nos.environ[7]"])
def test_an_app_that_lacks_something_else_is_not(tmp_path: Path, text: str) -> None:
    assert WHY not in refusal(tmp_path, text, PoolSettings(name="main"))


def test_a_variable_that_was_passed_is_there(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("DATABASE_URL", "x")
    assert os.environ["DATABASE_URL"] == "x"
    assert WHY not in refusal(tmp_path, LACKING["directly"], PoolSettings(name="main"))
