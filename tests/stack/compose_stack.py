"""A running stack: `docker compose` to start and end it, the Docker SDK to look inside.

Owns one Compose project, its images, containers and volume. Refuses to know what is tested.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest
import wire
from docker.models.containers import Container

ROOT = Path(__file__).resolve().parents[2]
OVERRIDES = Path(__file__).resolve().parent / "compose"
START_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command in a container said."""

    exit_code: int
    out: str
    err: str


def find_engine_fault() -> str:
    """Why there can be no stack here; "" where an engine answers."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    for command in (["docker", "compose", "version"], ["docker", "info"]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        except subprocess.TimeoutExpired:
            return f"`{' '.join(command)}` does not answer"
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
            return f"`{' '.join(command)}` fails: {said[-1]}"
    return ""


class Stack:
    """One Compose project of this repository's docker-compose.yml.

    ``name`` becomes part of the project's name; ``override`` is a file of ``compose/`` laid over
    it, and ``variables`` are what both files ask for.
    """

    def __init__(self, name: str, override: str, **variables: str) -> None:
        self.project = f"gateway-test-{name}-{secrets.token_hex(4)}"
        self._files = ("-f", str(ROOT / "docker-compose.yml"), "-f", str(OVERRIDES / override))
        self._environ = {**os.environ, "GATEWAY_PORT": "127.0.0.1:", **variables}
        self._engine = docker.from_env()
        self._address: wire.Address | None = None

    # --- start and end ------------------------------------------------------------------------

    def compose(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`docker compose ARGUMENTS`, to its end, whatever that is."""
        return subprocess.run(
            self.compose_command(*arguments),
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=START_SECONDS + 480,
        )

    def start_compose(self, *arguments: str) -> "subprocess.Popen[str]":
        """The same, begun and not waited for."""
        return subprocess.Popen(
            self.compose_command(*arguments),
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def begin_up(self) -> "subprocess.Popen[str]":
        """What `make up` runs, begun; its stdout is a pipe, what Compose says goes nowhere."""
        return subprocess.Popen(
            ["deploy/up"],
            cwd=ROOT,
            env=self.shell_environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    @property
    def shell_environ(self) -> dict[str, str]:
        """With it a plain `docker compose` means this project, in whatever directory."""
        named = {"COMPOSE_PROJECT_NAME": self.project, "COMPOSE_FILE": ":".join(self._files[1::2])}
        return {**self._environ, **named}

    def compose_command(self, *arguments: str) -> list[str]:
        return [
            *("docker", "compose", "--ansi", "never", "--project-directory", str(ROOT)),
            *("-p", self.project, *self._files, *arguments),
        ]

    def build_and_up(self) -> None:
        """From nothing to healthy. Fails the test with what Compose said."""
        self._up("--build")

    def up(self, *services: str) -> None:
        """Start what does not run, and wait until it is healthy."""
        self._up("--no-build", *services)

    def recreate(self, service: str) -> None:
        """A new container for ``service``, awaited until it is healthy."""
        self._up("--no-build", "--force-recreate", "--no-deps", service)

    def cut_power(self, *services: str) -> None:
        """Kill all that runs, and start ``services`` again, not awaited."""
        self._address = None
        for command in (["kill"], ["up", "--detach", "--no-build", *services]):
            done = self.compose(*command)
            assert done.returncode == 0, done.stderr

    def _up(self, *arguments: str) -> None:
        self._address = None
        done = self.compose("up", "--wait", "--wait-timeout", str(START_SECONDS), *arguments)
        if done.returncode:
            print(done.stdout, done.stderr, self.tail(), sep="\n")
            pytest.fail(f"{self.project} did not start; what it said is printed", pytrace=False)

    def down(self) -> None:
        """Remove containers, network, volume and images."""
        self.compose("down", "-v", "--rmi", "local", "--remove-orphans", "--timeout", "5")
        self._engine.close()

    # --- from outside -------------------------------------------------------------------------

    @property
    def address(self) -> wire.Address:
        """Where nginx answers."""
        if self._address is None:
            self._address = self.published("nginx", 8080)
        return self._address

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self.address)

    def published(self, service: str, port: int) -> wire.Address:
        """The address on this machine of a service's port."""
        done = self.compose("port", service, str(port))
        found = re.fullmatch(r"(127\.0\.0\.1):([1-9][0-9]*)\s*", done.stdout)
        assert found, f"docker compose port {service} {port}: {done.stdout}{done.stderr}"
        return found[1], int(found[2])

    def fetch(
        self, target: str, method: str = "GET", *fields: wire.Field, content: bytes = b""
    ) -> wire.Answer:
        """One request through nginx, on a connection of its own."""
        return wire.fetch(self.address, target, method, *fields, content=content)

    # --- inside -------------------------------------------------------------------------------

    def container(self, service: str) -> Container:
        labels = [
            f"com.docker.compose.project={self.project}",
            f"com.docker.compose.service={service}",
        ]
        [container] = self._engine.containers.list(all=True, filters={"label": labels})
        return container

    def run_in(self, service: str, *command: str, user: str = "") -> Ran:
        """Run a command beside the service's own."""
        code, (out, err) = self.container(service).exec_run(list(command), user=user, demux=True)
        return Ran(code, (out or b"").decode(), (err or b"").decode())

    def beside(self, *command: str) -> Container:
        """A further container on the stack's network, running ``command`` on the gateway's image.

        To be removed by who asked for it.
        """
        # Compose labels its images: without others, it would take this for one of its own
        labels = {"com.docker.compose.project": "", "com.docker.compose.service": ""}
        return self._engine.containers.run(
            self.container("gateway").image.id,
            list(command),
            network=f"{self.project}_default",
            labels=labels,
            detach=True,
        )

    def disconnect(self, service: str) -> None:
        """Take the service off the stack's network."""
        self._engine.networks.get(f"{self.project}_default").disconnect(self.container(service))

    def internal_address(self, service: str) -> str:
        """The service's address on the stack's network."""
        networks = self.container(service).attrs["NetworkSettings"]["Networks"]
        return networks[f"{self.project}_default"]["IPAddress"]

    def processes(self, service: str) -> list[dict[str, str]]:
        """`/proc/PID/status` of every process in the container, as name and value."""
        ran = self.run_in(
            service, "bash", "-c", "for f in /proc/[0-9]*/status; do cat $f 2>/dev/null; echo; done"
        )
        blocks = [
            dict(line.split(":", 1) for line in block.splitlines() if ":" in line)
            for block in ran.out.split("\n\n")
        ]
        return [
            {name: value.strip() for name, value in block.items()}
            for block in blocks
            # a process may end while its file is read
            if {"Name", "Pid", "Uid", "CapEff", "NoNewPrivs"} <= block.keys()
        ]

    # --- logs ---------------------------------------------------------------------------------

    def stderr(self, service: str, since: float = 0.0) -> str:
        """What it has said since then, in Unix time."""
        log = self.container(service).logs(stdout=False, stderr=True, since=since or None)
        return log.decode(errors="replace")

    def records(self, service: str) -> list[dict[str, Any]]:
        """The access records so far, in order."""
        raw = self.container(service).logs(stdout=True, stderr=False)
        # nginx writes the bytes of a target as they are, be they UTF-8 or not
        encoding = "latin-1" if service == "nginx" else "utf-8"
        return [json.loads(line) for line in raw.decode(encoding).splitlines()]

    def record(self, service: str, request_id: str) -> dict[str, Any]:
        """The one access record of a request, awaited."""

        def find() -> list[dict[str, Any]]:
            return [r for r in self.records(service) if r["request_id"] == request_id]

        [record] = wire.wait_until(find, f"{service} logs request {request_id}")
        return record

    def tail(self) -> str:
        """The last lines of both logs, for who looks at a failure."""
        label = f"com.docker.compose.project={self.project}"
        lines = []
        for container in self._engine.containers.list(all=True, filters={"label": label}):
            lines.append(f"--- {container.name}: {container.status}")
            log = container.logs(tail=30, timestamps=True).decode(errors="replace")
            lines += [line[:400] for line in log.splitlines()]
        return "\n".join(lines)


def wait_for(
    stack: Stack, target: str, accept: Callable[[wire.Answer], bool], seconds: float = 30
) -> wire.Answer:
    """The first acceptable answer to a GET through nginx."""

    def ask() -> wire.Answer | None:
        try:
            answer = stack.fetch(target)
        except OSError:
            return None
        return answer if accept(answer) else None

    return wire.wait_until(ask, f"an acceptable answer to GET {target}", seconds)
