"""StaticDirectory: which file a path leads to, and that none leads out of the directory."""

import errno
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wsgi_caller import ask

from gateway.mounts import files
from gateway.mounts.static import StaticDirectory
from gateway.wsgi import RAW_PATH_INFO

SECRET = b"the secret outside"


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "secret.txt", SECRET)
    write(tmp_path / "public-secret.txt", SECRET)
    root = tmp_path / "public"
    write(root / "index.html", b"<h1>home</h1>")
    write(root / "hello.txt", b"hello world")
    write(root / "docs" / "index.html", b"<h1>docs</h1>")
    write(root / "bare" / "a.txt", b"a")
    return root


@pytest.fixture
def app(root: Path) -> StaticDirectory:
    return StaticDirectory(root, index="index.html", cache_seconds=0)


@pytest.fixture(autouse=True)
def _every_descriptor_is_closed() -> Iterator[None]:
    # The listing counts its own descriptor, both times.
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    yield
    assert len(os.listdir("/proc/self/fd")) <= len(before)  # noqa: PTH208


@pytest.mark.parametrize(
    ("raw_path_info", "status"),
    [("/docs/index.html", 200), ("/docs%2Findex.html", 404), ("/docs%2findex.html", 404)],
)
def test_an_encoded_slash_separates_no_directories(
    app: StaticDirectory, raw_path_info: str, status: int
) -> None:
    """Otherwise it would lead below another mount, whose prefix it does not end."""
    environ = {RAW_PATH_INFO: raw_path_info}
    assert ask(app, "/docs/index.html", environ=environ).status == status


@pytest.mark.parametrize("script_name", ["", "/files"])
def test_the_empty_path_is_the_roots_only_where_there_is_no_prefix(
    app: StaticDirectory, script_name: str
) -> None:
    answer = ask(app, "", script_name=script_name)
    if script_name:
        assert (answer.status, answer.headers["Location"]) == (308, "/files/")
    else:
        assert (answer.status, answer.content) == (200, b"<h1>home</h1>")


@pytest.mark.parametrize(
    ("script_name", "path_info", "query", "location"),
    [
        ("/files", "/docs", "", "/files/docs/"),
        ("", "/docs", "", "/docs/"),
        ("", "/docs", "a=1&b=%2F", "/docs/?a=1&b=%2F"),
        ("", "/docs", 'x="\r\nX: y', "/docs/?x=%22%0D%0AX:%20y"),
        ("", "//docs", "", "/docs/"),
        ("", "///docs", "", "/docs/"),
        ("/\xc3\xa9 %", "/d \xc3\xbc?#", "", "/%C3%A9%20%25/d%20%C3%BC%3F%23/"),
    ],
)
def test_a_directory_without_its_slash_is_given_one(
    root: Path, app: StaticDirectory, script_name: str, path_info: str, query: str, location: str
) -> None:
    (root / "d \xfc?#").mkdir()
    answer = ask(app, path_info, script_name=script_name, query=query)
    assert (answer.status, answer.headers["Location"]) == (308, location)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "path_info",
    [
        "/absent.txt",
        "/absent/",
        "/bare/",
        "/hello.txt/",
        "/hello.txt/more",
        "/Hello.txt",
        "/" + "a" * 300,
        "/a" * 5000,
        "/\xff\xfe.txt",
        "/hello.txt\x00",
        "/\x00",
        "/docs\\index.html",
        "/..\\secret.txt",
        "/..",
        "/../secret.txt",
        "/../public/hello.txt",
        "/docs/../hello.txt",
        "/docs/../../secret.txt",
        "/./hello.txt",
        "/docs/.",
        "/../public-secret.txt",
        "/%2e%2e/secret.txt",
        "//etc/passwd",
        "hello.txt",
        "-secret.txt",
        "../secret.txt",
        "*",
    ],
)
def test_what_is_not_there_is_404(app: StaticDirectory, path_info: str, method: str) -> None:
    answer = ask(app, path_info, method=method)
    assert answer.status == 404
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.content.startswith(b"404 Not Found\n" if method == "GET" else b"")


@pytest.mark.parametrize(
    "path_info", ["/.env", "/.git/config", "/docs/.htpasswd", "/.well-known-not/a", "/.hidden/"]
)
def test_names_that_begin_with_a_dot_are_404(
    root: Path, app: StaticDirectory, path_info: str
) -> None:
    write(root / path_info.strip("/") / "index.html", SECRET)
    assert ask(app, path_info).status == 404
    assert ask(app, path_info + "/index.html").status == 404


def test_well_known_is_served(root: Path, app: StaticDirectory) -> None:
    write(root / ".well-known" / "security.txt", b"Contact: x")
    write(root / ".well-known" / ".env", SECRET)
    assert ask(app, "/.well-known/security.txt").content == b"Contact: x"
    assert ask(app, "/.well-known").status == 308
    assert ask(app, "/.well-known/").status == 404
    assert ask(app, "/.well-known/.env").status == 404


def test_an_index_that_is_a_directory_is_404(root: Path, app: StaticDirectory) -> None:
    (root / "bare" / "index.html").mkdir()
    assert ask(app, "/bare/").status == 404
    assert ask(app, "/bare").status == 308


def test_names_of_any_bytes_are_found(root: Path, app: StaticDirectory) -> None:
    write(root / "caf\xe9.txt", b"utf-8")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff.txt")).write_bytes(b"no utf-8")
    assert ask(app, "/caf\xc3\xa9.txt").content == b"utf-8"
    assert ask(app, "/\xff.txt").content == b"no utf-8"
    assert ask(app, "/caf\xe9.txt").status == 404


@pytest.fixture(params=["procfs", "no procfs"])
def _with_and_without_procfs(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if request.param == "no procfs":
        monkeypatch.setattr(files, "_DESCRIPTORS", b"/nowhere")


@pytest.mark.usefixtures("_with_and_without_procfs")
@pytest.mark.parametrize(
    ("link", "target", "status"),
    [
        ("inside.txt", "hello.txt", 200),
        ("absolute.txt", "{root}/hello.txt", 200),
        ("round.txt", "../public/hello.txt", 200),
        ("docs/up.txt", "../hello.txt", 200),
        ("outside.txt", "../secret.txt", 404),
        ("prefix.txt", "../public-secret.txt", 404),
        ("far.txt", "/etc/passwd", 404),
        ("dangling.txt", "nowhere", 404),
        ("loop.txt", "loop.txt", 404),
        ("device.txt", "/dev/zero", 404),
        ("up", "..", 404),
        ("down", "docs", 308),
        ("self", ".", 308),
    ],
)
def test_a_symbolic_link_may_not_leave_the_directory(
    root: Path, app: StaticDirectory, link: str, target: str, status: int
) -> None:
    (root / link).symlink_to(target.format(root=root))
    answer = ask(app, f"/{link}")
    assert answer.status == status
    assert answer.content == b"hello world" or status != 200


@pytest.mark.usefixtures("_with_and_without_procfs")
def test_a_linked_directory_outside_shows_nothing(root: Path, app: StaticDirectory) -> None:
    (root / "up").symlink_to("..")
    (root / "down").symlink_to("docs")
    assert ask(app, "/up/secret.txt").status == 404
    assert ask(app, "/up/").status == 404
    assert ask(app, "/up/public/hello.txt").content == b"hello world"
    assert ask(app, "/down/").content == b"<h1>docs</h1>"


def test_the_directory_itself_may_be_a_link(root: Path) -> None:
    (root.parent / "current").symlink_to(root)
    app = StaticDirectory(root.parent / "current", index="index.html", cache_seconds=0)
    assert ask(app, "/hello.txt").content == b"hello world"


def test_the_root_directory_can_be_served() -> None:
    app = StaticDirectory(Path("/"), index="index.html", cache_seconds=0)
    assert ask(app, "/etc").headers["Location"] == "/files/etc/"


def test_what_is_no_regular_file_is_404_without_waiting(root: Path, app: StaticDirectory) -> None:
    os.mkfifo(root / "fifo.txt")
    # A relative name: an address of this kind holds at most 107 bytes.
    with socket.socket(socket.AF_UNIX) as listener, pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        listener.bind("socket.txt")
        assert ask(app, "/socket.txt").status == 404
        assert ask(app, "/fifo.txt").status == 404
        write(root / "hello.txt.gz", b"packed")
        (root / "hello.txt.gz").unlink()
        os.mkfifo(root / "hello.txt.gz")
        assert ask(app, "/hello.txt", accept_encoding="gzip").content == b"hello world"


def test_what_may_not_be_read_is_403() -> None:
    # Not below tmp_path, whose parents another user may not enter.
    root = Path(tempfile.mkdtemp())
    try:
        root.chmod(0o755)
        app = StaticDirectory(root, index="index.html", cache_seconds=0)
        write(root / "open.txt", b"open")
        write(root / "closed.txt", SECRET).chmod(0)
        write(root / "closed" / "index.html", SECRET)
        (root / "closed").chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            assert ask(app, "/open.txt").content == b"open"
            for path_info in ("/closed.txt", "/closed", "/closed/", "/closed/index.html"):
                for method in ("GET", "HEAD"):
                    assert ask(app, path_info, method=method).status == 403
        finally:
            os.seteuid(user)
            (root / "closed").chmod(0o755)
    finally:
        shutil.rmtree(root)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.EIO])
def test_a_fault_of_the_servers_own_is_not_called_404(
    app: StaticDirectory, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(*args: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(OSError, match=re.escape(os.strerror(code))):
        ask(app, "/hello.txt")


PARTS = [
    *("/", "//", "..", ".", "%2e%2e", "%2f", "\\", "\x00", "~", "secret.txt", "public-secret.txt"),
    *("public", "docs", "hello.txt", "index.html", "up", "link.txt", "self", "\xff", "\xc3\xa9"),
    *(".well-known", ".env", "proc/self/root", "a" * 256),
]


@pytest.fixture
def tempting(root: Path) -> StaticDirectory:
    """A directory with everything in it that could lead out."""
    write(root / ".env", SECRET)
    write(root.parent / "secret.txt.gz", SECRET)
    (root / "up").symlink_to("..")
    (root / "link.txt").symlink_to("../secret.txt")
    (root / "hello.txt.gz").symlink_to("../secret.txt")
    (root / "self").symlink_to(".")
    return StaticDirectory(root, index="index.html", cache_seconds=0)


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    path_info=st.lists(st.sampled_from(PARTS), max_size=8).map("".join)
    | st.lists(st.sampled_from(PARTS), max_size=5).map("/".join)
    | st.text(st.characters(max_codepoint=255), max_size=20),
    script_name=st.sampled_from(["", "/files"]),
    accept_encoding=st.sampled_from(["", "gzip"]),
)
def test_no_path_leads_outside(
    tempting: StaticDirectory, path_info: str, script_name: str, accept_encoding: str
) -> None:
    path_info = "/" + path_info
    answer = ask(tempting, path_info, script_name=script_name, accept_encoding=accept_encoding)
    assert SECRET not in answer.content
    assert answer.status in (200, 308, 403, 404)
    if answer.status == 308:
        assert answer.headers["Location"].startswith(script_name + "/")
        assert re.fullmatch(r"/(?!/)[!-~]*", answer.headers["Location"])
