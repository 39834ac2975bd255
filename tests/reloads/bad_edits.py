"""Edits that may change nothing: of the table, of an app, of the table's file.

Owns what is saved and a piece of what has to be told of it. Refuses to know which gateway meets it.
A table that is edited ends with its ``mounts:``, has the app of ``mirror.py`` beside it, and a line
``server:``; what is added is mounted at ``/added`` and, where it is an app, ``added.py``.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class BadEdit:
    """``adds`` are lines at the table's end, ``server`` is one below ``server:``; ``module`` is the
    text of ``added.py``. ``change`` does the rest to the table's file and its folder.

    ``told`` is a piece of the message; it has the table's line with ``at``, "" where it has none.
    """

    name: str
    told: str
    adds: str = ""
    server: str = ""
    module: str = ""
    change: Callable[[Path], object] | None = None
    at: str = "/added"

    def __str__(self) -> str:
        return self.name

    @property
    def exit_code(self) -> int:
        """That of `gateway reload`: a table with mistakes, or an app that does not load."""
        return 3 if self.module else 2

    def save(self, table: Path) -> str:
        """Make it, of the table as it is; the place that has to be told."""
        text = table.read_text("utf-8") + self.adds
        if self.server:
            text = text.replace("server:\n", f"server:\n  {self.server}\n", 1)
        if self.module:
            app = table.parent / "added.py"
            app.write_text(f"{self.module}\n", "utf-8")
            app.chmod(0o644)  # the gateway's user may be another
        table.write_text(text, "utf-8")
        if self.change:
            self.change(table)
        if not self.at:
            return f"{table.name}:"
        return f"{table.name}:{text.partition(self.at)[0].count(chr(10)) + 1}:"

    def undo(self, table: Path, text: str) -> None:
        """Have the table say ``text`` again, whatever was made of its file."""
        if table.is_dir():
            table.rmdir()
        else:
            table.unlink(missing_ok=True)
        table.write_text(text, "utf-8")
        table.chmod(0o644)
        (table.parent / "added.py").unlink(missing_ok=True)
        locked = table.parent / "locked"
        if locked.is_dir():
            locked.chmod(0o755)
            locked.rmdir()


def lock_folder(table: Path) -> None:
    (table.parent / "locked").mkdir(mode=0)


def move_admin(table: Path) -> None:
    kept = re.sub(r"^  admin: .*\n", "", table.read_text("utf-8"), flags=re.MULTILINE)
    table.write_text(kept.replace("server:\n", "server:\n  admin: 127.0.0.1:1\n", 1), "utf-8")


def put_folder(table: Path) -> None:
    table.unlink()
    table.mkdir()


def put_pipe(table: Path) -> None:
    table.unlink()
    os.mkfifo(table)


def link_to(target: str) -> Callable[[Path], None]:
    def link(table: Path) -> None:
        table.unlink()
        table.symlink_to(target)

    return link


def add_bytes(data: bytes) -> Callable[[Path], object]:
    return lambda table: table.write_bytes(table.read_bytes() + data)


APP = "  /added: added:app\n"
FACTORY = "  /added: added:create()\n"
PROBED = "  /added: {app: 'added:app', probe: /well, timeout: 1s}\n"
HERE = "mounts./added: "

# --- the table ----------------------------------------------------------------------------------

TABLE = [
    BadEdit(name="not YAML", adds="  /added: [\n", told="not YAML", at=""),
    BadEdit(name="tab", adds="\t/added: mirror:app\n", told="not YAML: a tab: indent with spaces"),
    BadEdit(
        name="half written", adds="  /added: {app: 'mirror:app', max_bo", told="not YAML", at=""
    ),
    BadEdit(
        name="unknown key",
        adds="  /added: {app: 'mirror:app', timout: 3s}\n",
        told='mounts./added.timout: unknown key: did you mean "timeout"?',
    ),
    BadEdit(name="unknown section", adds="mount: {}\n", told="unknown key", at="mount: {}"),
    BadEdit(
        name="duplicate key",
        adds="  /added: {app: 'mirror:app', app: 'mirror:app'}\n",
        told="mounts./added.app: duplicate key",
    ),
    BadEdit(
        name="duplicate mount",
        adds="  /more: mirror:app\n  /more/: mirror:app\n",
        told='mounts./more/: "/more" is already mounted',
        at="/more/",
    ),
    BadEdit(name="wrong type", adds="  /added: [mirror, app]\n", told=HERE + "expected an app"),
    BadEdit(
        name="wrong unit",
        adds="  /added: {app: 'mirror:app', timeout: 3min}\n",
        told="mounts./added.timeout: expected a duration",
    ),
    BadEdit(
        name="no unit",
        adds="  /added: {app: 'mirror:app', timeout: 10}\n",
        told='mounts./added.timeout: expected a duration such as "30s"',
    ),
    BadEdit(name="no", adds="  /added: no\n", told=HERE + "expected an app"),
    BadEdit(name="nothing", adds="  /added:\n", told=HERE + "expected an app"),
    BadEdit(
        name="missing variable",
        adds="  /added: {app: 'mirror:app', env: {KEY: '${NOT_SET_HERE:?the key of the shop}'}}\n",
        told="the key of the shop",
    ),
    BadEdit(
        name="missing secret",
        adds="  /added: {app: 'mirror:app', env: {KEY: '${file:no-secret.txt}'}}\n",
        told='the secret file "no-secret.txt" cannot be read: no such file',
    ),
    BadEdit(
        name="missing module",
        adds="  /added: mirrror:app\n",
        told='there is no module "mirrror"; did you mean "mirror"?',
    ),
    BadEdit(
        name="environment clash",
        adds="  /a: {app: 'mirror:app', env: {KEY: 1}}\n  /b: {app: 'mirror:app', env: {KEY: 2}}\n",
        told='mounts./b.env.KEY: "/a" sets it to another value',
        at="/b:",
    ),
    BadEdit(
        name="missing directory",
        adds="  /added: {static: nowhere}\n",
        told="mounts./added.static: expected a directory",
    ),
    BadEdit(
        name="locked directory",
        adds="  /added: {static: locked}\n",
        change=lock_folder,
        told="mounts./added.static: expected a directory, relative to the table's own, got "
        '"locked": the gateway\'s user may not enter it',
    ),
    BadEdit(
        name="redirect loop",
        adds="  /to: {redirect: /fro}\n  /fro: {redirect: /to}\n",
        told="mounts./to.redirect: leads back to itself",
        at="/to:",
    ),
    BadEdit(
        name="another port",
        change=move_admin,
        told="server.admin: a reload cannot change it from",
        at="",
    ),
    BadEdit(
        name="impossible limits",
        server="max_request_line: 1MiB",
        told="max_request_line is larger than max_head",
        at="max_request_line",
    ),
]

# --- the file -----------------------------------------------------------------------------------

FILE = [
    BadEdit(name="deleted", change=Path.unlink, told="no such file", at=""),
    BadEdit(
        name="emptied",
        change=lambda table: table.write_bytes(b""),
        told="the table is empty: it needs at least",
        at="",
    ),
    BadEdit(name="a pipe", change=put_pipe, told=": a pipe: name a file", at=""),
    BadEdit(
        name="a directory", change=put_folder, told=": a directory: name the table in it", at=""
    ),
    BadEdit(name="a link to nothing", change=link_to("nowhere"), told="no such file", at=""),
    BadEdit(name="a link to itself", change=link_to("mounts.yaml"), told="cannot be read", at=""),
    BadEdit(
        name="not readable", change=lambda table: table.chmod(0), told="may not read it", at=""
    ),
    BadEdit(
        name="garbage", change=add_bytes(bytes(range(256))), told="not UTF-8 (byte 0x80)", at=""
    ),
    BadEdit(
        name="not UTF-8", adds="  # caf", change=add_bytes(b"\xe9\n"), told="not UTF-8", at="# caf"
    ),
    BadEdit(
        name="too large", change=add_bytes(b"#" * (17 << 20)), told="larger than 16 MiB", at=""
    ),
]

# --- the apps -----------------------------------------------------------------------------------

APPS = [
    BadEdit(
        name="syntax error", adds=APP, module="app = (", told="SyntaxError: '(' was never closed"
    ),
    BadEdit(
        name="missing dependency",
        adds=APP,
        module="import psycopg9",
        told="No module named 'psycopg9'",
    ),
    BadEdit(
        name="broken dependency",
        adds=APP,
        module="from json import nothing",
        told="ImportError: cannot import name 'nothing' from 'json'",
    ),
    BadEdit(
        name="no callable",
        adds=APP,
        module="app = 7",
        told="is not a WSGI callable (int)",
    ),
    BadEdit(name="no attribute", adds=APP, module="application = 7", told="has no attribute 'app'"),
    BadEdit(
        name="exception",
        adds=APP,
        module="raise RuntimeError('no database')",
        told="added:app: RuntimeError: no database",
    ),
    BadEdit(
        name="factory raises",
        adds=FACTORY,
        module="def create():\n    raise RuntimeError('no database')",
        told="added:create(): RuntimeError: no database",
    ),
    BadEdit(
        name="factory wants arguments",
        adds=FACTORY,
        module="def create(settings):\n    pass",
        told="create(settings) cannot be called without arguments: write",
    ),
    BadEdit(
        name="long exception",
        adds=APP,
        module="raise RuntimeError(f'no {10_000_000 * \"x\"}')",
        told="added:app: RuntimeError: no xxx",
    ),
    BadEdit(name="no memory", adds=APP, module="bytearray(1 << 62)", told="added:app: MemoryError"),
    BadEdit(
        name="recursion",
        adds=APP,
        module="def deeper():\n    deeper()\n\n\ndeeper()",
        told="RecursionError: maximum recursion depth exceeded",
    ),
    BadEdit(name="interrupt", adds=APP, module="raise KeyboardInterrupt", told="KeyboardInterrupt"),
    BadEdit(
        name="sys.exit",
        adds=APP,
        module="import sys; sys.exit(1)",
        told="the app called sys.exit(1) while it was loaded",
    ),
    BadEdit(name="os._exit", adds=APP, module="import os; os._exit(0)", told="exited with 0"),
    BadEdit(
        name="crash in C",
        adds=APP,
        module="import ctypes; ctypes.string_at(0)",
        told="was killed by SIGSEGV",
    ),
    BadEdit(name="abort", adds=APP, module="import os; os.abort()", told="was killed by SIGABRT"),
    BadEdit(
        name="killed",
        adds=APP,
        module="import os; os.kill(os.getpid(), 9)",
        told="was killed by SIGKILL",
    ),
    BadEdit(
        name="hangs",
        adds=APP,
        server="start_timeout: 4s",
        module="import time; time.sleep(99)",
        told="did not load within 4 s (server.start_timeout)",
    ),
    BadEdit(
        name="probe answered 500",
        adds=PROBED,
        module="def app(environ, start_response):\n"
        "    start_response('500 No Database', [])\n"
        "    return []",
        told="its probe /added/well was answered 500 No Database",
    ),
    BadEdit(
        name="probe raises",
        adds=PROBED,
        module="def app(environ, start_response):\n    raise LookupError",
        told="its probe /added/well was answered 500",
    ),
    BadEdit(
        name="probe hangs",
        adds=PROBED,
        module="import time\n\n\ndef app(environ, start_response):\n    time.sleep(99)",
        told="its probe /added/well was not answered within 1 s",
    ),
]

BAD_EDITS = [*TABLE, *FILE, *APPS]
