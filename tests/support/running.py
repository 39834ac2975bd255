"""A gateway that runs, in processes of its own, on Unix sockets: no test needs a port.

``Running.write`` puts a file beside the table; ``ask`` is one request, ``control`` one question on
the control socket.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gateway.states import VARIABLE
from gateway.supervisor.listeners.control import send_command

ENVIRON = {
    **os.environ,
    "PYTHONPATH": str(Path(__file__).parents[2]),
    VARIABLE: "1",  # no state may be entered but as its table says
}
WAIT_SECONDS = 20.0
# a start may need several tries, on a machine that does much else
START_SECONDS = 120.0

SERVER = """\
server:
  listen: unix:{0}/listen.sock
  admin: unix:{0}/admin.sock
  control: unix:{0}/control.sock
  workers: 1
"""
APP = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [environ["gateway.generation"].encode()]
"""


def wait_until(condition: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
    """The first true value of ``condition``."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.01)
    return value


class Running:
    """``gateway serve`` of a table with ``server`` beside the sockets, and ``mounts``.

    ``option`` is one more on its command line, ``options`` are several, and ``before`` is called in
    its process first; ``modules`` are further apps by name; ``stdout`` and ``stderr`` stand for the
    files of its records and its log. ``package`` is a directory with another package ``gateway``,
    which it runs instead."""

    def __init__(
        self,
        folder: Path,
        mounts: str = "  /: good:app\n",
        server: str = "",
        option: str = "",
        options: Sequence[str] = (),
        before: Callable[[], None] | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        package: Path | None = None,
        **modules: str,
    ) -> None:
        self.folder = folder
        self.server = SERVER.format(folder) + server
        if "\n  workers:" in f"\n{server}":
            self.server = self.server.replace("  workers: 1\n", "", 1)
        for name, text in {"good": APP, **modules}.items():
            self.write(f"{name}.py", text)
        self.write_table(mounts)
        self.log = open(folder / "log", "w+b")  # noqa: SIM115
        self.output = open(folder / "records", "wb")  # noqa: SIM115
        command = [sys.executable, "-m", "gateway", "serve", "-c", str(folder / "mounts.yaml")]
        self.process = subprocess.Popen(
            [*command, *([option] if option else []), *options],
            env=ENVIRON if package is None else {**ENVIRON, "PYTHONPATH": str(package)},
            cwd=package,  # where python -m looks first
            stdout=self.output if stdout is None else stdout,
            stderr=self.log if stderr is None else stderr,
            preexec_fn=before,
        )
        try:
            wait_until(self.is_ready, "the gateway is ready", START_SECONDS)
        except BaseException:
            self.end()  # nobody else could
            print(self.log_text)
            raise

    def is_ready(self) -> bool:
        """Fails where it has ended."""
        assert self.process.poll() is None, self.log_text
        try:
            return b" 200 " in self.ask("/readyz", "admin.sock").partition(b"\r\n")[0]
        except OSError:
            return False

    @property
    def log_text(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def records(self) -> list[dict[str, Any]]:
        """The access records so far."""
        *lines, _ = (self.folder / "records").read_bytes().split(b"\n")
        return [json.loads(line) for line in lines]

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def write_table(self, mounts: str, server: str = "") -> None:
        """As editors do: a new file takes the old one's place."""
        self.write("mounts.yaml.new", f"{self.server}{server}mounts:\n{mounts}")
        (self.folder / "mounts.yaml.new").replace(self.folder / "mounts.yaml")

    def connect(self, name: str = "listen.sock") -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(WAIT_SECONDS)
        try:
            connection.connect(str(self.folder / name))
        except OSError:
            connection.close()
            raise
        return connection

    def ask(self, target: str = "/", name: str = "listen.sock") -> bytes:
        """The whole answer to a GET on a connection of its own."""
        with self.connect(name) as connection:
            request = f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            connection.sendall(request.encode())
            with connection.makefile("rb") as answer:
                return answer.read()

    def generation(self) -> str:
        """Which one answers."""
        return self.ask().rpartition(b"\r\n")[2].decode()

    def control(self, command: str, **more: Any) -> dict[str, Any]:
        return send_command(self.folder / "control.sock", command, **more)

    def children(self) -> set[int]:
        """The pids of the supervisor's children."""
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return {int(pid) for pid in task.read_text().split()}

    def end(self) -> int:
        """Stop it; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(WAIT_SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
            self.log.close()
            self.output.close()
            illegal = [line for line in self.log_text.splitlines() if "IllegalTransition" in line]
            assert not illegal, self.log_text
