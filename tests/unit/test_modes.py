"""Files that the gateway's user may not read: one line says which, and what to do."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.config.load import read_config
from gateway.errors import AppLoadError, ConfigError
from gateway.mounts.loader import load_app
from gateway.supervisor.listeners.sockets import open_listener

STRANGER = 65534


@contextmanager
def as_ordinary_user() -> Iterator[int]:
    """Root may read all: as another user for a moment. Its id."""
    if os.getuid():
        yield os.getuid()
        return
    os.setresuid(STRANGER, STRANGER, 0)
    try:
        yield STRANGER
    finally:
        os.setresuid(0, 0, 0)


@pytest.mark.skipif(os.getuid() != 0, reason="takes root, who may become another user")
def test_a_folder_for_sockets_that_is_not_the_gateways_own(apps: Path) -> None:
    address = f"unix:{apps}/http.sock"
    with as_ordinary_user() as user, pytest.raises(ConfigError) as refused:
        open_listener(address, "server.listen")
    assert refused.value.problems == [
        f"server.listen: cannot listen on {address}: Permission denied: "
        f'have user {user} own {apps}: "chown {user} {apps}"'
    ]
    os.chown(apps, user, -1)
    with as_ordinary_user():
        open_listener(address, "server.listen").close()


@pytest.fixture
def apps(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that others may enter, as pytest's own may not be."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    monkeypatch.syspath_prepend(str(folder))
    (folder / "mounts.yaml").write_text("mounts: {/: modal.wsgi:app}\n")
    (folder / "modal").mkdir()
    (folder / "modal/wsgi.py").write_text("def app(environ, start_response): ...\n")
    yield folder
    for name in ("modal", "modal.wsgi"):
        sys.modules.pop(name, None)
    shutil.rmtree(folder)


@pytest.mark.skipif(os.getuid() != 0, reason="takes root, who may become another user")
@pytest.mark.parametrize("closed", [".", "mounts.yaml"])
def test_a_table_that_may_not_be_read(apps: Path, closed: str) -> None:
    table = apps / "mounts.yaml"
    (apps / closed).chmod(0o700 if closed == "." else 0o600)
    with as_ordinary_user() as user, pytest.raises(ConfigError) as refused:
        read_config(table, {})
    assert refused.value.problems == [
        f'{table}: user {user} may not read it: try "chmod -R a+rX {apps.name}"'
    ]
    apps.chmod(0o755)
    table.chmod(0o644)
    with as_ordinary_user():
        assert read_config(table, {}).mounts


@pytest.mark.skipif(os.getuid() != 0, reason="takes root, who may become another user")
@pytest.mark.parametrize(
    ("closed", "mode", "told"),
    [
        ("modal", 0o700, 'user {user} may not read {path}: try "chmod -R a+rX {path}"'),
        ("modal/wsgi.py", 0o600, '(try "chmod a+r {path}")'),
    ],
)
def test_an_app_that_may_not_be_read(apps: Path, closed: str, mode: int, told: str) -> None:
    path = apps / closed
    path.chmod(mode)
    with as_ordinary_user() as user, pytest.raises(AppLoadError) as refused:
        load_app("modal.wsgi:app")
    assert told.format(user=user, path=path) in str(refused.value)


@pytest.mark.parametrize("string", ["nowhere.wsgi:app", "modal.nowhere:app"])
def test_an_app_that_is_not_there_is_not_taken_for_one_that_is_closed(
    apps: Path, string: str
) -> None:
    with as_ordinary_user(), pytest.raises(AppLoadError) as refused:
        load_app(string)
    assert "chmod" not in str(refused.value)


def test_an_app_that_may_be_read_loads(apps: Path) -> None:
    with as_ordinary_user():
        assert callable(load_app("modal.wsgi:app"))
