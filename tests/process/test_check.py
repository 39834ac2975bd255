"""``gateway check`` as a deploy script sees it: what it loads, what it starts, and how it ends
whatever the apps do meanwhile."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import APP, ENVIRON, WAIT_SECONDS, Running, wait_until

Start = Callable[..., Running]

TABLE = """\
server: {admin: "127.0.0.1:0"}
mounts:
  /: good:app
  /odd: {app: "odd:app", probe: /}
  /nested: {app: "nested:app", pool: apart}
pools:
  apart: {directory: inner}
"""
WEB = """
import socketserver, sys
from http.server import BaseHTTPRequestHandler
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/well" else 500)
        self.end_headers()
    def log_message(self, *_): pass
    def address_string(self): return ""
print("it has begun", flush=True)
socketserver.UnixStreamServer(sys.argv[1], Handler).serve_forever()
"""


class Site:
    """A folder with a table and its apps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "inner").mkdir()
        for name in ("good", "odd", "inner/nested"):
            self.write(f"{name}.py", APP)
        self.write("mounts.yaml", TABLE)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def begin(self, *options: str, **more: Any) -> "subprocess.Popen[str]":
        """In a process group of its own."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "check", "-c", "mounts.yaml", *options],
            cwd=self.folder,
            env=ENVIRON,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            process_group=0,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more},
        )
        return self.process

    def check(self, *options: str) -> tuple[int, str, str]:
        """The exit code, and what it printed."""
        with self.begin(*options) as process:
            out, err = process.communicate(timeout=WAIT_SECONDS)
        return process.returncode, out, err

    def find_left(self) -> list[str]:
        """What still runs of what the last check has started, and what it has left in files."""
        place = os.path.realpath(self.folder)
        left = list(map(str, Path("/tmp").glob(f"gateway-check-{self.process.pid}-*")))
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if str((process / "cwd").readlink()).startswith(place):
                    left.append(process.name)
            except OSError:
                continue
        return left


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


# --- what is loaded -----------------------------------------------------------------------------


def test_a_pools_venv_and_env_file_are_its_own(site: Site) -> None:
    venv = site.folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    [packages] = venv.glob("lib/python*/site-packages")
    (packages / "onlythere.py").touch()
    site.write("settings", "NAME=value\n")
    needs = "import os, onlythere\nassert os.environ['NAME'] == 'value'\n"
    site.write("inner/nested.py", needs + APP)
    site.write("mounts.yaml", TABLE.replace("inner}", "inner, venv: venv, env_file: settings}"))
    assert site.check() == (0, "mounts.yaml: 3 mounts, no problems\n", "")

    site.write("mounts.yaml", TABLE)
    code, _, err = site.check()
    assert code == 3
    assert "mounts.yaml:5:3: mounts./nested: nested:app: ModuleNotFoundError: " in err


def test_an_environment_is_built_as_a_start_builds_it(site: Site) -> None:
    site.write("inner/needed.txt", "")
    site.write("mounts.yaml", TABLE.replace("inner}", "inner, requirements: inner/needed.txt}"))
    assert site.check() == (0, "mounts.yaml: 3 mounts, no problems\n", "")
    assert list(site.folder.glob(".gateway/environments/env-*/complete"))

    site.write("inner/needed.txt", "no-such-package @ file:///nowhere/at-all.whl\n")
    code, _, err = site.check()
    assert code == 3
    assert err.startswith("mounts.yaml:7:3: pools.apart: ")
    assert "at-all.whl" in err


def test_what_fails_in_all_pools_is_shown_at_once(site: Site) -> None:
    site.write("odd.py", "1 / 0")
    site.write("inner/nested.py", "import os\nos._exit(7)")
    code, out, err = site.check()
    assert (code, out) == (3, "")
    failed = [line for line in err.splitlines() if line.startswith("mounts.yaml:")]
    assert failed[0] == "mounts.yaml:4:3: mounts./odd: odd:app: ZeroDivisionError: division by zero"
    ended = r"mounts.yaml:5:3: mounts./nested: worker \d+ \(loading\) exited with 7 while it was .*"
    assert re.fullmatch(ended, failed[1])
    assert len(failed) == 2


# --- commands -----------------------------------------------------------------------------------


def test_start_runs_commands_beside_the_running_gateway(start: Start) -> None:
    pool = f"pools:\n  web: {{command: '{sys.executable} -S web.py {{socket}}'}}\n"
    mounts = "  /: good:app\n  /web: {upstream: 'pool:web', health: /well}\n"
    gateway = start(mounts, pool, web=WEB)
    wait_until(lambda: gateway.log_text.count("ready after") == 2, "both pools are ready")

    def look() -> Any:
        status = gateway.control("status")
        return [[w["pid"] for w in g["workers"]] for g in status["generations"]]

    before = look()
    command = [sys.executable, "-m", "gateway", "check", "-c", str(gateway.folder / "mounts.yaml")]
    for options, said, more in (
        ([], "", "commands not started (use --start): /web\n"),
        (["--start"], "it has begun\n", ""),
    ):
        done = subprocess.run(
            [*command, *options],
            env=ENVIRON,
            capture_output=True,
            text=True,
            check=False,
            timeout=WAIT_SECONDS,
        )
        assert (done.returncode, done.stderr) == (0, said)
        assert done.stdout == f"{gateway.folder}/mounts.yaml: 2 mounts, no problems\n{more}"
    assert look() == before
    assert b" 200 " in gateway.ask("/web/well")


@pytest.mark.parametrize(
    ("command", "health", "told"),
    [
        ("python -S web.py {socket}", "/", "/ was answered 500"),
        (
            "python -c 'print(6 * 7); exit(5)' {socket}",
            "/",
            "exited with 5 while it was loading\n42",
        ),
        (
            "nothing-such {socket}",
            "/",
            "there is no program 'nothing-such' in its environment or on",
        ),
    ],
)
def test_a_command_that_does_not_come_to_answer_is_3(
    site: Site, command: str, health: str, told: str
) -> None:
    site.write("web.py", WEB)
    more = f'pools:\n  web: {{command: "{command}"}}\n'
    mounts = f"mounts:\n  /web: {{upstream: 'pool:web', health: {health}}}\n"
    site.write("mounts.yaml", "server: {start_timeout: 3s, admin: '127.0.0.1:0'}\n" + mounts + more)
    code, out, err = site.check("--start")
    assert (code, out) == (3, "")
    assert "mounts.yaml:5:3: pools.web: " in err
    assert told in err
    assert site.find_left() == []
    assert site.check()[0] == 0


# --- however it ends ----------------------------------------------------------------------------


ODD = {
    "forks": ("import os, time\nif not os.fork():\n while True: time.sleep(1)", 0),
    "ends": ("import os; os._exit(0)", 3),
    "exits": ("import sys; sys.exit(0)", 3),
    "prints bytes": ("import os; [os.write(n, bytes(range(256))) for n in (1, 2)]", 0),
    "closes all": ("import os; os.closerange(0, 256)", 3),
    "closes its streams": ("import os; os.closerange(0, 3)", 0),
    "signals its group": ("import os; os.killpg(0, 9)", 3),
    "stops its parent": ("import os, time; os.kill(os.getppid(), 15); time.sleep(9)", 143),
    "interrupts its parent": ("import os, time; os.kill(os.getppid(), 2); time.sleep(9)", 130),
    "leaves a timer": ("import gevent; gevent.Timeout(0.01).start()", 0),
    "raises what it likes": ("raise BaseException('\\x1b[2J' * 999)", 3),
    "takes the builtins": ("import builtins; builtins.print = builtins.len = None", 3),
    "empties the modules": ("import sys; sys.modules.clear()", 3),
}


@pytest.mark.parametrize("what", ODD)
def test_no_app_gives_it_a_traceback_of_its_own(site: Site, what: str) -> None:
    statement, code = ODD[what]
    site.write("odd.py", f"{statement}\n{APP}")
    found, out, err = site.check()
    assert found == code, err
    assert (out == "mounts.yaml: 3 mounts, no problems\n") is (code == 0)
    assert "gateway/commands/check.py" not in err
    assert "gateway/commands/main.py" not in err
    if code == 3:
        assert "mounts.yaml:4:3: mounts./odd: " in err
    wait_until(lambda: site.find_left() == [], "nothing is left behind")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_middle_leaves_nothing_behind(site: Site, number: int, code: int) -> None:
    site.write("odd.py", f"import time\nopen('began', 'w').close()\ntime.sleep(3600)\n{APP}")
    with site.begin() as process:
        wait_until((site.folder / "began").exists, "the app is being loaded")
        os.killpg(process.pid, number)  # as a terminal does
        out, err = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, out) == (code, "")
    assert err == f"gateway: interrupted by {signal.Signals(number).name}\n"
    wait_until(lambda: site.find_left() == [], "nothing is left behind")


@pytest.mark.parametrize(
    ("way", "numbers", "odd"),
    [
        ("closed", [1], APP),
        ("closed", [1, 2], APP),
        ("closed", [1], "1 / 0"),
        ("nobody reads", [1], APP),
        ("nobody reads", [1, 2], "1 / 0"),
        ("full", [1], APP),
        ("full", [2], "1 / 0"),
    ],
)
def test_the_exit_code_does_not_depend_on_who_reads(
    site: Site, way: str, numbers: list[int], odd: str
) -> None:
    site.write("odd.py", odd)
    site.write("mounts.yaml", TABLE.partition("  /nested")[0])
    read, write = os.pipe()
    os.close(read)
    target = write if way == "nobody reads" else os.open("/dev/full", os.O_WRONLY)

    def before() -> None:
        for number in numbers:
            if way == "closed":
                os.close(number)
            else:
                os.dup2(target, number)

    with site.begin(preexec_fn=before) as process:
        _, err = process.communicate(timeout=WAIT_SECONDS)
    os.close(write)
    if target != write:
        os.close(target)
    expected = 3 if odd != APP else 1 if (way == "full" and 1 in numbers) else 0
    assert process.returncode == expected, err
    assert "gateway/commands/main.py" not in err
    assert 2 in numbers or ("mounts./odd" in err) is (expected == 3)
    assert site.find_left() == []


# --- warnings -----------------------------------------------------------------------------------


def test_what_is_odd_is_a_warning_with_its_place(site: Site) -> None:
    site.write("settings", "# comment\n\nNAME=value\nthis is no line\nexport OTHER=1\n=x\n")
    odd = """\
  /away: {upstream: "http://nothing.invalid:3000"}
  xn--999999999/: good:app
  /web: {upstream: "pool:web"}
  /piped: {upstream: "pool:piped"}
"""
    pools = """\
  spare: {}
  web: {command: "nothing-such {socket}", python: "3.99"}
  piped: {command: "python -V && python web.py {socket}"}
"""
    table = TABLE.replace("pools:\n", f"{odd}pools:\n").replace(
        "inner}", "inner, env_file: settings}"
    )
    site.write("mounts.yaml", table + pools)
    code, out, err = site.check()
    lines = err.splitlines()
    expected = [
        "mounts.yaml:12:3: pools.spare: no mount uses it, so it is not started: ",
        "mounts.yaml:13:3: pools.web.python: Python 3.99 is not installed here: ",
        'mounts.yaml:13:3: pools.web.command: there is no program "nothing-such": ',
        'mounts.yaml:14:3: pools.piped.command: no shell runs it, so "&&" is an argument of ',
        "mounts.yaml:7:3: mounts.xn--999999999/: no browser asks for this host, ",
        f"{site.folder}/settings:4:1: this line sets no variable: ",
        f"{site.folder}/settings:6:1: this line sets no variable: ",
        'mounts.yaml:6:3: mounts./away: "nothing.invalid" ',
    ]
    assert len(lines) == len(expected), err
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)
    assert "this is no line" not in err  # it may hold a secret
    assert code == 0
    assert out.startswith("mounts.yaml: 7 mounts, no problems, warnings: 8\n")
    assert len(site.check("--table-only")[2].splitlines()) == 7  # which asks no name server


def test_what_is_there_is_no_warning(site: Site) -> None:
    site.write("settings", "# comment\n\nNAME=value\nexport OTHER='1'\n")
    site.write("web.sh", "")
    (site.folder / "web.sh").chmod(0o755)
    own = ".".join(map(str, sys.version_info[:2]))
    more = f"""\
  /near: {{upstream: "http://localhost:3000"}}
  /ip: {{upstream: ["http://127.0.0.1:3000", "http://[::1]:80", "unix:/run/x.sock"]}}
  bücher.example/: good:app
  /web: {{upstream: "pool:web"}}
  /sh: {{upstream: "pool:sh"}}
pools:
  web: {{command: "./web.sh {{socket}}", python: "{own}"}}
  sh: {{command: "sh -c 'true && true' {{socket}}", env_file: settings}}
"""
    site.write("mounts.yaml", TABLE.replace("pools:\n", more))
    code, out, err = site.check("--table-only")
    assert (code, out, err) == (0, "mounts.yaml: 8 mounts, no problems\n", "")
    code, out, err = site.check()
    assert (code, err) == (0, "")


def test_a_start_logs_them_once_and_a_reload_those_that_are_new(start: Start) -> None:
    gateway = start(server="  reload_on_edit: false\npools:\n  spare: {}\n")
    said = "pools.spare: no mount uses it"
    assert gateway.log_text.count(said) == 1
    assert gateway.control("reload")["exit_code"] == 0
    assert gateway.log_text.count(said) == 1
    table = (gateway.folder / "mounts.yaml").read_text()
    gateway.write("mounts.yaml", table.replace("spare: {}", "spare: {}\n  more: {}"))
    assert gateway.control("reload")["exit_code"] == 0
    assert gateway.log_text.count(said) == 1
    assert gateway.log_text.count("pools.more: no mount uses it") == 1
