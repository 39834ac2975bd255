"""An edit in dev mode reloads the pools whose code it is, and leaves the others as they are."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running import Running, wait_until

SAYS = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"1"]
"""
SHOP = """
from common import words
def app(environ, start_response):
    if environ["PATH_INFO"] == "/late":
        import notes.late
    start_response("200 OK", [])
    return [words.SAID]
"""
TALK = """
import http.server, socketserver, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def address_string(self):
        return "gateway"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *said):
        pass
socketserver.ThreadingUnixStreamServer(sys.argv[1], Handler).serve_forever()
"""
FILES = {
    "shop/wsgi.py": SHOP,
    "shop/cart.html": "1",
    "notes/wsgi.py": SAYS,
    "notes/late.py": "",
    "common/words.py": "SAID = b'1'\n",
    "talk/web.py": TALK,
    "talk/page.html": "1",
    "pages/base.html": "1",
}
MOUNTS = """\
  /: good:app
  /notes: notes.wsgi:app
  /shop: {app: shop.wsgi:app, pool: sale}
  /talk: {upstream: 'pool:talk'}
pools:
  sale: {concurrency: threads}
  talk: {command: 'python talk/web.py {socket}'}
"""
GREENLETS = MOUNTS.replace("{concurrency: threads}", "{}")
ALL = {"main", "sale", "talk"}

Start = Callable[..., Running]


@pytest.fixture
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    started: list[Running] = []
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    def start(mounts: str) -> Running:
        started.append(Running(tmp_path, mounts, option="--dev"))
        request.addfinalizer(started[-1].end)
        wait_until(lambda: set(serving(started[-1])) == ALL, "all pools serve")
        return started[-1]

    yield start
    for running in started:
        assert running.end() == 0


def serving(gateway: Running) -> dict[str, str]:
    """The generation of each pool that serves with a worker that is ready."""
    return {
        g["pool"]: g["generation"]
        for g in gateway.control("status")["generations"]
        if g["state"] == "serving" and {w["state"] for w in g["workers"]} == {"ready"}
    }


def edit(gateway: Running, name: str, text: str) -> set[str]:
    """The pools that a save of a file reloads."""
    before = serving(gateway)
    last = gateway.control("status")["last_reload"]
    new = gateway.folder / f"{name}.new"
    new.write_text(text)
    new.replace(gateway.folder / name)
    outcome = wait_until(
        lambda: (now := gateway.control("status")["last_reload"]) != last and now, "a reload"
    )
    assert (outcome["trigger"], outcome["exit_code"]) == (f"edit of {name}", 0)
    wait_until(lambda: set(serving(gateway)) == ALL, "all pools serve")
    return {pool for pool, generation in serving(gateway).items() if generation != before[pool]}


@pytest.mark.parametrize("mounts", [MOUNTS, GREENLETS], ids=["threads", "greenlets"])
def test_an_edit_reloads_the_pools_that_have_loaded_the_file(start: Start, mounts: str) -> None:
    gateway = start(mounts)
    assert edit(gateway, "shop/wsgi.py", SHOP + "\n") == {"sale"}
    assert edit(gateway, "notes/wsgi.py", SAYS + "\n") == {"main"}
    # nobody has asked for it yet: its folder's, until the shop has loaded it
    assert edit(gateway, "notes/late.py", "LATE = 1\n") == {"main"}
    assert b" 200 " in gateway.ask("/shop/late")
    assert edit(gateway, "notes/late.py", "LATE = 2\n") == {"sale"}


def test_an_edit_of_a_commands_folder_reloads_the_command(start: Start) -> None:
    gateway = start(MOUNTS)
    assert edit(gateway, "talk/web.py", TALK + "\n") == {"talk"}
    assert edit(gateway, "talk/page.html", "2") == {"talk"}


def test_an_edit_of_what_nobody_has_loaded_reloads_its_folders_or_all(start: Start) -> None:
    gateway = start(MOUNTS)
    assert edit(gateway, "shop/cart.html", "2") == {"sale"}
    assert edit(gateway, "shop/new.py", "") == {"sale"}
    assert edit(gateway, "pages/base.html", "2") == ALL
    # nobody knows whether a command uses it
    assert edit(gateway, "common/words.py", "SAID = b'2'\n") == {"sale", "talk"}
    assert gateway.ask("/shop").endswith(b"\r\n\r\n2")


def test_code_that_did_not_load_is_loaded_once_what_it_needs_is_mended(start: Start) -> None:
    gateway = start(MOUNTS)
    gateway.write("notes/late.py", "1 +\n")
    gateway.write("shop/wsgi.py", "import notes.late\n" + SHOP.replace("words.SAID", "b'2'"))
    failed = "reload (edit of shop/wsgi.py) failed"
    alternatives = (failed, "reload (edit of notes/late.py) failed")
    wait_until(lambda: any(text in gateway.log_text for text in alternatives), "it does not load")
    assert gateway.ask("/shop").endswith(b"\r\n\r\n1")
    assert "sale" in edit(gateway, "notes/late.py", "LATE = 1\n")
    assert gateway.ask("/shop").endswith(b"\r\n\r\n2")


def test_an_app_that_did_not_load_at_the_start_is_tried_again_at_any_edit(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "shop" / "wsgi.py").write_text("import notes.late\n" + SHOP)
    (tmp_path / "notes" / "late.py").write_text("1 +\n")
    gateway = start(MOUNTS)
    assert b" 503 " in gateway.ask("/shop")
    assert "sale" in edit(gateway, "notes/late.py", "LATE = 1\n")
    assert gateway.ask("/shop").endswith(b"\r\n\r\n1")
