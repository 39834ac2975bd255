"""The commands: what a person reads, on which stream, and the exit code."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway import __version__
from gateway.commands.main import main
from gateway.config.model import PoolSettings
from gateway.mounts.packages import advise_package

TABLE = """\
server: {admin: "127.0.0.1:0"}
defaults: {timeout: 20s}
mounts:
  /: welcome:app
  /notes: {app: "notes.wsgi:create()", max_body: 1MiB}
  /files: {static: public}
  /old: {redirect: /notes, status: 301}
  shop.example.com/: welcome:app
  /api: {upstream: ["http://127.0.0.1:3000", "unix:/run/api.sock"]}
"""
APP = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"served"]

def create():
    return app
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a table and all that it names; the current one."""
    (tmp_path / "mounts.yaml").write_text(TABLE)
    (tmp_path / "public").mkdir()
    (tmp_path / "notes").mkdir()
    for module in ("welcome.py", "notes/wsgi.py"):
        (tmp_path / module).write_text(APP)
    monkeypatch.chdir(tmp_path)
    # the commands that start a process find the package whatever the folder
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return tmp_path


@pytest.fixture
def run(site: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command on the table; exit code, stdout and stderr."""

    def run(command: str, *arguments: str, table: str = "mounts.yaml") -> tuple[int, str, str]:
        try:
            code = main([command, "-c", table, *arguments])
        except SystemExit as ended:  # argparse
            code = int(ended.code or 0)
        output = capfd.readouterr()
        return code, output.out, output.err

    return run


# --- routes and match -------------------------------------------------------------------------


def test_routes_lists_what_is_mounted(run: Run, site: Path) -> None:
    assert run("routes") == (
        0,
        "/                  app       welcome:app\n"
        "/api               upstream  http://127.0.0.1:3000, unix:/run/api.sock\n"
        f"/files             static    {site}/public\n"
        "/notes             app       notes.wsgi:create()\n"
        "/old               redirect  /notes (301)\n"
        "shop.example.com/  app       welcome:app\n",
        "",
    )


def test_routes_for_machines(run: Run) -> None:
    code, out, err = run("routes", "--json")
    routes = {route["mount"]: route for route in json.loads(out)}
    assert (code, err) == (0, "")
    assert routes["/notes"] == {
        "mount": "/notes",
        "host": None,
        "prefix": "/notes",
        "kind": "app",
        "target": "notes.wsgi:create()",
        "line": 5,
        "max_concurrency": 0,
        "queue": 100,
        "queue_timeout_seconds": 5.0,
        "timeout_seconds": 20.0,
        "max_body_bytes": 1024 * 1024,
        "request_buffering": "on",
        "tunnel_timeout_seconds": 300.0,
    }
    assert routes["shop.example.com/"]["host"] == "shop.example.com"


def test_match_tells_which_mount_answers_and_why(run: Run) -> None:
    assert run("match", "/notes/a%20b?c=d") == (
        0,
        "mount        /notes  (mounts.yaml:5)\n"
        "app          notes.wsgi:create()\n"
        "SCRIPT_NAME  '/notes'\n"
        "PATH_INFO    '/a b'\n"
        "timeout      20 s\n"
        "max_body     1048576 bytes\n"
        "because      /notes is the longest prefix, ending at a slash or the end, "
        "of the mounts of any host\n",
        "",
    )


@pytest.mark.parametrize(
    ("url", "mount", "path_info"),
    [
        ("/", "/", "/"),
        ("/notes", "/notes", ""),
        ("/notes/", "/notes", "/"),
        ("/notesbook", "/", "/notesbook"),
        ("/notes/../files/x", "/files", "/x"),
        ("/notes%2Fa", "/", "/notes/a"),
        ("/caf\xe9", "/", "/caf\xc3\xa9"),
        ("http://other.example.com/notes/1", "/notes", "/1"),
        ("http://shop.example.com/notes/1", "shop.example.com/", "/notes/1"),
        ("http://SHOP.example.com.:8080", "shop.example.com/", "/"),
        ("https://shop.example.com?q=1", "shop.example.com/", "/"),
    ],
)
def test_match_follows_the_table(run: Run, url: str, mount: str, path_info: str) -> None:
    code, out, _ = run("match", "--json", url)
    answer = json.loads(out)
    assert (code, answer["mount"], answer["PATH_INFO"]) == (0, mount, path_info)


def test_match_takes_an_international_host_as_the_table_does(run: Run, site: Path) -> None:
    table = (site / "mounts.yaml").read_text()
    (site / "mounts.yaml").write_text(table + "  bücher.example/: welcome:app\n")
    for url in (
        "http://bücher.example/a",
        "http://BÜCHER.example/",
        "http://xn--bcher-kva.example",
    ):
        code, out, _ = run("match", url)
        assert code == 0
        assert out.split()[1] == "xn--bcher-kva.example/"


def test_match_of_nothing_is_1(run: Run, site: Path) -> None:
    (site / "mounts.yaml").write_text("mounts: {/notes: welcome:app}\n")
    assert run("match", "/shop") == (1, "", "nothing is mounted at /shop: 404\n")


@pytest.mark.parametrize("url", ["notes", "", "http://[::1", "mailto:x"])
def test_match_of_what_is_no_url_is_2(run: Run, url: str) -> None:
    code, out, err = run("match", "--", url)
    assert (code, out) == (2, "")
    assert err.startswith(f"{url}: ")
    assert err.count("\n") == 1


# --- check ------------------------------------------------------------------------------------


def test_check_of_a_good_table(run: Run) -> None:
    assert run("check") == (0, "mounts.yaml: 6 mounts, no problems\n", "")


@pytest.mark.parametrize("command", ["check", "routes", "serve"])
def test_a_bad_table_is_2_with_every_problem(run: Run, site: Path, command: str) -> None:
    (site / "mounts.yaml").write_text("mounts:\n  /a: {ap: x}\n  /b: 5\n")
    code, out, err = run(command)
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert len(lines) >= 2
    assert all(line.startswith("mounts.yaml:") for line in lines)


@pytest.mark.parametrize("command", ["check", "routes", "serve"])
def test_a_missing_table_is_2_in_one_line(run: Run, command: str) -> None:
    code, out, err = run(command, table="elsewhere.yaml")
    assert (code, out) == (2, "")
    assert err.startswith("elsewhere.yaml: ")
    assert err.count("\n") == 1


def test_an_app_that_does_not_load_is_3_with_its_traceback(run: Run, site: Path) -> None:
    (site / "welcome.py").write_text("import flusk\n")
    (site / "notes/wsgi.py").write_text(APP.replace("create", "make"))
    code, out, err = run("check")
    assert (code, out) == (3, "")
    advice = advise_package("flusk", PoolSettings(name="main"))
    assert err == (
        "mounts.yaml:4:3: mounts./: welcome:app: ModuleNotFoundError: "
        f"No module named 'flusk' ({advice})\n"
        "Traceback (most recent call last):\n"
        f'  File "{site}/welcome.py", line 1, in <module>\n'
        "    import flusk\n"
        "ModuleNotFoundError: No module named 'flusk'\n"
        "mounts.yaml:5:3: mounts./notes: notes.wsgi:create(): AttributeError: "
        "module 'notes.wsgi' has no attribute 'create' (did you mean \"app\"?)\n"
        "mounts.yaml:8:3: mounts.shop.example.com/: welcome:app: ModuleNotFoundError: "
        f"No module named 'flusk' ({advice})\n"
        "Traceback (most recent call last):\n"
        f'  File "{site}/welcome.py", line 1, in <module>\n'
        "    import flusk\n"
        "ModuleNotFoundError: No module named 'flusk'\n"
    )


def test_check_tells_what_only_a_running_gateway_tries(run: Run, site: Path) -> None:
    table = (site / "mounts.yaml").read_text()
    more = """
  /asked: {app: "welcome:app", probe: /healthz}
  /own: {app: "welcome:app", pool: packed}
  /served: {upstream: "pool:served", health: /}
  /checked: {upstream: "http://127.0.0.1:9", health: /}
pools:
  packed: {requirements: packed.txt}
  served: {command: "sh {socket}"}
"""
    (site / "packed.txt").write_text("")
    (site / "mounts.yaml").write_text(table + more)
    # what a build reports goes to stderr
    assert run("check")[:2] == (
        0,
        "mounts.yaml: 10 mounts, no problems\n"
        "commands not started (use --start): /served\n"
        "health of servers not checked: /checked\n",
    )


STRICT = """
def app(environ, start_response):
    if environ["PATH_INFO"] == "/raises":
        raise OSError("no database")
    known = environ["HTTP_HOST"] == "shop.example.com"
    start_response("200 OK" if known else "400 Bad Request", [("X", environ["wsgi.url_scheme"])])
    print("served", flush=True)
    return [b"well"]
"""


@pytest.mark.parametrize("concurrency", ["greenlets", "threads"])
@pytest.mark.parametrize(
    ("probe", "told"),
    [
        ("{path: /, host: shop.example.com, status: 200, contains: well}", ""),
        (
            "/",
            "was answered 400 Bad Request (asked with Host: localhost; for another one: "
            "probe: {path: /, host: ...})",
        ),
        ("{path: /, host: shop.example.com, contains: ok}", 'was answered without "ok"'),
        ("/raises", "was answered 500 Internal Server Error"),
    ],
)
def test_check_asks_the_probes_of_the_apps_that_it_loads(
    run: Run, site: Path, concurrency: str, probe: str, told: str
) -> None:
    (site / "strict.py").write_text(STRICT)
    table = (site / "mounts.yaml").read_text()
    more = f"""
  /strict: {{app: "strict:app", probe: {probe}, pool: apart}}
pools:
  apart: {{concurrency: {concurrency}}}
"""
    (site / "mounts.yaml").write_text(table + more)
    code, out, err = run("check")
    path = "/raises" if "/raises" in probe else "/"
    line = f"mounts.yaml:11:3: mounts./strict: its probe /strict{path} {told}\n"
    if told:
        assert (code, out, err.endswith(line)) == (3, "", True), err
    else:
        assert (code, out) == (0, "mounts.yaml: 7 mounts, no problems\n")
    assert ("OSError: no database" in err) is (path == "/raises")
    assert run("check", "--table-only") == (0, "mounts.yaml: 7 mounts, no problems\n", "")


def test_the_probe_of_an_app_that_does_not_load_is_not_asked(run: Run, site: Path) -> None:
    (site / "broken.py").write_text("1 / 0")
    table = (site / "mounts.yaml").read_text()
    (site / "mounts.yaml").write_text(table + "  /b: {app: 'broken:app', probe: /}\n")
    code, out, err = run("check")
    assert (code, out) == (3, "")
    assert err.count("mounts./b: ") == 1
    assert "its probe" not in err


def test_a_check_ends_where_an_app_does_not(run: Run, site: Path) -> None:
    (site / "welcome.py").write_text(f"import time; time.sleep(3600){APP}")
    table = (site / "mounts.yaml").read_text()
    (site / "mounts.yaml").write_text(table.replace("server: {", "server: {start_timeout: 5s, "))
    code, out, err = run("check")
    assert (code, out) == (3, "")
    what = r"worker \d+ did not load within 5 s \(server.start_timeout\)"
    assert re.fullmatch(rf"mounts.yaml:4:3: mounts./: {what}\n", err)


def test_check_loads_the_apps_of_a_pool_as_its_workers_do(run: Run, site: Path) -> None:
    (site / "inner").mkdir()
    (site / "inner/nested.py").write_text(
        f"import os, socket\n{APP}assert os.environ['SIZE'] == 'big'\n"
        "assert 'gevent' not in socket.socket.__module__\n"
    )
    (site / "welcome.py").write_text(
        f"import os, sys\n{APP}assert 'SIZE' not in os.environ\n"
        "assert 'nested' not in sys.modules\n"
    )
    table = (site / "mounts.yaml").read_text()
    more = """
  /nested: {app: "nested:app", pool: apart}
pools:
  apart: {directory: inner, env: {SIZE: big}, concurrency: threads}
"""
    (site / "mounts.yaml").write_text(table + more)
    assert run("check") == (0, "mounts.yaml: 7 mounts, no problems\n", "")

    (site / "inner/nested.py").write_text("1 / 0")
    (site / "welcome.py").write_text("1 / 0")
    code, _, err = run("check")
    lines = [int(line.split(":")[1]) for line in err.splitlines() if ": mounts." in line]
    assert (code, lines) == (3, sorted(lines))
    assert "mounts./nested: nested:app: ZeroDivisionError" in err


def test_check_can_leave_the_apps_alone(run: Run, site: Path) -> None:
    (site / "welcome.py").write_text("import flusk\n")
    assert run("check", "--table-only")[0] == 0


NOISY = """
import atexit, subprocess, sys, threading, time
print("printed", end="")
sys.stdout.write('[{"mount": "/"}]')
subprocess.run(["echo", "from a child"], check=True)
atexit.register(print, "at the end")
threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
"""


def test_what_apps_print_and_leave_running_does_not_confuse_a_check(run: Run, site: Path) -> None:
    (site / "welcome.py").write_text(NOISY + APP)
    code, out, err = run("check")
    assert (code, out) == (0, "mounts.yaml: 6 mounts, no problems\n")
    assert "printed" in err
    assert "from a child" in err


@pytest.mark.parametrize(
    ("statement", "told"),
    [("os._exit(0)", "exited with 0"), ("os.kill(os.getpid(), 9)", "was killed by SIGKILL")],
)
def test_an_app_that_ends_the_process_is_3(run: Run, site: Path, statement: str, told: str) -> None:
    (site / "welcome.py").write_text(f"import os\n{statement}\n")
    code, out, err = run("check")
    assert (code, out) == (3, "")
    said = rf"mounts.yaml:4:3: mounts./: worker \d+ \(loading\) {told} while it was loading\n"
    assert re.fullmatch(said, err)


# --- serve, where it cannot -------------------------------------------------------------------


def test_a_port_that_is_taken_is_2_in_one_line(run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        finished = serve("--listen", address)
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr == f"server.listen: cannot listen on {address}: Address already in use\n"


def serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", "serve", "-c", "mounts.yaml", *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


@pytest.mark.parametrize(
    "address", ["", "8000", "nonsense", "127.0.0.1:99999", "a..b:80", "unix:", "http://a:80"]
)
def test_an_address_that_is_none_is_2_in_one_line(run: Run, address: str) -> None:
    code, out, err = run("serve", "--listen", address)
    assert (code, out) == (2, "")
    assert err.startswith("--listen: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("number", ["0", "-1", "two", "1_0", "\u0662", "1.5", ""])
def test_a_number_of_workers_that_is_none_is_2(run: Run, number: str) -> None:
    code, out, err = run("serve", f"--workers={number}")
    assert (code, out) == (2, "")
    assert f"expected a whole number from 1, got {number!r}" in err


# --- the command itself -----------------------------------------------------------------------


def test_schema_is_a_json_schema(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert "mounts" in json.loads(capfd.readouterr().out)["properties"]


@pytest.mark.parametrize("arguments", [[], ["sreve"], ["match"], ["routes", "--yaml"]])
def test_wrong_usage_is_2(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capfd.readouterr().err.startswith("usage: gateway")


def test_the_version_is_told_in_a_process_of_its_own() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "gateway", "--version"], capture_output=True, text=True, check=False
    )
    assert (finished.returncode, finished.stdout) == (0, f"gateway {__version__}\n")


def test_a_reader_that_leaves_is_no_error(site: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as closed:
        finished = subprocess.run(
            [sys.executable, "-m", "gateway", "routes", "-c", "mounts.yaml"],
            stdout=closed,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (finished.returncode, finished.stderr) == (0, b"")


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("gateway.commands.main.read_table", interrupted)
    assert run("routes") == (130, "", "")
