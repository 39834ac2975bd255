"""Coroutines in workers: each request has a loop of its own, whatever others run meanwhile."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import coroutine_app
import pytest
from coroutine_app import CASES
from running import Running

APP = Path(coroutine_app.__file__).read_text()
FLASK = """
import asyncio
from flask import Flask, request
from coroutine_app import meet
app = Flask(__name__)
@app.get("/view")
async def view():
    await meet(request.environ)
    await asyncio.sleep(0.01)
    return "ok"
"""
DJANGO = """
import asyncio, pathlib, django
from asgiref.sync import async_to_sync, sync_to_async
from coroutine_app import find_loop, meet, meet_blocking
from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

NAME = str(pathlib.Path(__file__).with_name("db.sqlite3"))
settings.configure(
    SECRET_KEY="x", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, USE_TZ=True,
    INSTALLED_APPS=["django.contrib.sessions"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": NAME}},
)
django.setup()
call_command("migrate", verbosity=0)
from django.contrib.sessions.models import Session

async def asynchronous(request):
    await meet(request.environ)
    assert await Session.objects.acount() == 0
    assert await sync_to_async(Session.objects.count)() == 0
    assert await sync_to_async(find_loop, thread_sensitive=False)() is None
    return HttpResponse("ok")

def query(request):
    meet_blocking(request.environ)
    assert Session.objects.count() == 0
    return HttpResponse("ok")

def to_and_fro(request):
    async def inner():
        await meet(request.environ)
        return await sync_to_async(lambda: async_to_sync(again)() + Session.objects.count())()
    async def again():
        await asyncio.sleep(0.01)
        return 0
    assert async_to_sync(inner)() == 0
    return HttpResponse("ok")

urlpatterns = [
    path("async", asynchronous), path("query", query), path("to-and-fro", to_and_fro),
]
app = get_wsgi_application()
"""
ASGI = """
import asyncio
from a2wsgi import ASGIMiddleware
from coroutine_app import meet
async def asgi(scope, receive, send):
    await meet({"QUERY_STRING": scope["query_string"].decode()})
    await asyncio.sleep(0.01)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
app = ASGIMiddleware(asgi)
"""
MOUNTS = {
    "/aio": "coroutine_app:app",
    "/neighbour": "coroutine_app:neighbour",
    "/flask": "flasked:app",
    "/django": "djangoed:app",
    "/a2wsgi": "a2wsgied:app",
}
SETTINGS = {
    "shared": "",
    "greenlets": "pools: {apart: {}}\n",
    "threads": "pools: {apart: {concurrency: threads, threads: 24}}\n",
}
PAIRS = [
    ("/aio/wait", "/aio/wait"),
    ("/flask/view", "/flask/view"),
    ("/django/async", "/django/async"),
    ("/django/async", "/django/query"),
    ("/aio/wait", "/django/query"),
    ("/django/to-and-fro", "/django/to-and-fro"),
    ("/a2wsgi", "/a2wsgi"),
    ("/a2wsgi", "/django/query"),
    ("/a2wsgi", "/flask/view"),
]


@pytest.fixture(scope="module", params=SETTINGS)
def gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    pool = "" if request.param == "shared" else ", pool: apart"
    mounts = "".join(f"  {at}: {{app: '{app}'{pool}}}\n" for at, app in MOUNTS.items())
    modules = {"coroutine_app": APP, "flasked": FLASK, "djangoed": DJANGO, "a2wsgied": ASGI}
    folder = tmp_path_factory.mktemp("coroutines")
    running = Running(folder, mounts, SETTINGS[request.param], **modules)
    try:
        yield running
    finally:
        assert running.end() == 0


def ask_at_once(gateway: Running, targets: list[str], key: str) -> list[bytes]:
    """Whether the answers to requests that wait for each other are right: ok, or the answer."""

    def ask(target: str) -> bytes:
        answer = gateway.ask(f"{target}?key={key}&most={len(targets)}")
        head, _, content = answer.partition(b"\r\n\r\n")
        is_right = b" 200 " in head.partition(b"\r\n")[0] and b"ok" in content.split()
        return b"ok" if is_right else answer

    with ThreadPoolExecutor(len(targets)) as clients:
        return list(clients.map(ask, targets))


@pytest.mark.parametrize("count", [2, 16])
@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_requests_with_coroutines_overlap(
    gateway: Running, pair: tuple[str, str], count: int
) -> None:
    targets = [*pair] * (count // 2)
    assert ask_at_once(gateway, targets, f"{pair}{count}".replace(" ", "")) == [b"ok"] * count


@pytest.mark.parametrize("case", CASES)
def test_what_asyncio_offers_works_in_four_requests_at_once(gateway: Running, case: str) -> None:
    assert ask_at_once(gateway, [f"/aio/{case}"] * 4, case) == [b"ok"] * 4


def test_all_of_it_works_at_once(gateway: Running) -> None:
    targets = [f"/aio/{case}" for case in CASES]
    targets += ["/flask/view", "/django/async", "/django/query", "/a2wsgi"]
    assert ask_at_once(gateway, targets, "all") == [b"ok"] * len(targets)


def test_a_request_sees_no_loop_of_another(gateway: Running) -> None:
    """One asks while seven are held in their loops, which end when it has been answered."""
    targets = ["/aio/wait", "/aio/debug", "/aio/asynchronous_generators", "/flask/view"]
    with ThreadPoolExecutor(len(targets)) as clients:
        held = [clients.submit(gateway.ask, f"{target}?key=held&most=5") for target in targets]
        seen = [gateway.ask("/neighbour").rpartition(b"\r\n")[2] for _ in range(20)]
        gateway.ask("/aio/wait?key=held&most=5")
        assert all(b" 200 " in each.result().partition(b"\r\n")[0] for each in held)
    assert seen == [b"ok"] * 20


# --- who does not take part -------------------------------------------------------------------

PLAIN = """
import sys
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"asyncio is there" if "asyncio" in sys.modules else b"no asyncio"]
"""
UVLOOP = "import uvloop\n"
UVLOOP_OR_NOT = "try:\n    import uvloop\nexcept ImportError:\n    pass\n"
OWN_LOOP = """
import asyncio
class Loop(asyncio.AbstractEventLoop):
    pass
def app(environ, start_response):
    asyncio._set_running_loop(Loop())
    start_response("200 OK", [])
    return []
"""
TRIO = "def run(*arguments):\n    return 'it ran'\n"
NEST = "def apply():\n    pass\n"
TRIO_APP = """
from trio import run
def app(environ, start_response):
    ran = run(print, 1)
    start_response("200 OK", [])
    return [ran.encode()]
"""
ADVICE = (
    "cannot share a thread with other requests: give the mount a pool with `concurrency: threads`"
)


def test_a_worker_whose_apps_have_no_coroutines_does_not_load_asyncio(
    start: Callable[..., Running],
) -> None:
    mounts = "  /: plain:app\n  /pool: {app: 'plain:app', pool: own}\n"
    gateway = start(mounts, plain=PLAIN)
    assert gateway.ask("/").endswith(b"no asyncio")
    assert gateway.ask("/pool").endswith(b"no asyncio")


def test_uvloop_is_refused_while_loading_with_what_to_write(start: Callable[..., Running]) -> None:
    mounts = "  /needs: needs:app\n  /likes: likes:app\n"
    gateway = start(mounts, needs=UVLOOP + PLAIN, likes=UVLOOP_OR_NOT + PLAIN)
    assert b" 503 " in gateway.ask("/needs").partition(b"\r\n")[0]
    assert b" 200 " in gateway.ask("/likes").partition(b"\r\n")[0]
    assert f"needs:app: ImportError: uvloop {ADVICE}" in gateway.log_text


def test_nest_asyncio_is_refused_while_loading_with_what_to_write(
    start: Callable[..., Running],
) -> None:
    """It would change asyncio for the other apps."""
    applies = "import nest_asyncio\nnest_asyncio.apply()\n" + PLAIN
    pools = "pools: {native: {concurrency: threads}}\n"
    mounts = "  /: good:app\n  /here: nested:app\n  /there: {app: 'nested:app', pool: native}\n"
    gateway = start(mounts, pools, nested=applies, nest_asyncio=NEST)
    assert b" 503 " in gateway.ask("/here").partition(b"\r\n")[0]
    assert b" 200 " in gateway.ask("/there").partition(b"\r\n")[0]
    assert b" 200 " in gateway.ask("/").partition(b"\r\n")[0]
    advice = "give the mount its own pool with `concurrency: threads`"
    assert "nested:app: RuntimeError: nest_asyncio changes asyncio for all apps" in gateway.log_text
    assert advice in gateway.log_text


@pytest.mark.parametrize(
    ("text", "name"), [(OWN_LOOP, "loops.Loop"), (TRIO_APP, "trio")], ids=["own", "trio"]
)
def test_a_loop_that_waits_past_the_others_is_refused_each_time_with_what_to_write(
    start: Callable[..., Running], text: str, name: str
) -> None:
    gateway = start("  /: good:app\n  /loop: loops:app\n", loops=text, trio=TRIO)
    for _ in range(3):
        assert b" 500 " in gateway.ask("/loop").partition(b"\r\n")[0]
    assert gateway.log_text.count(f"/loop: UnfitLoopError: {name} {ADVICE}") == 3
    assert b" 200 " in gateway.ask("/").partition(b"\r\n")[0]


def test_native_threads_take_any_loop(start: Callable[..., Running]) -> None:
    pools = "pools: {native: {concurrency: threads}}\n"
    mounts = "  /loop: {app: 'loops:app', pool: native}\n"
    gateway = start(mounts, pools, loops=TRIO_APP, trio=TRIO)
    assert gateway.ask("/loop").endswith(b"it ran")
