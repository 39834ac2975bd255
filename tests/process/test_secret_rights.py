"""With whose rights secrets and variables are read by a gateway that runs as root: with its own
only where nobody else decides which file that is."""

import os
import pwd
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Running, wait_until

from gateway.config.load import read_config
from gateway.config.text.secret_files import read_file
from gateway.errors import ConfigError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may read what others may not")

NOBODY = pwd.getpwnam("nobody")
OTHER = pwd.getpwnam("www-data")
TELLING = """
import os
def app(environ, start_response):
    start_response("200 OK", [])
    return [f"{os.environ.get('KEY')} {os.environ['SECRET']}".encode()]
"""
MOST = 1000


@pytest.fixture
def site() -> Iterator[Path]:
    """A directory that any user may look into, with one of nobody's, and one of root's alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "theirs").mkdir()
        (folder / "theirs/deep").mkdir()
        write(folder / "theirs/env", "KEY=mine\n", NOBODY.pw_uid)
        write(folder / "theirs/deep/key", "mine\n", NOBODY.pw_uid)
        (folder / "roots").mkdir()
        (folder / "roots").chmod(0o700)
        for each in ("env", "key", "open"):
            write(folder / "roots" / each, "KEY=roots\n")
        (folder / "roots/open").chmod(0o644)
        for each in ("theirs", "theirs/deep"):
            os.chown(folder / each, NOBODY.pw_uid, NOBODY.pw_gid)
        yield folder


def write(path: Path, text: str, user: int = 0) -> None:
    path.write_text(text)
    path.chmod(0o600)
    os.chown(path, user, -1)


def link(place: Path, target: Path | str, user: int = 0) -> None:
    """Put a link there, in place of what is there."""
    if place.is_dir() and not place.is_symlink():
        place.rename(place.with_name("before"))
    place.unlink(missing_ok=True)
    place.symlink_to(target)
    os.lchown(place, user, -1)


def read(site: Path, name: str) -> str:
    return read_file(site / name, MOST, site).decode()


def test_what_a_pools_user_puts_in_place_of_its_files_is_not_read_as_root(site: Path) -> None:
    server = f"  reload_on_edit: false\n  environments: {site}/environments\n"
    server += "pools: {p: {user: nobody, python: /usr/bin/python3, env_file: theirs/env}}\n"
    secret = "env: {SECRET: '${file:theirs/deep/key}'}"
    mounts = f"  /: good:app\n  /p: {{app: 'telling:app', pool: p, {secret}}}\n"
    gateway = Running(site, mounts, server, telling=TELLING)
    try:
        wait_until(lambda: told(gateway) == "mine mine", "their own files are theirs to use", 120)
        link(site / "theirs/env", site / "roots/env", NOBODY.pw_uid)
        outcome = gateway.control("reload")
        who = "user nobody, who can change which file this is, may not read it"
        assert outcome["exit_code"] == 2
        [message] = outcome["messages"]
        assert message.endswith(
            f": pools.p.env_file: the file cannot be read: permission denied: {who}"
        )
        (site / "theirs/env").unlink()
        write(site / "theirs/env", "KEY=again\n", NOBODY.pw_uid)
        link(site / "theirs/deep", site / "roots", NOBODY.pw_uid)
        outcome = gateway.control("reload")
        assert outcome["exit_code"] == 2
        [message] = outcome["messages"]
        assert message.endswith(
            f'SECRET: the secret file "theirs/deep/key" cannot be read: permission denied: {who}'
        )
        assert told(gateway) == "mine mine"
    finally:
        gateway.end()


def told(gateway: Running) -> str:
    return gateway.ask("/p").rpartition(b"\r\n\r\n")[2].decode()


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["env", "key", "open"])
@pytest.mark.parametrize("way", ["file", "directory", "link in between", "relative", "opened"])
def test_a_way_that_another_user_can_change_is_gone_as_that_user(
    site: Path, way: str, name: str
) -> None:
    if way == "file":
        link(site / "theirs/env", site / "roots" / name, NOBODY.pw_uid)
    elif way == "directory":
        link(site / "theirs/deep", site / "roots", NOBODY.pw_uid)
        link(site / "env", f"theirs/deep/{name}")
    elif way == "link in between":
        link(site / "theirs/deep/key", site / "roots" / name, NOBODY.pw_uid)
        link(site / "env", "theirs/deep/../deep/key")
    elif way == "relative":
        link(site / "theirs/env", f"../roots/{name}", NOBODY.pw_uid)
    else:
        # the other can put one of root's in place of another one
        os.chown(site / "theirs", 0, NOBODY.pw_gid)
        (site / "theirs").chmod(0o775)
        (site / "theirs/env").unlink()
        (site / "roots" / name).rename(site / "theirs/env")
        (site / "theirs").chmod(0o775)
        (site / "theirs/env").chmod(0o600)
    who = "others" if way == "opened" else "user nobody"
    path = "theirs/env" if way in ("file", "relative", "opened") else "env"
    with pytest.raises(PermissionError, match=f"permission denied: {who}, who can change which"):
        read(site, path)


def test_a_pipe_that_another_user_can_put_there_is_refused(site: Path) -> None:
    (site / "theirs/env").unlink()
    os.mkfifo(site / "theirs/env")
    with pytest.raises(OSError, match="not a regular file"):
        read(site, "theirs/env")
    with pytest.raises(FileNotFoundError):
        read(site, "theirs/nothing")


def test_links_in_a_circle_end(site: Path) -> None:
    link(site / "env", "more")
    link(site / "more", "env")
    with pytest.raises(OSError, match="symbolic links"):
        read(site, "env")


# --- and what is accepted -----------------------------------------------------------------------


def test_what_only_root_may_read_at_a_place_that_only_root_can_change(site: Path) -> None:
    assert read(site, "roots/env") == "KEY=roots\n"
    link(site / "env", "roots/env")
    link(site / "more", site)
    assert read(site, "env") == read(site, "more/env") == "KEY=roots\n"
    # a file itself may be another's, and nobody but root decides that it is this one
    os.chown(site / "roots/env", NOBODY.pw_uid, NOBODY.pw_gid)
    assert read(site, "roots/env") == "KEY=roots\n"


def test_what_is_in_a_directory_with_the_sticky_bit(site: Path) -> None:
    (site / "roots").chmod(0o1777)
    assert read(site, "roots/env") == "KEY=roots\n"
    link(site / "roots/key", "env", NOBODY.pw_uid)
    with pytest.raises(PermissionError, match="user nobody, who can change"):
        read(site, "roots/key")


def test_what_the_user_may_read_too(site: Path) -> None:
    assert read(site, "theirs/env") == "KEY=mine\n"
    link(site / "theirs/env", "deep/key", NOBODY.pw_uid)
    assert read(site, "theirs/env") == "mine\n"
    (site / "roots").chmod(0o755)
    link(site / "theirs/env", site / "roots/open", NOBODY.pw_uid)
    assert read(site, "theirs/env") == "KEY=roots\n"
    (site / "roots/env").chmod(0o640)
    os.chown(site / "roots/env", 0, NOBODY.pw_gid)
    link(site / "theirs/env", site / "roots/env", NOBODY.pw_uid)
    assert read(site, "theirs/env") == "KEY=roots\n"


def test_no_more_is_read_than_is_asked_for(site: Path) -> None:
    write(site / "theirs/env", "x" * 100_000, NOBODY.pw_uid)
    assert len(read_file(site / "theirs/env", MOST, site)) == MOST


def test_who_owns_the_tables_directory_decides_by_that(site: Path) -> None:
    """A deployment as another user: root's gateway does what that user's table says anyway."""
    write(site / "env", "KEY=deployed\n", OTHER.pw_uid)
    for each in (site, site / "theirs"):
        os.chown(each, OTHER.pw_uid, OTHER.pw_gid)
    link(site / "theirs/env", site / "roots/env", OTHER.pw_uid)
    assert read(site, "env") == "KEY=deployed\n"
    assert read(site, "theirs/env") == "KEY=roots\n"
    table = site / "mounts.yaml"
    table.write_text("mounts:\n  /old: {redirect: '/${file:theirs/env}', max_body: 1MB}\n")
    assert read_config(table, {}).mounts
    os.chown(site, 0, 0)
    with pytest.raises(ConfigError, match="user www-data, who can change which file this is"):
        read_config(table, {})
