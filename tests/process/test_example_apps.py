"""The example apps: each works under any prefix, keeps to PEP 3333, and loads with the others."""

import fcntl
import gzip
import importlib
import io
import json
import os
import queue
import re
import sqlite3
import subprocess
import sys
import threading
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlencode, urljoin, urlsplit
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

APPS = Path(__file__).parents[2] / "apps"
PREFIXES = ["", "/a/b"]
PASSWORD = "a long enough password"


@pytest.fixture(scope="module", autouse=True)
def apps_on_path(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(APPS))
        patch.setenv("POLLS_DB", str(tmp_path_factory.mktemp("polls") / "polls.db"))
        patch.setenv("POLLS_ADMIN_PASSWORD", PASSWORD)
        patch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
        yield


@pytest.fixture
def notes(tmp_path, monkeypatch):
    monkeypatch.setenv("NOTES_DB", str(tmp_path / "new folder" / "notes.db"))
    return importlib.import_module("notes.wsgi").create_app()


@pytest.fixture(scope="module")
def polls(apps_on_path):
    settings = importlib.import_module("polls.settings")
    # The real hash takes half a second, on purpose.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    return importlib.import_module("polls.wsgi").application


@pytest.fixture
def welcome():
    return importlib.import_module("welcome").app


@pytest.fixture
def events():
    return importlib.import_module("events")


class Answer:
    def __init__(self, status, headers, body):
        self.status = int(status[:3])
        self.headers = {name.lower(): value for name, value in headers}
        self.body = body
        self.text = body.decode("utf-8", "replace")


class Browser:
    """One visitor of one app: checks each answer against PEP 3333 and keeps cookies by path."""

    def __init__(self, app, prefix, scheme="http", **environ):
        self.app = validator(app)
        self.prefix = prefix
        self.scheme = scheme
        self.environ = environ
        self.cookies = {}  # name: (value, path)

    def request(self, method, path, body=b"", content_type=None, **extra):
        path, _, query = path.partition("?")
        assert path.startswith(self.prefix), f"{path} is outside of the mount"
        environ = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": self.prefix,
            "PATH_INFO": path.removeprefix(self.prefix),
            "QUERY_STRING": query,
            "HTTP_HOST": "apps.example:8443",
            "wsgi.url_scheme": self.scheme,
            "wsgi.input": io.BytesIO(body),
            **self.environ,
            **extra,
        }
        if body:
            environ |= {"CONTENT_LENGTH": str(len(body)), "CONTENT_TYPE": content_type}
        sent = [f"{name}={value}" for name, (value, at) in self.cookies.items() if within(path, at)]
        if sent:
            environ["HTTP_COOKIE"] = "; ".join(sent)
        setup_testing_defaults(environ)
        return self.finish(environ)

    def finish(self, environ):
        started = []
        result = self.app(
            environ, lambda status, headers, exc_info=None: started.append((status, headers))
        )
        try:
            body = b"".join(result)
        finally:
            result.close()
        status, headers = started[0]
        for name, value in headers:
            if name.lower() == "set-cookie":
                self.keep(value)
        return Answer(status, headers, body)

    def keep(self, cookie):
        first, *attributes = cookie.split("; ")
        name, _, value = first.partition("=")
        named = dict(attribute.lower().partition("=")[::2] for attribute in attributes)
        self.cookies[name] = (value, named["path"])
        self.last_cookie = named

    def get(self, path, **extra):
        return self.request("GET", self.prefix + path, **extra)

    def post(self, path, fields=(), **extra):
        body = urlencode(dict(fields)).encode() or b"-=-"
        form = "application/x-www-form-urlencoded"
        return self.request("POST", self.prefix + path, body, form, **extra)

    def follow(self, answer):
        assert answer.status in (302, 303, 308), answer.text
        return self.request("GET", answer.headers["location"])


def within(path, cookie_path):
    # RFC 6265 §5.1.4
    return path == cookie_path or path.startswith(cookie_path.rstrip("/") + "/")


class Page(HTMLParser):
    """Collects addresses; fails where an element is closed that is not open, or left open."""

    VOID = {"meta", "link", "input", "img", "br"}
    OPTIONAL_END = {"path", "rect", "circle"}

    def __init__(self, text):
        super().__init__()
        self.links, self.ids, self.labels, self.open = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))
        assert set(self.labels) <= set(self.ids)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, kept in (("href", self.links), ("src", self.links), ("id", self.ids)):
            if name in attributes:
                kept.append(attributes[name])
        if tag == "label" and "for" in attributes:
            self.labels.append(attributes["for"])
        assert tag != "img" or attributes.get("alt")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def crawl(browser, start):
    """Every page and file that can be reached from ``start`` without leaving the mount."""
    seen, waiting = {}, [start]
    while waiting:
        address = waiting.pop()
        if address in seen or address.endswith("/stream"):
            continue
        answer = browser.request("GET", address)
        seen[address] = answer
        if answer.status in (302, 308):
            waiting.append(urljoin(address, answer.headers["location"]))
        elif answer.headers["content-type"].startswith("text/html") and "/admin/" not in address:
            for link in Page(answer.text).links:
                target = urlsplit(urljoin(f"http://apps.example:8443{address}", link))
                is_ours = target.netloc == "apps.example:8443" and target.path.startswith(
                    f"{browser.prefix}/"
                )
                if is_ours and link != "/":
                    waiting.append(target.path)
    return seen


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", ["welcome", "notes", "polls", "events"])
def test_every_link_of_an_app_leads_to_a_page_of_it(name, prefix, request):
    app = request.getfixturevalue(name)
    seen = crawl(
        Browser(getattr(app, "app", app) if name == "events" else app, prefix), f"{prefix}/"
    )
    assert {path: answer.status for path, answer in seen.items() if answer.status >= 400} == {}
    assert len(seen) >= 2
    assert any(answer.headers["content-type"].startswith("text/css") for answer in seen.values())


def test_app_names_are_those_of_no_installed_package():
    path = [entry for entry in sys.path if Path(entry or ".").resolve() != APPS]
    for name in ("welcome", "notes", "polls", "events", "legacy", "talk"):
        assert importlib.machinery.PathFinder.find_spec(name, path) is None


# welcome

MOUNTS = (
    ("/", "app", True),
    ("/notes", "app", True),
    ("/files", "static", True),
    ("/shop", "app", False),
    ("legacy.example.com/old shop", "redirect", True),
)


def test_welcome_links_every_mount_and_tells_which_fails(welcome):
    page = Browser(welcome, "", **{"gateway.mounts": MOUNTS}).get("/").text
    rows = re.findall(
        r'<li><a href="([^"]+)".*class="kind">([^<]+)</span><span class="(\w+)"', page
    )
    assert rows == [
        ("/", "Python app", "ok"),
        ("/notes", "Python app", "ok"),
        ("/files", "Static files", "ok"),
        ("/shop", "Python app", "bad"),
        ("//legacy.example.com:8443/old%20shop", "Redirect", "ok"),
    ]


def test_welcome_without_a_list_of_mounts_says_how_to_get_one(welcome):
    assert "gateway serve -c apps/mounts.yaml" in Browser(welcome, "").get("/").text


def test_welcome_marks_its_own_row(welcome):
    page = Browser(welcome, "/notes", **{"gateway.mounts": MOUNTS}).get("/").text
    assert re.findall(r'href="([^"]+)" aria-current="page"', page) == ["/notes"]


def test_welcome_answers_404_for_what_is_not_mounted_and_escapes_its_name(welcome):
    missing = Browser(welcome, "").get("/<b>\xc3\xa9\xff")
    assert missing.status == 404
    assert "&lt;b&gt;é\N{REPLACEMENT CHARACTER}" in missing.text
    assert Browser(welcome, "").get("/").status == 200


@pytest.mark.parametrize("name", ["welcome", "events"])
def test_head_is_a_get_without_its_body_and_post_is_405(name, request):
    app = request.getfixturevalue(name)
    browser = Browser(getattr(app, "app", app), "/a/b")
    head, get, post = (browser.request(m, "/a/b/") for m in ("HEAD", "GET", "POST"))
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(get.body))
    assert (post.status, post.headers["allow"]) == (405, "GET, HEAD")


# notes


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_note_is_added_and_confirmed_once_after_a_redirect(notes, prefix):
    browser = Browser(notes, prefix)
    answer = browser.post("/", {"text": "Rye <bread>", "author": "Ines"})
    assert (answer.status, answer.headers["location"]) == (303, f"{prefix}/")
    page = browser.follow(answer).text
    assert "Rye &lt;bread&gt;" in page
    assert 'value="Ines"' in page  # the session remembers who writes
    assert "Noted." in page
    assert "Noted." not in browser.get("/").text


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_notes_cookie_is_secure_when_the_request_was(notes, scheme):
    browser = Browser(notes, "/a/b", scheme)
    browser.post("/", {"text": "Hello"})
    assert ("secure" in browser.last_cookie) == (scheme == "https")
    assert {"httponly", "samesite"} <= set(browser.last_cookie)


def test_a_note_without_text_or_with_too_much_is_refused(notes):
    browser = Browser(notes, "/a/b")
    assert "needs some text" in browser.follow(browser.post("/", {"text": " "})).text
    assert "4000 characters at most" in browser.follow(browser.post("/", {"text": "x" * 4001})).text
    assert "Noted." in browser.follow(browser.post("/", {"text": "x\r\n" * 2000})).text


@pytest.mark.parametrize(
    ("content", "expected"),
    [("\ufeffGrüße\n".encode(), "Grüße"), (b"\xff\xfe\x00", "list.bin is not a text file")],
)
def test_a_note_can_be_a_text_file(notes, content, expected):
    browser = Browser(notes, "/a/b")
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="list.bin"\r\n\r\n'
        + content
        + b"\r\n--b--\r\n"
    )
    answer = browser.request("POST", "/a/b/", body, "multipart/form-data; boundary=b")
    assert expected in browser.follow(answer).text


def test_a_note_is_deleted_only_after_it_was_confirmed(notes):
    browser = Browser(notes, "/a/b")
    browser.follow(browser.post("/", {"text": "Short-lived"}))
    confirm = re.search(r'href="/a/b(/\d+/delete)"', browser.get("/").text)[1]
    assert "Delete this note?" in browser.get(confirm).text
    assert "Short-lived" in browser.get("/").text
    assert "Deleted." in browser.follow(browser.post(confirm)).text
    assert "Short-lived" not in browser.get("/").text
    assert browser.post(confirm).status == 404
    assert browser.get(f"/{10**30}/delete").status == 404


def test_a_pinned_note_comes_first(notes):
    browser = Browser(notes, "/a/b")
    browser.post("/", {"text": "A newer note"})
    first = r'<article.*?>\s*<p class="text">([^<]+)'
    assert re.search(first, browser.get("/").text)[1] == "A newer note"
    browser.post("/1/pin")
    assert re.search(first, browser.get("/").text)[1].startswith("Everything you write here")


@pytest.mark.parametrize(
    ("origin", "status"), [("https://evil.example", 403), ("http://apps.example:8443", 303)]
)
def test_a_form_on_another_site_cannot_write_notes(notes, origin, status):
    answer = Browser(notes, "/a/b").post("/", {"text": "Hello"}, HTTP_ORIGIN=origin)
    assert answer.status == status


def test_notes_can_be_downloaded(notes):
    answer = Browser(notes, "/a/b").get("/notes.txt")
    assert answer.headers["content-disposition"].startswith("attachment")
    assert "Everything you write here" in answer.text


def test_a_second_worker_shares_notes_and_sessions_with_the_first(notes):
    first = Browser(notes, "/a/b")
    first.post("/", {"text": "From one worker", "author": "Ines"})
    second = Browser(importlib.import_module("notes.wsgi").create_app(), "/a/b")
    second.cookies = first.cookies
    page = second.get("/").text
    assert "From one worker" in page
    assert 'value="Ines"' in page


def test_a_worker_that_makes_the_store_waits_for_its_turn(tmp_path):
    store = importlib.import_module("notes.store").Store
    with open(tmp_path / "notes.db.lock", "w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        worker = threading.Thread(target=store, args=[tmp_path / "notes.db"])
        worker.start()
        worker.join(0.2)
        assert worker.is_alive()
    worker.join(5)
    assert not worker.is_alive()
    assert len(store(tmp_path / "notes.db").notes()) == 1


# polls


def test_a_worker_that_is_late_takes_the_key_of_the_first(tmp_path, monkeypatch):
    kept_secret = importlib.import_module("polls.secret").kept_secret
    path = tmp_path / "new folder" / "polls.key"
    key = kept_secret(path)
    monkeypatch.setattr(Path, "exists", lambda self: False)  # as it was a moment ago
    assert kept_secret(path) == key
    assert [file.name for file in path.parent.iterdir()] == ["polls.key"]
    assert path.stat().st_mode & 0o077 == 0


def token(page):
    return re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)[1]


def votes(browser, question):
    return int(re.search(r"(\d+) votes?\b", browser.get(f"/{question}/results/").text)[1])


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_vote_counts_once_per_browser(polls, prefix, scheme):
    browser = Browser(polls, prefix, scheme)
    page = browser.get("/1/").text
    before = votes(browser, 1)
    choice = re.search(r'name="choice" value="(\d+)"', page)[1]
    form = {"csrfmiddlewaretoken": token(page), "choice": choice}
    # Over TLS Django wants an Origin of the request's own scheme, host and port.
    origin = {"HTTP_ORIGIN": f"{scheme}://apps.example:8443"}
    answer = browser.post("/1/", form, **origin)
    assert answer.headers["location"] == f"{prefix}/1/results/"
    assert "yours among them" in browser.follow(answer).text
    assert browser.post("/1/", form, **origin).status == 302
    assert votes(browser, 1) == before + 1
    assert ("secure" in browser.last_cookie) == (scheme == "https")


def test_a_vote_without_the_form_s_token_or_without_a_choice_is_refused(polls):
    browser = Browser(polls, "/a/b")
    form = {"csrfmiddlewaretoken": token(browser.get("/1/").text)}
    assert browser.post("/1/", {"choice": "1"}).status == 403
    assert browser.post("/1/", {**form, "choice": "99999999999999999999"}).status == 400
    nothing_chosen = browser.post("/1/", form)
    assert nothing_chosen.status == 400
    assert "Choose one of the answers" in nothing_chosen.text


def test_an_unknown_question_is_404(polls):
    assert Browser(polls, "/a/b").get("/1/").status == 200
    for path in ("/404/", f"/{10**30}/", "/nothing"):
        assert Browser(polls, "/a/b").get(path).status == 404


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_admin_logs_in_and_edits_under_the_prefix(polls, prefix):
    browser = Browser(polls, prefix, "https")
    login = browser.get("/admin/")
    assert login.headers["location"] == f"{prefix}/admin/login/?next={prefix}/admin/"
    page = browser.follow(login).text
    assert "There is no user yet" not in page
    origin = {"HTTP_ORIGIN": "https://apps.example:8443"}
    form = {"username": "admin", "password": "wrong", "csrfmiddlewaretoken": token(page)}
    refused = browser.post("/admin/login/", form, **origin)
    assert "Please enter the correct username and password" in refused.text
    form |= {"password": PASSWORD, "csrfmiddlewaretoken": token(refused.text)}
    page = browser.follow(browser.post(f"/admin/login/?next={prefix}/admin/", form, **origin)).text
    assert f'href="{prefix}/admin/polls/question/add/"' in page
    listed = browser.get("/admin/polls/question/").text
    assert "Tea or coffee?" in listed
    for address in re.findall(rf'="({prefix}/static/[^"]+)"', listed):
        assert browser.request("GET", address).status == 200


def test_static_files_come_from_their_folders_only(polls):
    browser = Browser(polls, "/a/b")
    found = browser.get("/static/admin/css/base.css")
    assert (found.status, found.headers["content-type"]) == (200, "text/css")
    since = {"HTTP_IF_MODIFIED_SINCE": found.headers["last-modified"]}
    assert browser.get("/static/admin/css/base.css", **since).status == 304
    for path in ("polls/../settings.py", "../settings.py", "notes/notes.css", "polls/", "polls"):
        assert browser.get(f"/static/{path}").status in (400, 404)


def test_the_models_have_all_their_migrations(polls):
    from django.core.management import call_command

    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


# events


def parse_event(message):
    return re.search(rb"event: (\w+)\ndata: (.+)\n\n$", message).groups()


def wait_until(condition, seconds=5):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def test_every_open_stream_gets_the_same_tick(events):
    streams = [events.stream(lambda: False) for _ in range(3)]
    first = [next(stream) for stream in streams]
    name, past = parse_event(first[0])
    assert name == b"past"
    assert len(json.loads(past)) == events.PAST_SECONDS
    received = []
    readers = [threading.Thread(target=lambda s=s: received.append(next(s))) for s in streams]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(5)
    assert len(received) == 3
    name, tick = parse_event(received[0])
    assert (name, json.loads(tick)["streams"]) == (b"tick", 3)
    assert set(received) == {received[0]}
    for stream in streams:
        stream.close()
    assert events.feed.readers == 0


def test_a_feed_produces_only_while_somebody_reads():
    due = queue.Queue()
    feed = importlib.import_module("events.feed").Feed(lambda: due.get(timeout=5))
    for message in (b"first", b"second"):  # it starts again for the next reader
        due.put(message)
        reader = feed.read()
        assert next(reader) == message
        reader.close()
        due.put(b"nobody hears this")
        wait_until(lambda: not any(thread.name == "events" for thread in threading.enumerate()))
    assert due.empty()


def test_the_stream_is_not_to_be_buffered_or_stored(events):
    head = Browser(events.app, "/a/b").request("HEAD", "/a/b/stream")
    assert head.headers["content-type"] == "text/event-stream"
    assert head.headers["x-accel-buffering"] == "no"
    assert head.headers["cache-control"] == "no-store"


def test_the_events_page_sends_its_prefix_on_to_its_slash(events):
    browser = Browser(events.app, "/a/b")
    assert browser.get("").headers["location"] == "/a/b/"
    assert 'EventSource("stream")' in browser.get("/live.js").text


# files and the table


def test_compressed_siblings_hold_what_the_file_holds():
    text = (APPS / "public/status-codes.txt").read_bytes()
    compressed = (APPS / "public/status-codes.txt.gz").read_bytes()
    assert gzip.decompress(compressed) == text
    # Made by: gzip -9 --keep --no-name, brotli -9 --keep. RFC 1952 §2.3.1: no name, no time.
    assert compressed[3:8] == bytes(5)


def test_the_example_table_is_valid_and_names_every_app():
    from gateway.config.load import read_config

    config = read_config(APPS / "mounts.yaml", {})
    assert [mount.name for mount in config.mounts] == [
        "/",
        "/notes",
        "/polls",
        "/events",
        "/files",
        "/old",
        "/legacy",
        "/talk",
    ]


LOAD_ALL = """
from gevent import monkey
monkey.patch_all()
import welcome, events, notes.wsgi, polls.wsgi
notes.wsgi.create_app()
"""


def test_workers_may_load_all_apps_at_the_same_time_on_gevent(tmp_path):
    environ = os.environ | {
        "PYTHONPATH": str(APPS),
        "NOTES_DB": f"{tmp_path}/data/notes.db",
        "POLLS_DB": f"{tmp_path}/data/polls.db",
    }
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", LOAD_ALL]
    workers = [
        subprocess.Popen(command, env=environ, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    complaints = [worker.communicate(timeout=60)[1] for worker in workers]
    assert ([worker.returncode for worker in workers], complaints) == ([0, 0, 0], ["", "", ""])
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert count(tmp_path / "data/polls.db", "polls_question") == 2
    assert count(tmp_path / "data/notes.db", "note") == 1


def count(database, table):
    db = sqlite3.connect(database)
    try:
        return db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    finally:
        db.close()
