"""What a reload does without new workers, and the way back from any reload."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from running import APP, Running, wait_until
from scripted import Peer, scripted

Start = Callable[..., Running]
MANUAL = "  reload_on_edit: false\n"
COUNTING = """
import itertools
count = itertools.count(1)
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"%s %d" % (environ["SCRIPT_NAME"].encode(), next(count))]
def create():
    count = itertools.count(1)
    def made(environ, start_response):
        start_response("200 OK", [])
        return [b"made %d" % next(count)]
    return made
"""
HANGING = f"""
import pathlib, time
while pathlib.Path(__file__ + ".hang").exists():
    time.sleep(0.01)
{APP}
"""
PROBED = "  /: {app: 'good:app', timeout: 9s, probe: /good}\n"


def edit(gateway: Running, mounts: str, server: str = "") -> dict[str, Any]:
    """Save the table; how the reload ended that this is."""
    before = gateway.control("status")["last_reload"]
    gateway.write_table(mounts, server)

    def ended() -> dict[str, Any] | None:
        last: dict[str, Any] = gateway.control("status")["last_reload"]
        return last if last != before else None

    last: dict[str, Any] = wait_until(ended, "a reload has ended")
    return last


# --- in place ---------------------------------------------------------------------------------


def test_what_needs_no_import_is_served_by_the_same_workers(start: Start) -> None:
    gateway = start("  /: counting:app\n", counting=COUNTING)
    (gateway.folder / "public").mkdir()
    (gateway.folder / "public" / "page.txt").write_text("a page")
    workers = gateway.children()
    assert gateway.ask().endswith(b" 1")
    last = edit(
        gateway,
        "  /moved: {app: 'counting:app', max_body: 3B}\n  /too: counting:app\n"
        "  /files: {static: ./public}\n  /old: {redirect: /moved}\n",
        "  max_request_line: 1KiB\n",
    )
    assert (last["exit_code"], last["how"], last["generation"]) == (0, "in place", "g1")
    assert gateway.ask("/moved").endswith(b"/moved 2")
    assert gateway.ask("/too").endswith(b"/too 3")
    assert gateway.ask("/files/page.txt").endswith(b"a page")
    assert b"Location: /moved" in gateway.ask("/old")
    assert b" 404 " in gateway.ask("/")
    assert b" 414 " in gateway.ask("/moved?" + "x" * 1100)
    assert gateway.children() == workers


def test_a_worker_that_hangs_at_a_mount_that_has_been_renamed_is_ended(start: Start) -> None:
    gateway = start("  /old: slow:app\n", "  start_timeout: 6s\n", slow=HANGING)
    gateway.write("slow.py.hang", "")
    [worker] = gateway.children()
    os.kill(worker, signal.SIGKILL)

    def at() -> list[str]:
        [generation] = gateway.control("status")["generations"]
        return [worker["loading"] for worker in generation["workers"]]

    wait_until(lambda: at() == ["/old"], "another one hangs there")
    last = edit(gateway, "  /new: slow:app\n")
    assert (last["exit_code"], last["how"]) == (0, "in place")
    wait_until(lambda: "mounts./old: worker " in gateway.log_text, "it is ended")
    assert "did not load within 6 s (server.start_timeout)" in gateway.log_text
    (gateway.folder / "slow.py.hang").unlink()
    wait_until(lambda: b" 200 " in gateway.ask("/new"), "the next one serves")
    assert "Traceback" not in gateway.log_text


@pytest.mark.parametrize(
    "mounts",
    [
        "  /: counting:app\n  /more: good:app\n",
        "  /: counting:app\n  /made: counting:create()\n  /again: counting:create()\n",
        "  /: {app: 'counting:app', env: {A: b}}\n",
    ],
)
def test_what_needs_an_import_or_a_call_is_served_by_new_workers(start: Start, mounts: str) -> None:
    gateway = start("  /: counting:app\n  /made: counting:create()\n", counting=COUNTING)
    last = edit(gateway, mounts)
    assert (last["exit_code"], last["how"], last["generation"]) == (0, "new workers", "g2")


def test_an_upstream_that_the_table_names_no_more_is_asked_no_more(start: Start) -> None:
    asked: list[str] = []

    def note(name: str) -> Callable[[Peer], None]:
        def answer_all(peer: Peer) -> None:
            with suppress(BrokenPipeError):  # a check that is under way as the mount goes
                while True:
                    peer.answer()
                    asked.append(name)

        return answer_all

    settings = "health: /healthz, health_interval: 50ms"
    with scripted(note("stays")) as stays, scripted(note("goes")) as goes:
        kept = f"  /: {{upstream: '{stays.address}', {settings}}}\n"
        gateway = start(f"{kept}  /b: {{upstream: '{goes.address}', {settings}}}\n")
        wait_until(lambda: {"stays", "goes"} <= set(asked), "both are asked for their health")
        last = edit(gateway, kept)
        assert (last["exit_code"], last["how"]) == (0, "in place")
        asked.clear()
        wait_until(lambda: asked.count("stays") >= 5, "the other is still asked")
        assert asked.count("goes") <= 1  # which was on its way
        gateway.end()


def test_each_mount_keeps_what_its_factory_made(start: Start) -> None:
    gateway = start("  /a: counting:create()\n  /b: counting:create()\n", counting=COUNTING)
    assert gateway.ask("/b").endswith(b"made 1")
    edit(gateway, "  /c: counting:create()\n  /b: counting:create()\n")
    assert gateway.ask("/b").endswith(b"made 2")
    assert gateway.ask("/c").endswith(b"made 1")


@pytest.mark.parametrize(
    "again",
    [
        "  /: counting:app\n  /b: good:app\n",
        "# a comment\n\n  /: counting:app   # another\n  /b: good:app\n",
        "  /b: {app: 'good:app'}\n  /: {app: counting:app, timeout: 30s}\n",
    ],
)
def test_a_save_that_means_the_same_changes_nothing(start: Start, again: str) -> None:
    gateway = start("  /: counting:app\n  /b: good:app\n", counting=COUNTING)
    workers = gateway.children()
    gateway.write("counting.py", "1/0")  # code waits for `gateway reload`
    assert gateway.ask().endswith(b" 1")
    last = edit(gateway, again)
    assert (last["exit_code"], last["how"], last["generation"]) == (0, "nothing has changed", "g1")
    assert gateway.children() == workers
    assert gateway.ask().endswith(b" 2")
    line = 1 + gateway.server.count("\n") + 1 + again[: again.index("  /:")].count("\n")
    [place] = [m["place"] for m in gateway.control("status")["mounts"] if m["mount"] == "/"]
    assert place.endswith(f"mounts.yaml:{line}:3")
    assert "reload (edit): nothing has changed" in gateway.log_text
    assert gateway.control("plan") == {"exit_code": 0, "messages": []}


def test_mending_a_table_that_was_never_served_changes_nothing(start: Start) -> None:
    gateway = start()
    workers = gateway.children()
    assert edit(gateway, "  /: [\n")["exit_code"] == 2
    assert edit(gateway, "  /: good:app\n")["how"] == "nothing has changed"
    assert gateway.children() == workers


def test_a_save_that_means_the_same_is_not_what_a_rollback_undoes(start: Start) -> None:
    gateway = start()
    edit(gateway, "  /moved: good:app\n")
    assert edit(gateway, "  /moved: good:app  # here\n")["how"] == "nothing has changed"
    assert gateway.control("rollback")["how"] == "in place"
    assert gateway.generation() == "g1"


def test_a_mount_that_did_not_load_is_tried_again_by_new_workers(start: Start) -> None:
    gateway = start("  /: good:app\n  /more: more:app\n", more="1/0\n")
    gateway.write("more.py", APP)
    assert edit(gateway, "  /: {app: 'good:app', timeout: 9s}\n  /more: more:app\n")["how"] == (
        "new workers"
    )
    assert b" 200 " in gateway.ask("/more")


@pytest.mark.parametrize(("status", "exit_code"), [("200 OK", 0), ("500 Bad", 3)])
def test_a_new_probe_is_asked_before_anything_changes(
    start: Start, status: str, exit_code: int
) -> None:
    gateway = start(good=APP.replace("200 OK", status))
    workers = gateway.children()
    last = edit(gateway, "  /away: {app: 'good:app', probe: /}\n")
    assert last["exit_code"] == exit_code
    assert gateway.children() == workers
    assert (b" 404 " in gateway.ask()) == (not exit_code)
    if exit_code:
        [message] = last["messages"]
        assert message.endswith(f"yaml:7:3: mounts./away: its probe /away/ was answered {status}")


def test_a_worker_that_is_replaced_serves_what_was_changed_in_place(start: Start) -> None:
    gateway = start()
    assert edit(gateway, "  /moved: good:app\n")["how"] == "in place"
    [pid] = gateway.children()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: gateway.children() - {pid}, "a new worker starts")
    assert b" 200 " in gateway.ask("/moved")


def test_a_thousand_mounts_change_in_place(start: Start) -> None:
    gateway = start("".join(f"  /m{i}: good:app\n" for i in range(1000)))
    last = edit(gateway, "".join(f"  /n{i}: good:app\n" for i in range(1000)))
    assert (last["exit_code"], last["how"]) == (0, "in place")
    assert b" 200 " in gateway.ask("/n999")
    print(f"{last['seconds']:.2f} s from the save to serving")


# --- the way back -----------------------------------------------------------------------------


def test_a_rollback_is_served_by_the_workers_of_before(start: Start) -> None:
    gateway = start("  /: good:app\n", MANUAL)
    assert gateway.control("rollback")["messages"] == ["there was no reload that could be undone"]
    workers = gateway.children()
    gateway.write("good.py", "1/0")  # what is loaded already is served
    gateway.write("other.py", APP)
    gateway.write_table("  /other: other:app\n")
    assert gateway.control("reload")["generation"] == "g2"
    new_workers = gateway.children() - workers
    assert b" 404 " in gateway.ask()
    outcome = gateway.control("rollback")
    assert (outcome["exit_code"], outcome["generation"]) == (0, "g1")
    assert gateway.generation() == "g1"
    assert gateway.control("rollback")["generation"] == "g2"
    assert b" 200 " in gateway.ask("/other")
    assert gateway.children() == workers | new_workers
    [kept, serving] = gateway.control("status")["generations"]
    assert (kept["generation"], kept["state"]) == ("g1", "standby")
    assert (serving["generation"], serving["state"]) == ("g2", "serving")


def test_a_rollback_of_what_changed_in_place(start: Start) -> None:
    gateway = start()
    workers = gateway.children()
    edit(gateway, "  /moved: good:app\n")
    assert b" 404 " in gateway.ask("/")
    assert gateway.control("rollback")["how"] == "in place"
    assert gateway.generation() == "g1"
    assert gateway.children() == workers


@pytest.mark.parametrize("keep", ["0", "1h"])
def test_a_rollback_starts_workers_where_those_of_before_have_gone(start: Start, keep: str) -> None:
    gateway = start("  /: good:app\n", f"{MANUAL}  keep_previous: {keep}\n")
    old = gateway.children()
    assert gateway.control("reload")["generation"] == "g2"
    if keep == "1h":
        os.kill(*old, signal.SIGKILL)
    wait_until(lambda: not old & gateway.children(), "the old worker has gone")
    outcome = gateway.control("rollback")
    assert (outcome["exit_code"], outcome["generation"]) == (0, "g3")
    assert gateway.generation() == "g3"


def test_a_rollback_that_fails_changes_nothing(start: Start) -> None:
    gateway = start("  /: good:app\n", f"{MANUAL}  keep_previous: 0\n")
    assert gateway.control("reload")["exit_code"] == 0
    wait_until(lambda: len(gateway.children()) == 1, "the old worker has gone")
    gateway.write("good.py", "1/0")
    outcome = gateway.control("rollback")
    assert outcome["exit_code"] == 3
    assert "ZeroDivisionError" in outcome["messages"][0]
    assert gateway.generation() == "g2"


def test_a_kept_worker_passes_its_connections_on_and_serves_again(start: Start) -> None:
    get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    gateway = start("  /: good:app\n", MANUAL)
    with gateway.connect() as before:
        for command, generation in (("", b"g1"), ("reload", b"g2"), ("rollback", b"g1")):
            if command:
                assert gateway.control(command)["exit_code"] == 0
            with gateway.connect() as after:
                for connection in (before, after):
                    connection.sendall(get)
                    told = connection.recv(65536)
                    assert told.endswith(generation)
                    assert b"Connection: close" not in told
