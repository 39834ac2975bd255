"""StaticDirectory: what is said about a file, and how its bytes are sent."""

import io
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.util import shift_path_info

import pytest
from wsgi_caller import ask

from gateway.mounts.redirect import Redirect
from gateway.mounts.static import StaticDirectory

SECRET = b"the secret outside"
LARGE = bytes(range(256)) * 1024
MTIME = 784_111_777
MTIME_DATE = "Sun, 06 Nov 1994 08:49:37 GMT"


def write(path: Path, content: bytes, mtime: int = MTIME) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (mtime, mtime))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "secret.txt", SECRET)
    root = tmp_path / "public"
    write(root / "index.html", b"<h1>home</h1>")
    write(root / "hello.txt", b"hello world")
    write(root / "empty.txt", b"")
    write(root / "large.bin", LARGE)
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


class FakeWrapper:
    """A server's ``wsgi.file_wrapper`` that notes what it was given and sends to the end."""

    given: list[tuple[Any, int]] = []

    def __init__(self, file: Any, block_size: int) -> None:
        self.file = file
        self.given.append((file, block_size))

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.file.read(8192), b"")

    def close(self) -> None:
        self.file.close()


def test_a_file_is_sent_with_what_describes_it(app: StaticDirectory) -> None:
    answer = ask(app, "/hello.txt")
    assert (answer.status, answer.content) == (200, b"hello world")
    assert answer.headers == {
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Length": "11",
        "ETag": f'"{MTIME * 10**9:x}-b"',
        "Last-Modified": MTIME_DATE,
        "Cache-Control": "no-cache",
        "Accept-Ranges": "bytes",
        "X-Content-Type-Options": "nosniff",
    }


@pytest.mark.parametrize(
    ("path_info", "content"),
    [
        ("/", b"<h1>home</h1>"),
        ("/index.html", b"<h1>home</h1>"),
        ("/docs/", b"<h1>docs</h1>"),
        ("//docs//", b"<h1>docs</h1>"),
        ("/bare/a.txt", b"a"),
        ("/large.bin", LARGE),
        ("/empty.txt", b""),
    ],
)
def test_files_and_directories_with_an_index(
    app: StaticDirectory, path_info: str, content: bytes
) -> None:
    get = ask(app, path_info)
    assert (get.status, get.content) == (200, content)
    assert get.headers["Content-Length"] == str(len(content))
    head = ask(app, path_info, method="HEAD")
    assert (head.status, head.headers, head.content) == (200, get.headers, b"")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "no-cache"),
        (0.5, "no-cache"),
        (1, "max-age=1, public"),
        (3600.0, "max-age=3600, public"),
    ],
)
def test_cache_seconds(root: Path, seconds: float, expected: str) -> None:
    app = StaticDirectory(root, index="index.html", cache_seconds=seconds)
    for path_info in ("/hello.txt", "/docs"):
        assert ask(app, path_info).headers["Cache-Control"] == expected


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE"])
def test_other_methods_are_405(app: StaticDirectory, method: str) -> None:
    answer = ask(app, "/hello.txt", method=method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")


def test_options_is_204(app: StaticDirectory) -> None:
    answer = ask(app, "/hello.txt", method="OPTIONS")
    assert (answer.status, answer.headers, answer.content) == (
        204,
        {"Allow": "GET, HEAD, OPTIONS"},
        b"",
    )


def test_conditions_are_answered_304_and_412(app: StaticDirectory) -> None:
    etag = ask(app, "/hello.txt").headers["ETag"]
    for fields in ({"if_none_match": etag}, {"if_modified_since": MTIME_DATE}):
        for method in ("GET", "HEAD"):
            answer = ask(app, "/hello.txt", method=method, **fields)
            assert (answer.status, answer.content) == (304, b"")
            assert answer.headers == {"ETag": etag, "Cache-Control": "no-cache"}
    for fields in (
        {"if_match": '"other"'},
        {"if_unmodified_since": "Sat, 05 Nov 1994 08:49:37 GMT"},
    ):
        assert ask(app, "/hello.txt", **fields).status == 412
    assert ask(app, "/hello.txt", if_match=etag, if_none_match='"other"').status == 200
    assert ask(app, "/absent.txt", if_match="*").status == 404


def test_the_etag_changes_with_time_and_size(root: Path, app: StaticDirectory) -> None:
    etags = {ask(app, "/hello.txt").headers["ETag"]}
    write(root / "hello.txt", b"HELLO WORLD", MTIME + 1)
    etags.add(ask(app, "/hello.txt").headers["ETag"])
    write(root / "hello.txt", b"HELLO WORLD!", MTIME + 1)
    etags.add(ask(app, "/hello.txt").headers["ETag"])
    os.utime(root / "hello.txt", ns=(0, (MTIME + 1) * 10**9 + 1))
    etags.add(ask(app, "/hello.txt").headers["ETag"])
    assert len(etags) == 4


@pytest.mark.parametrize("mtime", [-1, -(10**9), 0])
def test_times_before_the_epoch_are_the_epoch(root: Path, app: StaticDirectory, mtime: int) -> None:
    write(root / "hello.txt", b"hello world", mtime)
    answer = ask(app, "/hello.txt")
    assert answer.headers["Last-Modified"] == "Thu, 01 Jan 1970 00:00:00 GMT"


def test_last_modified_is_never_in_the_future(
    root: Path, app: StaticDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(root / "hello.txt", b"hello world", MTIME + 60)
    monkeypatch.setattr(time, "time", lambda: MTIME + 0.9)
    assert ask(app, "/hello.txt").headers["Last-Modified"] == MTIME_DATE


@pytest.mark.parametrize("wrapper", [None, FakeWrapper])
@pytest.mark.parametrize("name", ["small.bin", "large.bin"])
@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [("0-0", 0, 1), ("5-", 5, None), ("-7", -7, None), ("1-99", 1, 100), ("0-", 0, None)],
)
def test_a_range_is_206(
    root: Path,
    app: StaticDirectory,
    wrapper: Any,
    name: str,
    asked: str,
    start: int,
    stop: int | None,
) -> None:
    write(root / "small.bin", LARGE[:1000])
    whole = (root / name).read_bytes()
    answer = ask(
        app,
        f"/{name}",
        range=f"bytes={asked}",
        environ={"wsgi.file_wrapper": wrapper} if wrapper else None,
    )
    expected = range(len(whole))[start:stop]
    assert answer.status == 206
    assert answer.headers["Content-Range"] == (
        f"bytes {expected.start}-{expected.stop - 1}/{len(whole)}"
    )
    assert answer.headers["Content-Length"] == str(len(expected))
    # PEP 3333: a server stops a wrapped file at Content-Length; this one sends to the end.
    assert answer.content[: len(expected)] == whole[start:stop]
    assert wrapper or answer.content == whole[start:stop]


def test_a_range_beyond_the_end_is_416(app: StaticDirectory) -> None:
    answer = ask(app, "/hello.txt", range="bytes=11-")
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */11")
    assert ask(app, "/hello.txt", range="bytes=10-").content == b"d"


@pytest.mark.parametrize(
    ("method", "path_info", "fields"),
    [
        ("GET", "/hello.txt", {"range": "bytes=0-0,2-3"}),
        ("GET", "/hello.txt", {"range": "bytes=nonsense"}),
        ("GET", "/hello.txt", {"range": "bytes=0-0", "if_range": '"other"'}),
        ("GET", "/empty.txt", {"range": "bytes=0-0"}),
        ("HEAD", "/hello.txt", {"range": "bytes=0-0"}),
        ("HEAD", "/hello.txt", {"range": "bytes=99-"}),
    ],
)
def test_a_range_that_does_not_count_is_200(
    app: StaticDirectory, method: str, path_info: str, fields: dict[str, str]
) -> None:
    answer = ask(app, path_info, method=method, **fields)
    assert answer == ask(app, path_info, method=method)
    assert answer.status == 200


def test_if_range_resumes_an_unchanged_file(root: Path, app: StaticDirectory) -> None:
    etag = ask(app, "/hello.txt").headers["ETag"]
    assert ask(app, "/hello.txt", range="bytes=6-", if_range=etag).content == b"world"
    write(root / "hello.txt", b"HELLO WORLD", MTIME + 1)
    assert ask(app, "/hello.txt", range="bytes=6-", if_range=etag).content == b"HELLO WORLD"


@pytest.fixture
def packed(root: Path) -> Path:
    # Of one size and time, as a tag must tell even these apart.
    write(root / "app.js", b"let a")
    write(root / "app.js.gz", b"GZIP!")
    write(root / "app.js.br", b"BROTL")
    return root


@pytest.mark.parametrize(
    ("accept_encoding", "content", "coding"),
    [
        ("gzip, br", b"BROTL", "br"),
        ("gzip", b"GZIP!", "gzip"),
        ("br;q=0.1, gzip;q=0.2", b"GZIP!", "gzip"),
        ("br;q=0, *", b"GZIP!", "gzip"),
        ("deflate", b"let a", None),
        ("gzip;q=0", b"let a", None),
        ("", b"let a", None),
    ],
)
@pytest.mark.usefixtures("packed")
def test_a_packed_sibling_is_sent_to_who_accepts_it(
    app: StaticDirectory, accept_encoding: str, content: bytes, coding: str | None
) -> None:
    answer = ask(app, "/app.js", accept_encoding=accept_encoding)
    assert (answer.status, answer.content) == (200, content)
    assert answer.headers.get("Content-Encoding") == coding
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert answer.headers["Content-Length"] == str(len(content))


@pytest.mark.usefixtures("packed")
def test_every_coding_has_a_tag_of_its_own(app: StaticDirectory) -> None:
    etags = {
        coding: ask(app, "/app.js", accept_encoding=coding).headers["ETag"]
        for coding in ("br", "gzip", "identity")
    }
    assert len(set(etags.values())) == 3
    answer = ask(app, "/app.js", accept_encoding="br", if_none_match=etags["br"])
    assert (answer.status, answer.headers["Vary"]) == (304, "Accept-Encoding")
    assert ask(app, "/app.js", accept_encoding="br", if_none_match=etags["gzip"]).status == 200


@pytest.mark.usefixtures("packed")
def test_a_range_is_of_the_packed_bytes(app: StaticDirectory) -> None:
    answer = ask(app, "/app.js", accept_encoding="br", range="bytes=1-2")
    assert (answer.content, answer.headers["Content-Range"]) == (b"RO", "bytes 1-2/5")
    assert answer.headers["Content-Encoding"] == "br"


def test_an_index_may_be_packed(root: Path, app: StaticDirectory) -> None:
    write(root / "docs" / "index.html.gz", b"GZIP!")
    assert ask(app, "/docs/", accept_encoding="gzip").content == b"GZIP!"


def test_a_sibling_older_than_the_file_is_ignored(packed: Path, app: StaticDirectory) -> None:
    write(packed / "app.js", b"let b", MTIME + 1)
    answer = ask(app, "/app.js", accept_encoding="gzip, br")
    assert answer.content == b"let b"
    assert "Vary" not in answer.headers
    assert "Content-Encoding" not in answer.headers
    write(packed / "app.js.gz", b"NEWER", MTIME + 2)
    assert ask(app, "/app.js", accept_encoding="gzip, br").content == b"NEWER"


@pytest.mark.parametrize("target", ["../secret.txt", ".", "nowhere"])
def test_a_sibling_that_is_no_file_inside_is_ignored(
    packed: Path, app: StaticDirectory, target: str
) -> None:
    (packed / "app.js.br").unlink()
    (packed / "app.js.br").symlink_to(target)
    assert ask(app, "/app.js", accept_encoding="br").content == b"let a"
    assert ask(app, "/app.js", accept_encoding="br, gzip;q=0.5").content == b"GZIP!"


@pytest.mark.usefixtures("packed")
def test_a_packed_file_asked_for_by_name_is_itself(app: StaticDirectory) -> None:
    answer = ask(app, "/app.js.gz", accept_encoding="gzip")
    assert (answer.content, answer.headers["Content-Type"]) == (b"GZIP!", "application/gzip")
    assert "Content-Encoding" not in answer.headers


def test_siblings_without_the_file_itself_are_404(packed: Path, app: StaticDirectory) -> None:
    (packed / "app.js").unlink()
    assert ask(app, "/app.js", accept_encoding="gzip").status == 404


def test_a_large_file_goes_through_the_servers_wrapper(
    root: Path, app: StaticDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeWrapper, "given", [])
    assert ask(app, "/large.bin", environ={"wsgi.file_wrapper": FakeWrapper}).content == LARGE
    [(file, block_size)] = FakeWrapper.given
    assert isinstance(file, io.FileIO)
    assert file.closed
    assert block_size > 0


def test_a_wrapped_range_begins_at_its_first_byte_and_can_be_sent_by_descriptor(
    app: StaticDirectory,
) -> None:
    seen = []

    def wrapper(file: io.FileIO, block_size: int) -> Iterable[bytes]:
        seen.append((file.tell(), stat.S_ISREG(os.fstat(file.fileno()).st_mode)))
        file.close()
        return []

    ask(app, "/large.bin", range="bytes=100000-199999", environ={"wsgi.file_wrapper": wrapper})
    assert seen == [(100_000, True)]


def test_without_a_wrapper_pieces_are_bounded(root: Path, app: StaticDirectory) -> None:
    body = app(
        {"REQUEST_METHOD": "GET", "PATH_INFO": "/large.bin"}, lambda *args: lambda data: None
    )
    try:
        pieces = list(body)
    finally:
        body.close()  # type: ignore[attr-defined]
    assert b"".join(pieces) == LARGE
    assert max(map(len, pieces)) == 64 * 1024


def test_a_file_that_grows_or_shrinks_meanwhile_never_exceeds_its_length(
    root: Path, app: StaticDirectory
) -> None:
    for content, expected in ((LARGE * 2, LARGE), (LARGE[:1000], LARGE[:1000])):
        write(root / "large.bin", LARGE)
        body = app(
            {"REQUEST_METHOD": "GET", "PATH_INFO": "/large.bin"}, lambda *args: lambda data: None
        )
        (root / "large.bin").write_bytes(content)
        assert b"".join(body) == expected
        body.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("path_info", ["/large.bin", "/hello.txt", "/empty.txt"])
def test_a_body_that_is_never_read_leaves_nothing_open(
    app: StaticDirectory, path_info: str
) -> None:
    body = app({"REQUEST_METHOD": "GET", "PATH_INFO": path_info}, lambda *args: lambda data: None)
    getattr(body, "close", lambda: None)()


@pytest.mark.parametrize("path_info", ["/large.bin", "/hello.txt", "/docs", "/absent"])
@pytest.mark.parametrize("fields", [{}, {"HTTP_IF_NONE_MATCH": "*"}])
def test_a_server_that_raises_leaves_nothing_open(
    app: StaticDirectory, path_info: str, fields: dict[str, str]
) -> None:
    def fail(*args: object) -> Any:
        raise RuntimeError("gone")

    environ: dict[str, Any] = {"REQUEST_METHOD": "GET", "PATH_INFO": path_info, **fields}
    with pytest.raises(RuntimeError, match="gone"):
        app(environ, fail)
    environ["wsgi.file_wrapper"] = fail
    if path_info == "/large.bin" and not fields:
        with pytest.raises(RuntimeError, match="gone"):
            app(environ, lambda *args: lambda data: None)


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_both_kinds_behind_a_real_server(root: Path, app: StaticDirectory) -> None:
    kinds = {"files": app, "old": Redirect("/files", 308)}

    def dispatch(environ: Any, start_response: Any) -> Iterable[bytes]:
        return kinds[shift_path_info(environ) or ""](environ, start_response)

    write(root / "a b.txt", b"spaced")
    server = make_server("127.0.0.1", 0, dispatch, handler_class=_Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        client = HTTPConnection("127.0.0.1", server.server_port, timeout=5)

        def get(target: str, method: str = "GET", **fields: str) -> tuple[int, Any, bytes]:
            client.request(method, target, headers=fields)
            response = client.getresponse()
            return response.status, response.headers, response.read()

        status, headers, content = get("/old/large.bin?x=1")
        assert (status, headers["Location"]) == (308, "/files/large.bin?x=1")
        assert b'<a href="/files/large.bin?x=1">' in content
        assert get("/files/large.bin")[2] == LARGE
        assert get("/files/a%20b.txt")[2] == b"spaced"
        status, headers, content = get("/files/large.bin", Range="bytes=100000-199999")
        assert (status, content) == (206, LARGE[100_000:200_000])
        assert get("/files/large.bin", method="HEAD")[1]["Content-Length"] == str(len(LARGE))
        assert get("/files/docs")[1]["Location"] == "/files/docs/"
        assert get("/files/%2e%2e%2fsecret.txt")[0] == 404
        assert get("/files/hello.txt", method="DELETE")[0] == 405
        client.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
