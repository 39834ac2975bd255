"""Where sockets lie: nothing is taken as found, no link is followed, and nothing is left behind."""

import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running import ENVIRON, SERVER, Running, wait_until

from gateway.commands.main import main
from gateway.errors import ConfigError, GatewayError
from gateway.supervisor.listeners import socket_paths as places
from gateway.supervisor.listeners.control import send_command
from gateway.supervisor.listeners.socket_paths import find_control, make_control, making_folder

NOBODY = 65534
OTHERS = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to others")
Start = Callable[..., Running]


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine of its own: /run, /tmp and the user's runtime directory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        for name, mode in (("run", 0o755), ("tmp", 0o1777), ("runtime", 0o700)):
            (path / name).mkdir()
            (path / name).chmod(mode)
        monkeypatch.setattr(places, "RUN", path / "run")
        monkeypatch.setattr(places, "TEMPORARY", path / "tmp")
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(path / "runtime"))
        yield path


@pytest.fixture
def user(root: Path) -> Iterator[int]:
    """Who is not root, and whose runtime directory it is."""
    if os.getuid():
        yield os.getuid()
        return
    (root / "run/gateway").mkdir()
    for name in ("run/gateway", "runtime"):
        os.chown(root / name, NOBODY, -1)
    os.seteuid(NOBODY)
    yield NOBODY
    os.seteuid(0)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# --- which directory --------------------------------------------------------------------------


@OTHERS
def test_root_makes_a_directory_that_workers_of_others_may_pass(root: Path) -> None:
    path = make_control("auto", "mounts.yaml")
    assert path.parent == root / "run/gateway"
    assert mode(path.parent) == 0o711


@OTHERS
def test_root_leaves_a_directory_of_others_alone(root: Path) -> None:
    theirs = root / "run/gateway"
    theirs.mkdir(mode=0o755)
    os.chown(theirs, NOBODY, -1)
    path = make_control("auto", "mounts.yaml")
    assert path.parent == root / "tmp/gateway-0"
    assert (mode(theirs), theirs.stat().st_uid) == (0o755, NOBODY)


@OTHERS
def test_root_finds_the_gateway_of_the_tables_owner_and_of_nobody_else(root: Path) -> None:
    table = root / "mounts.yaml"
    table.touch()
    theirs = root / f"tmp/gateway-{NOBODY}"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, NOBODY, -1)
    name = find_control("auto", table).name
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(theirs / name))
        assert find_control("auto", table).parent != theirs
        os.chown(table, NOBODY, -1)
        assert find_control("auto", table) == theirs / name
        theirs.chmod(0o777)
        assert find_control("auto", table).parent != theirs


def test_the_first_directory_that_is_the_users_own_is_taken(root: Path, user: int) -> None:
    first, second = root / "runtime/gateway", root / "run/gateway"
    second.mkdir(exist_ok=True)
    assert make_control("auto", "mounts.yaml").parent == first
    assert mode(first) == 0o700
    (root / "runtime").chmod(0o777)
    assert make_control("auto", "mounts.yaml").parent == second
    second.chmod(0o777)
    path = make_control("auto", "mounts.yaml")
    assert path.parent == root / f"tmp/gateway-{user}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        second.chmod(0o700)
        assert find_control("auto", "mounts.yaml") == path


def test_a_command_finds_what_serve_has_made(root: Path) -> None:
    path = make_control("auto", "mounts.yaml")
    assert find_control("auto", Path("mounts.yaml").absolute()) == path
    assert find_control("auto", "other.yaml") != path
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        os.environ.pop("XDG_RUNTIME_DIR")  # of another session
        if path.parent.parent != root / "runtime":
            assert find_control("auto", "mounts.yaml") == path


# --- what is there already --------------------------------------------------------------------


def temporary(root: Path) -> Path:
    (root / "run/gateway").write_text("in the way")
    os.environ.pop("XDG_RUNTIME_DIR")
    return root / f"tmp/gateway-{os.geteuid()}"


def test_a_directory_of_ours_is_closed_to_others(root: Path) -> None:
    temporary(root).mkdir(mode=0o755)
    path = make_control("auto", "mounts.yaml")
    assert path.parent == root / f"tmp/gateway-{os.geteuid()}"
    assert mode(path.parent) in (0o700, 0o711)


def test_a_link_is_never_followed(root: Path) -> None:
    secret = root / "secret"
    secret.mkdir(mode=0o700)
    temporary(root).symlink_to(secret)
    with pytest.raises(ConfigError, match="Not a directory"):
        make_control("auto", "mounts.yaml")
    assert mode(secret) == 0o700


def test_a_directory_that_others_may_write_to_is_refused(root: Path) -> None:
    temporary(root).mkdir()
    temporary_place = root / f"tmp/gateway-{os.geteuid()}"
    temporary_place.chmod(0o777)
    with pytest.raises(ConfigError, match="can be written to by others: remove it"):
        make_control("auto", "mounts.yaml")
    assert mode(temporary_place) == 0o777


@OTHERS
def test_a_directory_of_another_user_is_refused(root: Path) -> None:
    place = temporary(root)
    place.mkdir(mode=0o700)
    os.chown(place, NOBODY, -1)
    with pytest.raises(ConfigError, match="is another user's: remove it"):
        make_control("auto", "mounts.yaml")


def test_a_control_socket_is_not_made_where_anybody_may_replace_it(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    setting = f"unix:{tmp_path}/open/control.sock"
    with pytest.raises(ConfigError, match=f"anybody may change what is in {tmp_path}/open"):
        make_control(setting, "mounts.yaml")
    (tmp_path / "open").chmod(0o1777)
    assert make_control(setting, "mounts.yaml") == tmp_path / "open/control.sock"


def test_what_a_killed_gateway_has_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "control.pools/tmpabc"
    left.mkdir(parents=True)
    (left / "s").touch()
    with making_folder(tmp_path / "control.sock") as folder:
        assert folder == tmp_path / "control.pools"
        assert not list(folder.iterdir())
        assert mode(folder) == 0o711
    assert not folder.exists()


def test_two_sockets_never_share_a_folder(tmp_path: Path) -> None:
    with making_folder(tmp_path / "a.sock") as one, making_folder(tmp_path / "a.ctl") as other:
        assert one != other


# --- a gateway that runs ----------------------------------------------------------------------


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_socket() or path.suffix == ".pools"}


def test_a_stop_leaves_nothing(start: Start) -> None:
    gateway = start("  /: {app: 'good:app', pool: own}\n")
    assert files(gateway.folder) == {"listen.sock", "admin.sock", "control.sock", "control.pools"}
    assert gateway.end() == 0
    assert files(gateway.folder) == set()


def test_a_refused_start_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = tmp_path / "secret"
    secret.mkdir(mode=0o700)
    (tmp_path / "control.pools").symlink_to(secret)
    table = tmp_path / "mounts.yaml"
    table.write_text(f"{SERVER.format(tmp_path)}mounts:\n  /a: {{redirect: /x}}\n")
    before = set(tmp_path.iterdir())
    assert main(["check", "--table-only", "-c", str(table)]) == 0
    assert run_serve(table).startswith("server.control: ")
    assert set(tmp_path.iterdir()) == before
    assert mode(secret) == 0o700


def run_serve(table: Path) -> str:
    """What it says, being refused."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "serve", "-c", str(table)],
        env=ENVIRON,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    return done.stderr


def test_a_gateway_that_was_replaced_leaves_the_other_ones_files(start: Start) -> None:
    gateway = start()
    (gateway.folder / "listen.sock").unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(gateway.folder / "listen.sock"))
        assert gateway.end() == 0
        assert files(gateway.folder) == {"listen.sock"}


# --- who answers ------------------------------------------------------------------------------


@pytest.fixture
def squatter(tmp_path: Path) -> Iterator[Path]:
    """The control socket, as it seems, of another user's process."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        os.seteuid(NOBODY)
        listener.listen()
        os.seteuid(0)

        def answer() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as lines:
                if lines.readline():
                    connection.sendall(b'{"exit_code": 0, "messages": []}\n')

        thread = threading.Thread(target=answer)
        thread.start()
        yield path
        thread.join()


@OTHERS
def test_another_users_process_does_not_pass_for_the_gateway(squatter: Path) -> None:
    with pytest.raises(GatewayError, match=f"belongs to another user \\({NOBODY}\\)"):
        send_command(squatter, "reload")


@OTHERS
def test_the_owner_of_the_directory_may_answer(squatter: Path) -> None:
    os.chown(squatter.parent, NOBODY, -1)
    assert send_command(squatter, "reload")["exit_code"] == 0


BROKEN = """
raise ValueError("\\x1b]0;pwned\\x07 \\x9b2J \\x85 end")
"""


def test_no_control_characters_are_printed(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    server = "  reload_on_edit: false\n"
    gateway = start("  /: good:app\n  /b: broken:app\n", server, broken=BROKEN)
    table = str(gateway.folder / "mounts.yaml")
    gateway.write_table("  /: good:app\n  /b: broken:app\n  /c: {app: 'broken:app'}\n")
    commands = (["status"], ["status", "--json"], ["reload"], ["check"])
    wait_until(lambda: gateway.control("status")["mounts"], "it has a table")
    for command in commands:
        main([command[0], "-c", table, *command[1:]])
        said = "".join(capsys.readouterr())
        assert "pwned" in said, command
        controls = [c for c in said if (c < " " and c not in "\n\t") or "\x7f" <= c < "\xa0"]
        assert not controls, command
