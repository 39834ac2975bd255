"""``gateway serve --dev --live``: pages hear of reloads, and nothing else is changed."""

import gzip
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from running import Running, wait_until

from gateway.commands.main import main
from gateway.mounts.live import is_page

PAGE = """
def app(environ, start_response):
    path = environ["PATH_INFO"]
    kind = "application/json" if path == "/json" else "text/html; charset=utf-8"
    fields = [("Content-Type", kind)]
    if path == "/fails":
        raise LookupError("no answer")
    if path == "/coded":
        import gzip
        content = gzip.compress(b"<p>1</p>")
        fields += [("Content-Encoding", "gzip"), ("Content-Length", str(len(content)))]
        start_response("200 OK", fields)
        return [content]
    if path == "/etag":
        match = environ.get("HTTP_IF_NONE_MATCH") == '"1"'
        start_response("304 Not Modified" if match else "200 OK", [*fields, ("ETag", '"1"')])
        return [] if match else [b"<p>1</p>"]
    if path == "/stream":
        start_response("200 OK", fields)
        return iter([b"<p>1", b"</p>"])
    start_response("200 OK", [*fields, ("Content-Length", "8")])
    return [b"<p>1</p>"]
"""
MOUNTS = """\
  /: good:app
  /front: front:app
  /pool: {app: pooled:app, pool: own}
  /threads: {app: threaded:app, pool: slow}
  /files: {static: files}
pools:
  slow: {concurrency: threads}
"""
APPS = {"front": PAGE, "pooled": PAGE, "threaded": PAGE}
PREFIXES = {"/front": "front.py", "/pool": "pooled.py", "/threads": "threaded.py"}
BROWSER = {"Sec-Fetch-Dest": "document", "Accept": "text/html"}
END = re.compile(rb'<script src="(.*)" data-version="(.*)"></script>\n$')

Start = Callable[..., Running]


@pytest.fixture
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    started: list[Running] = []
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "page.html").write_text("<p>1</p>")

    def start(*options: str) -> Running:
        started.append(Running(tmp_path, MOUNTS, options=options, **APPS))
        request.addfinalizer(started[-1].end)
        return started[-1]

    yield start
    for running in started:
        assert running.end() == 0


def ask(
    gateway: Running, target: str, method: str = "GET", fields: dict[str, str] = BROWSER
) -> tuple[bytes, bytes]:
    """Head and content of the answer."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    with gateway.connect() as connection:
        connection.sendall(f"{method} {target} HTTP/1.0\r\nHost: a\r\n{lines}\r\n".encode())
        with connection.makefile("rb") as answer:
            head, _, content = answer.read().partition(b"\r\n\r\n")
    return head, content


def find_end(content: bytes) -> tuple[str, str]:
    """Where a page has its script, and its version."""
    found = END.search(content)
    assert found, content
    return found[1].decode(), found[2].decode()


def listen(gateway: Running, target: str) -> Iterator[str]:
    """The versions that a page hears of there, as a browser does: it connects again at an end."""
    while True:
        with gateway.connect() as connection:
            connection.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            with connection.makefile("rb") as lines:
                for line in lines:
                    if line.startswith(b"data: "):
                        yield line[6:].decode().strip()


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_page_hears_of_a_reload_of_its_code(start: Start, prefix: str) -> None:
    gateway = start("--dev", "--live")
    head, content = ask(gateway, prefix)
    assert f"Content-Length: {len(content)}".encode() in head
    assert content.startswith(b"<p>1</p>")
    script, version = find_end(content)
    assert script == f"{prefix}/.gateway/live.js"
    with closing(listen(gateway, script.removesuffix(".js"))) as versions:
        assert next(versions) == version
        gateway.write(PREFIXES[prefix], PAGE.replace("<p>1</p>", "<p>2</p>"))
        newest = next(heard for heard in versions if heard != version)
    content = ask(gateway, prefix)[1]
    assert content.startswith(b"<p>2</p>")
    # it does not reload again and again
    assert find_end(content)[1] == newest


def test_the_script_is_served(start: Start) -> None:
    gateway = start("--dev", "--live")
    head, content = ask(gateway, "/front/.gateway/live.js")
    assert b"\r\nContent-Type: text/javascript" in head
    assert b"location.reload()" in content


def test_a_page_that_is_streamed_ends_with_the_script(start: Start) -> None:
    gateway = start("--dev", "--live")
    content = ask(gateway, "/front/stream")[1]
    assert content.startswith(b"<p>1</p><script ")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_page_of_a_failing_app_reloads_once_it_is_mended(start: Start, prefix: str) -> None:
    gateway = start("--dev", "--live")
    head, content = ask(gateway, f"{prefix}/fails")
    assert b" 500 " in head
    assert content.count(b"<script") == 1
    assert find_end(content)[0] == f"{prefix}/.gateway/live.js"
    assert b"<script" not in ask(gateway, f"{prefix}/fails", "POST")[1]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_page_is_never_answered_from_a_cache(start: Start, prefix: str) -> None:
    gateway = start("--dev", "--live")
    head, content = ask(gateway, f"{prefix}/etag", fields={**BROWSER, "If-None-Match": '"1"'})
    assert b" 200 " in head
    find_end(content)
    fetched = {"Sec-Fetch-Dest": "empty", "If-None-Match": '"1"'}
    assert b" 304 " in ask(gateway, f"{prefix}/etag", fields=fetched)[0]


@pytest.mark.parametrize(
    ("target", "method", "fields"),
    [
        ("/front/json", "GET", BROWSER),
        ("/front", "POST", BROWSER),
        ("/front", "GET", {}),
        ("/front", "GET", {"Sec-Fetch-Dest": "empty", "Accept": "text/html"}),
        ("/files/page.html", "GET", BROWSER),
    ],
)
def test_what_is_no_page_of_an_app_is_left_alone(
    start: Start, target: str, method: str, fields: dict[str, str]
) -> None:
    gateway = start("--dev", "--live")
    head, content = ask(gateway, target, method, fields)
    assert b" 200 " in head
    assert content == b"<p>1</p>"


def test_content_in_another_coding_is_left_alone(start: Start) -> None:
    gateway = start("--dev", "--live")
    assert gzip.decompress(ask(gateway, "/front/coded")[1]) == b"<p>1</p>"


def test_a_browser_that_says_nothing_of_its_request_gets_the_script_for_pages(
    start: Start,
) -> None:
    gateway = start("--dev", "--live")
    find_end(ask(gateway, "/front", fields={"Accept": "text/html"})[1])


def test_without_live_pages_are_as_the_app_made_them(start: Start) -> None:
    gateway = start("--dev")
    assert ask(gateway, "/front")[1] == b"<p>1</p>"
    assert b"<script" not in ask(gateway, "/front/fails")[1]


def test_a_table_that_changes_in_place_keeps_pages_live(start: Start) -> None:
    gateway = start("--dev", "--live")
    gateway.write_table(MOUNTS.replace("  /front:", "  /more: good:app\n  /front:"))
    wait_until(lambda: b" 200 " in ask(gateway, "/more")[0], "the table is served")
    content = ask(gateway, "/front")[1]
    assert content.count(b"<script") == 1


def test_live_needs_dev_mode(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--live"]) == 2
    assert "--live: add --dev, which reloads code on each save" in capsys.readouterr().err


@pytest.mark.parametrize("headers", [None, [("Content-Type", 1)], [("a",)], [1]])
def test_what_is_no_list_of_fields_is_left_to_who_reports_it(headers: object) -> None:
    assert not is_page("200 OK", headers)  # type: ignore[arg-type]
    assert is_page("200 OK", [("content-type", "text/HTML")])
