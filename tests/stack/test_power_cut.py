"""A power cut: all processes end at once and are started again, while much of what they need is
away or broken. What is well is served, the rest says why not, and comes back without a reload."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from compose_stack import wait_for
from stacks import Lab
from wire import wait_until

OUTAGES = """\
server: {pass_env: [GATEWAY_DATA], environments: /data/environments}
pools:
  packaged: {requirements: packages.txt}
mounts:
  /needy: needy:app
  /crashing: crashing:app
  /writing: writing:app
  /packaged: {app: "echo:app", pool: packaged}
"""
# its database is a server beside the gateway that is not there
NEEDY = """
import socket
socket.create_connection(("other", 3000), 2).close()
from echo import app
"""
CRASHING = """
import ctypes, pathlib
if pathlib.Path(__file__).with_name("is-broken").exists():
    ctypes.string_at(0)
from echo import app
"""
# a directory of 1 MiB is full with the first file; each worker has one of its own
WRITING = """
import pathlib, tempfile
is_broken = pathlib.Path(__file__).with_name("is-broken").exists()
with tempfile.TemporaryFile(dir="/run/gateway" if is_broken else "/tmp") as file:
    file.write(bytes(2 << 20))
from echo import app
"""
AWAY = "--index-url http://127.0.0.1:9/simple\nsix\n"
MESSAGES = {
    "/needy": "/needy",
    "/crashing": "SIGSEGV",
    "/writing": "No space left on device",
    "/packaged": "Connection refused",
}


@pytest.fixture
def outages(disturbed_lab: Lab) -> Iterator[Lab]:
    lab = disturbed_lab
    files = {
        "needy.py": NEEDY,
        "crashing.py": CRASHING,
        "writing.py": WRITING,
        "packages.txt": "# nothing\n",
    }
    for name, text in files.items():
        write(lab.folder / name, text)
    lab.table = OUTAGES + lab.table.partition("mounts:\n")[2]
    for mount in MESSAGES:
        wait_for(lab, mount, lambda answer: answer.status == 200)
    yield lab
    for name in (*files, "is-broken"):
        (lab.folder / name).unlink(missing_ok=True)


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o644)  # the gateway's user is another


def test_after_a_power_cut_what_is_well_serves_and_the_rest_heals(outages: Lab) -> None:
    lab = outages
    write(lab.folder / "is-broken", "")
    write(lab.folder / "packages.txt", AWAY)
    lab.cut_power("gateway", "nginx")
    for mount in ("/echo", "/mirror/1/a"):
        wait_for(lab, mount, lambda answer: answer.status == 200)
    for mount, message in MESSAGES.items():
        answer = wait_for(lab, mount, lambda answer: answer.status == 503)
        assert int(answer["Retry-After"]) > 0
        status = lab.run_in("gateway", "gateway", "status").out
        assert message in status, status
    # all of it passes, and nobody reloads
    (lab.folder / "is-broken").unlink()
    write(lab.folder / "packages.txt", "# nothing\n")
    lab.up("other")
    for mount in MESSAGES:
        wait_for(lab, mount, lambda answer: answer.status == 200, seconds=120)

    def is_well() -> bool:
        # the last worker may still be on its way
        status = lab.run_in("gateway", "gateway", "status").out
        return not [mount for mount in MESSAGES if f"mounts.{mount}:" in status]

    wait_until(is_well, "status has no failed mount of these", seconds=60)
