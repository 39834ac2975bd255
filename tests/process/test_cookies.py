"""Cookies for the whole host are for what is below their mount's prefix; no other part changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Gateway, LoadedMount, MountTable
from visitor import Visitor

from gateway.config.parse import parse_config
from gateway.http.cookies import keep_first, scope_cookie, scope_cookies
from gateway.limits import MountLimits

Start = Callable[..., Any]


@pytest.mark.parametrize(
    ("cookie", "scoped"),
    [
        ("session=a; Path=/", "session=a; Path=/a"),
        ("session=a; Path=/; HttpOnly; SameSite=Lax", "session=a; Path=/a; HttpOnly; SameSite=Lax"),
        ("session=a;path=/;Secure", "session=a;path=/a;Secure"),
        ("session=a; PATH = / ; Secure", "session=a; PATH = /a ; Secure"),
        ("session=a;\tPath\t=\t/\t", "session=a;\tPath\t=\t/a\t"),
        ('session=a; Path="/"', 'session=a; Path="/a"'),
        ("session=; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=0; Path=/",
         "session=; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=0; Path=/a"),
        ("session=a; Domain=a.example; Path=/", "session=a; Domain=a.example; Path=/a"),
        # RFC 6265 §5.3: the last one counts
        ("session=a; Path=/x; Path=/", "session=a; Path=/x; Path=/a"),
        ("__Secure-id=a; Secure; Path=/", "__Secure-id=a; Secure; Path=/a"),
        ("=a; Path=/", "=a; Path=/a"),
        # what stays
        ("__Host-id=a; Secure; Path=/", "__Host-id=a; Secure; Path=/"),
        (" __host-id=a; Secure; Path=/", " __host-id=a; Secure; Path=/"),
        ("session=a", "session=a"),
        ("session=a; Path", "session=a; Path"),
        ("session=a; Path=", "session=a; Path="),
        ("session=a; Path=/a", "session=a; Path=/a"),
        ("session=a; Path=/a/", "session=a; Path=/a/"),
        ("session=a; Path=/a/admin", "session=a; Path=/a/admin"),
        ("session=a; Path=/elsewhere", "session=a; Path=/elsewhere"),
        ("session=a; Path=//", "session=a; Path=//"),
        ("session=a; XPath=/", "session=a; XPath=/"),
        ("Path=/", "Path=/"),
        ("Path=/; Secure", "Path=/; Secure"),
        ("next=Path=/", "next=Path=/"),
        ("", ""),
    ],
)  # fmt: skip
def test_a_cookie_of_the_whole_host_gets_the_prefix_as_its_path(cookie: str, scoped: str) -> None:
    assert scope_cookie(cookie, "/a") == scoped


@pytest.mark.parametrize(
    ("script_name", "path"),
    [
        ("/proxy/a", "/proxy/a"),
        ("/caf\xc3\xa9", "/caf%C3%A9"),
        ("/a b", "/a%20b"),
        ("/it's(1)", "/it's(1)"),
        ("", "/"),
        # it would end the attribute, and browsers do not encode it
        ("/a;b", "/"),
    ],
)
def test_the_path_is_written_as_in_urls(script_name: str, path: str) -> None:
    fields = (("Set-Cookie", "id=1; Path=/"), ("X", "id=1; Path=/"), ("set-cookie", "b=2"))
    cookie, *others = scope_cookies(fields, script_name)
    assert cookie == ("Set-Cookie", f"id=1; Path={path}")
    assert tuple(others) == fields[1:]


@pytest.mark.parametrize(
    ("cookies", "kept"),
    [
        ("session=below; session=root", "session=below"),
        ("a=1; session=below; b=2; session=root; c", "a=1; session=below; b=2; c"),
        ("a=1; a=2; b=1; a=3; b=2", "a=1; b=1"),
        ("a=; a=2", "a="),
        ("a=1; b=1; A=1", "a=1; b=1; A=1"),
        ("a=1=a; b=a=1", "a=1=a; b=a=1"),
        ("; a=1; ", "a=1"),
        ("a=1", "a=1"),
    ],
)
def test_of_cookies_of_one_name_the_first_is_kept(cookies: str, kept: str) -> None:
    assert keep_first(cookies) == kept


# --- where it is done -------------------------------------------------------------------------


def sets(environ: Any, start_response: Any) -> list[bytes]:
    environ["SCRIPT_NAME"] = "/changed"  # as middleware that mounts apps of its own does
    cookies = ["one=1; Path=/", "two=2; Path=/a/x", "three=3; Path=/; Max-Age=0"]
    start_response("200 OK", [("Set-Cookie", each) for each in cookies])
    return [b"hello"]


def table(app: Any = sets, **settings: Any) -> MountTable:
    return MountTable(
        LoadedMount(name=p or "/", host=None, prefix=p, app=app, limits=MountLimits(), **settings)
        for p in ("/a", "")
    )


@pytest.mark.parametrize(
    ("scopes", "target", "path"),
    [(True, "/a/x", "/a"), (True, "/x", "/"), (False, "/a/x", "/")],
)
def test_answers_are_scoped_where_the_mount_says_so(
    serve: Any, scopes: bool, target: str, path: str
) -> None:
    gateway: Gateway = serve({"/": sets})
    gateway.service.table = table(scopes_cookies=scopes)
    for _ in range(2):
        found = gateway.ask(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert [value for name, value in found.fields if name == "set-cookie"] == [
            f"one=1; Path={path}",
            "two=2; Path=/a/x",
            f"three=3; Path={path}; Max-Age=0",
        ]


@pytest.mark.parametrize(("scopes", "seen"), [(True, b"id=1; b=2"), (False, b"id=1; b=2; id=3")])
def test_the_app_sees_the_most_specific_of_its_cookies(
    serve: Any, scopes: bool, seen: bytes
) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [environ["HTTP_COOKIE"].encode()]

    gateway: Gateway = serve({"/": app})
    gateway.service.table = table(app=app, scopes_cookies=scopes)
    request = b"GET /a HTTP/1.1\r\nHost: a\r\nCookie: id=1; b=2; id=3\r\n\r\n"
    assert gateway.ask(request).content == seen


@pytest.mark.parametrize(
    ("mount", "scopes"),
    [
        ("{app: 'plain:app'}", True),
        ("{app: 'plain:app', cookie_path: prefix}", True),
        ("{app: 'plain:app', cookie_path: keep}", False),
        ("{app: 'plain:app', pool: own}", True),
        ("{upstream: 'http://127.0.0.1:9000'}", False),
        ("{upstream: 'http://127.0.0.1:9000', cookie_path: prefix}", True),
        ("{upstream: 'pool:served'}", True),
        ("{upstream: 'pool:served', cookie_path: keep}", False),
    ],
)
def test_apps_are_scoped_unless_the_table_keeps_their_cookies(
    tmp_path: Path, mount: str, scopes: bool
) -> None:
    (tmp_path / "plain.py").touch()
    text = f"pools: {{served: {{command: 'serve {{socket}}'}}}}\nmounts:\n  /a: {mount}\n"
    config = parse_config(text, "mounts.yaml", tmp_path, {})
    assert getattr(config.mounts[0].target, "scopes_cookies", None) is scopes


# --- real apps --------------------------------------------------------------------------------

FLASK = """
from flask import Flask, request, session
app = Flask(__name__)
app.secret_key = __name__

@app.get("/login")
def login():
    session["user"] = request.args["name"]
    return "welcome"

@app.get("/logout")
def logout():
    session.clear()
    return "bye"

@app.get("/")
def who():
    return session.get("user", "nobody")
"""
DJANGO = """
from django.conf import settings
settings.configure(
    SECRET_KEY=__name__, ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__,
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
    ],
)
import django
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.middleware.csrf import get_token
from django.urls import path

def login(request):
    request.session["user"] = request.GET["name"]
    get_token(request)
    return HttpResponse("welcome")

def logout(request):
    request.session.flush()
    return HttpResponse("bye")

def who(request):
    return HttpResponse(request.session.get("user", "nobody"))

urlpatterns = [path("", who), path("login", login), path("logout", logout)]
app = get_wsgi_application()
"""
POOLS = "pools:\n  lets: {concurrency: threads, threads: 2}\n  more: {concurrency: threads}\n"


@pytest.mark.parametrize(
    ("source", "pools", "first", "second"),
    [
        (FLASK, "", "one:app", "two:app"),
        (FLASK, "", "{app: 'one:app', pool: own}", "two:app"),
        (FLASK, POOLS, "{app: 'one:app', pool: lets}", "{app: 'two:app', pool: lets}"),
        (DJANGO, "", "{app: 'one:app', pool: own}", "{app: 'two:app', pool: own}"),
        (DJANGO, POOLS, "{app: 'one:app', pool: lets}", "{app: 'two:app', pool: more}"),
    ],
)
def test_two_apps_on_one_host_do_not_log_each_other_out(
    start: Start, source: str, pools: str, first: str, second: str
) -> None:
    mounts = f"  /a: {first}\n  /bé: {second}\n"
    visitor = Visitor(start(mounts, server=pools, one=source, two=source))
    assert visitor.get("/a/login?name=Ann") == "welcome"
    assert visitor.get("/b%C3%A9/login?name=Bob") == "welcome"
    assert (visitor.get("/a/"), visitor.get("/b%C3%A9/")) == ("Ann", "Bob")
    assert visitor.get("/a/logout") == "bye"
    assert (visitor.get("/a/"), visitor.get("/b%C3%A9/")) == ("nobody", "Bob")
    assert {cookie.path for cookie in visitor.cookies} <= {"/a", "/b%C3%A9"}


@pytest.mark.parametrize("source", [FLASK, DJANGO])
def test_an_app_at_the_root_and_one_below_do_not_either(start: Start, source: str) -> None:
    mounts = "  /: {app: 'one:app', pool: own}\n  /b: {app: 'two:app', pool: own}\n"
    visitor = Visitor(start(mounts, one=source, two=source))
    assert visitor.get("/login?name=Ann") == "welcome"
    assert visitor.get("/b/login?name=Bob") == "welcome"
    assert (visitor.get("/"), visitor.get("/b/")) == ("Ann", "Bob")
    assert visitor.get("/b/logout") == "bye"
    assert visitor.get("/") == "Ann"
    assert visitor.get("/b/login?name=Bea") == "welcome"
    assert (visitor.get("/"), visitor.get("/b/")) == ("Ann", "Bea")


def test_they_do_where_the_table_keeps_their_cookies(start: Start) -> None:
    mounts = (
        "  /a: {app: 'one:app', cookie_path: keep}\n  /b: {app: 'two:app', cookie_path: keep}\n"
    )
    gateway = start(mounts, one=FLASK, two=FLASK)
    visitor = Visitor(gateway)
    visitor.get("/a/login?name=Ann")
    visitor.get("/b/login?name=Bob")
    assert visitor.get("/a/") == "nobody"
    # an edit of it needs no new workers
    gateway.write_table(mounts.replace("keep", "prefix"))
    last = visitor.wait_for_reload()
    assert (last["exit_code"], last["how"]) == (0, "in place")
    visitor.cookies.clear()
    visitor.get("/a/login?name=Ann")
    visitor.get("/b/login?name=Bob")
    assert visitor.get("/a/") == "Ann"


def test_a_proxys_own_prefix_is_part_of_the_path(start: Start) -> None:
    server = "  trusted_proxies: ['unix:']\n" + POOLS
    mounts = "  /a: one:app\n  /b: {app: 'two:app', pool: lets}\n"
    gateway = start(mounts, server=server, one=FLASK, two=FLASK)
    for mount in ("/a", "/b"):
        with gateway.connect() as client:
            head = f"GET {mount}/login?name=Ann HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
            client.sendall(f"{head}X-Forwarded-Prefix: /outer\r\n\r\n".encode())
            with client.makefile("rb") as answer:
                assert f"; Path=/outer{mount}\r\n".encode() in answer.read()
