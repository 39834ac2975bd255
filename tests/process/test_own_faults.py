"""What goes wrong in the supervisor is a record, and takes no duty with it: workers that end are
replaced, and what looks after them begins again. The faults are real ones."""

import asyncio
import ctypes
import os
import resource
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from idle_process import IdleProcess
from running import WAIT_SECONDS, Running, wait_until

from gateway.config.model import Config, ServerSettings
from gateway.supervisor.generations.exits import handle_exit
from gateway.supervisor.generations.generation import Generation, GenerationState
from gateway.supervisor.listeners.control import send_command
from gateway.supervisor.pools.evidence import MAX_REQUESTS
from gateway.supervisor.processes.process import ProcessState, Purpose
from gateway.supervisor.tasks import guard, guarded, keep_up
from gateway.supervisor.watching.code import watch_code
from gateway.supervisor.watching.files import watch_file, watch_files

Start = Callable[..., Running]
CONFIG = Config("mounts.yaml", Path("/nowhere"), ServerSettings(workers=1), ())
MANUAL = "  reload_on_edit: false\n"
POOL = "  /: good:app\n  /p: {app: 'good:app', pool: shop}\npools:\n  shop: {sticky: cookie}\n"


def answers(gateway: Running, target: str) -> bool:
    try:
        return gateway.ask(target)[9:12] == b"200"
    except OSError:
        return False


def find_worker(gateway: Running, pool: str) -> int:
    """The pid of the only worker of a pool; 0 where it has none that is ready."""
    report = gateway.control("status")
    for generation in report["generations"]:
        for worker in generation["workers"]:
            if generation["pool"] == pool and worker["state"] == "ready":
                return int(worker["pid"])
    return 0


@pytest.fixture
def pool(start: Start) -> Running:
    """One whose workers have a socket each."""
    gateway = start(POOL, MANUAL)
    wait_until(lambda: find_worker(gateway, "shop"), "the pool is ready")
    return gateway


# --- starts that raise what nobody expects -----------------------------------------------------


def occupy(gateway: Running) -> list[Path]:
    """Folders in the places of the sockets to come."""
    places = [gateway.folder / "control.pools" / f"worker-{n}.sock" for n in range(2, 200)]
    for place in places:
        place.mkdir()
    return places


def test_a_worker_is_replaced_once_its_socket_can_be_made(pool: Running) -> None:
    places = occupy(pool)
    os.kill(find_worker(pool, "shop"), signal.SIGKILL)
    wait_until(lambda: "a worker could not be started" in pool.log_text, "the start has failed")
    assert "cannot listen on" in pool.log_text
    for place in places:
        place.rmdir()
    wait_until(lambda: answers(pool, "/p"), "it is replaced")


def test_a_reload_that_cannot_start_workers_fails_and_the_next_one_succeeds(pool: Running) -> None:
    places = occupy(pool)
    failed = pool.control("reload")
    assert failed["exit_code"] == 3
    assert "a worker could not be started" in "\n".join(failed["messages"])
    assert answers(pool, "/p")
    for place in places:
        place.rmdir()
    assert pool.control("reload")["exit_code"] == 0


# --- descriptors -------------------------------------------------------------------------------


def test_workers_come_back_after_the_supervisor_has_run_out_of_descriptors(pool: Running) -> None:
    pid = pool.process.pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    worker = find_worker(pool, "shop")
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (8, limits[1]))
    os.kill(worker, signal.SIGKILL)
    # by then requests would be answered in their stead, which takes a descriptor, too
    wait_until(lambda: "a worker could not be started" in pool.log_text, "a start has failed")
    # the tries after it are not logged, and nothing else can be asked of a gateway in that state
    later = time.monotonic() + 2
    wait_until(lambda: time.monotonic() > later, "several starts have failed")
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    wait_until(lambda: answers(pool, "/p"), "it is replaced")


# --- what a worker leaves behind ---------------------------------------------------------------

CROWD = """
import pathlib, time
here = pathlib.Path(__file__).parent
def app(environ, start_response):
    if environ["QUERY_STRING"]:
        mount = environ["SCRIPT_NAME"][1:]
        (here / f"began-{mount}-{environ['QUERY_STRING']}").touch()
        time.sleep(60)
    start_response("200 OK", [])
    return [b""]
"""


def test_one_that_ends_with_many_requests_in_flight_is_replaced(start: Start) -> None:
    """More of one mount than are remembered, and behind them one of another."""
    gateway = start("  /a: crowd:app\n  /b: crowd:app\n", MANUAL, crowd=CROWD)
    [worker] = gateway.children()

    def send(target: str) -> None:
        with suppress(OSError):
            gateway.ask(target)

    with ThreadPoolExecutor(MAX_REQUESTS + 1) as clients:
        for number in range(MAX_REQUESTS):
            clients.submit(send, f"/a?{number}")
        begun = lambda: len(list(gateway.folder.glob("began-a-*")))  # noqa: E731
        wait_until(lambda: begun() == MAX_REQUESTS, "all are in flight")
        clients.submit(send, "/b?last")
        wait_until((gateway.folder / "began-b-last").exists, "the last is in flight")
        os.kill(worker, signal.SIGSEGV)
        wait_until(lambda: answers(gateway, "/a"), "another worker serves")
    assert "a fault of the gateway's own" not in gateway.log_text


# --- names that are no text --------------------------------------------------------------------

# of the process, which /proc shows: any bytes
NAMED = """
import pathlib, time
pathlib.Path("/proc/self/comm").write_bytes(b"\\xff\\xfe) S")
"""


def test_a_worker_that_hangs_is_ended_whatever_its_name_is(start: Start) -> None:
    hang = NAMED + (
        "def app(environ, start_response):\n"
        "    while environ['QUERY_STRING']:\n        pass\n"
        "    start_response('200 OK', [])\n    return [b'']\n"
    )
    gateway = start("  /: hang:app\n", MANUAL + "  block_timeout: 1s\n", hang=hang)
    with suppress(OSError):
        gateway.ask("/?hang")
    wait_until(lambda: answers(gateway, "/"), "another worker serves")
    assert "(server.block_timeout)" in gateway.log_text
    assert "a fault of the gateway's own" not in gateway.log_text


def test_workers_that_wait_keep_none_from_loading_whatever_their_names_are(start: Start) -> None:
    waits = NAMED + (
        "here = pathlib.Path(__file__).parent\n"
        "while not (here / 'go').exists():\n    time.sleep(0.01)\n"
        "from good import app\n"
    )
    names = [f"p{number}" for number in range((os.cpu_count() or 1) + 2)]
    mounts = "".join(f"  /{name}: {{app: 'waits:app', pool: {name}}}\n" for name in names)
    pools = "pools:\n" + "".join(f"  {name}: {{}}\n" for name in names)
    gateway = start("  /: good:app\n" + mounts + pools, MANUAL, waits=waits)

    def count_loading() -> int:
        generations: list[dict[str, Any]] = gateway.control("status")["generations"]
        return sum(worker["loading"] != "" for g in generations for worker in g["workers"])

    wait_until(lambda: count_loading() == len(names), "all wait for the same at a time")
    (gateway.folder / "go").touch()
    wait_until(lambda: all(answers(gateway, f"/{name}") for name in names), "all serve")
    assert "a fault of the gateway's own" not in gateway.log_text


# --- what is in the way of a new pool ------------------------------------------------------------


def test_a_pool_whose_socket_cannot_be_made_costs_that_reload_alone(start: Start) -> None:
    gateway = start("  /: good:app\n", MANUAL)
    place = gateway.folder / "control.pools" / f"{sha256(b'shop').hexdigest()[:12]}.sock"
    place.mkdir()
    # a mount of another pool comes with it, which is left again
    more = "  /q: {app: 'good:app', pool: quick}\n  /p: {app: 'good:app', pool: shop}\n"
    gateway.write_table("  /: good:app\n" + more + "pools: {quick: {}, shop: {}}\n")
    failed = gateway.control("reload")
    assert failed["exit_code"] == 2
    assert f"cannot listen on unix:{place}" in failed["messages"][0]
    assert answers(gateway, "/")
    place.rmdir()
    assert gateway.control("reload")["exit_code"] == 0
    wait_until(lambda: answers(gateway, "/p") and answers(gateway, "/q"), "both pools serve")
    assert "Warning" not in gateway.log_text
    assert "a fault of the gateway's own" not in gateway.log_text


# --- workers that do not hear -------------------------------------------------------------------

# once it has loaded, and before it is asked to accept, its loop does not turn any more
STUCK = """
import pathlib
import gevent
from gateway import lifecycle
from good import app
def hold():
    while lifecycle.state() == "loading":
        gevent.sleep(0)
    while pathlib.Path(__file__).with_name("stuck").exists():
        pass
gevent.spawn(hold)
"""


def test_a_worker_that_has_loaded_and_never_accepts_is_ended(start: Start) -> None:
    server = MANUAL + "  block_timeout: 2s\n"
    gateway = start("  /: good:app\n  /s: {app: 'stuck:app', pool: own}\n", server, stuck=STUCK)
    wait_until(lambda: answers(gateway, "/s"), "the pool serves")
    gateway.write("stuck", "")
    failed = send_command(gateway.folder / "control.sock", "reload", patience_seconds=WAIT_SECONDS)
    assert failed["exit_code"] == 3
    assert "(it did not accept within 2 s)" in "\n".join(failed["messages"])
    assert answers(gateway, "/s")
    (gateway.folder / "stuck").unlink()
    assert gateway.control("reload")["exit_code"] == 0


# --- commands ----------------------------------------------------------------------------------

# of its first answers the line of the status has no end
BABBLES = """
import socketserver, sys
answered = []
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        while self.rfile.readline().strip():
            pass
        answered.append(1)
        line = b"x" * 200_000 if len(answered) < 4 else b"HTTP/1.1 204 No Content"
        self.wfile.write(line + b"\\r\\nConnection: close\\r\\n\\r\\n")
socketserver.ThreadingUnixStreamServer(sys.argv[1], Handler).serve_forever()
"""


def test_a_command_that_answers_nonsense_for_a_while_is_asked_again(start: Start) -> None:
    mounts = "  /: good:app\n  /c: {upstream: 'pool:cmd', health: /well}\n"
    pools = "pools:\n  cmd: {command: 'python babbles.py {socket}'}\n"
    gateway = start(mounts + pools, MANUAL, babbles=BABBLES)
    wait_until(lambda: gateway.ask("/c")[9:12] == b"204", "it serves")
    assert "a fault of the gateway's own" not in gateway.log_text
    assert "did not load" not in gateway.log_text


CAP_KILL, CAP_SETPCAP, PR_CAPBSET_DROP = 5, 8, 24


def has_capability(number: int) -> bool:
    status = Path("/proc/self/status").read_text()
    return bool(int(status.partition("CapEff:")[2].split()[0], 16) >> number & 1)


def drop_kill() -> None:
    """What is started from here on may end no process of another user."""
    assert ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_KILL, 0, 0, 0) == 0


@pytest.mark.skipif(
    os.geteuid() != 0 or not has_capability(CAP_SETPCAP), reason="it takes root's capabilities"
)
def test_a_stop_ends_though_a_process_cannot_be_ended(start: Start) -> None:
    mounts = "  /: good:app\n  /c: {upstream: 'pool:cmd'}\n"
    pools = "pools:\n  cmd: {command: 'sh -c \"sleep 600\" {socket}', user: nobody}\n"
    server = MANUAL + "  drain_timeout: 1s\n"
    gateway = start(mounts + pools, server, before=drop_kill)
    front = find_worker(gateway, "main")
    [sleeper] = wait_until(lambda: find_commands(gateway), "the command runs")
    try:
        gateway.process.send_signal(signal.SIGTERM)
        gateway.process.wait(2 * WAIT_SECONDS)
        assert f"processes that cannot be ended are left: {sleeper}" in gateway.log_text
        assert not Path(f"/proc/{front}").exists()
    finally:
        os.killpg(sleeper, signal.SIGKILL)


def find_commands(gateway: Running) -> list[int]:
    generations = gateway.control("status")["generations"]
    return [w["pid"] for g in generations if g["pool"] == "cmd" for w in g["workers"]]


# --- watching ----------------------------------------------------------------------------------


def test_code_is_watched_again_once_its_directory_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not there at first; later another one takes its place."""
    directory, module = tmp_path / "site", tmp_path / "site" / "app.py"
    config = replace(CONFIG, directory=directory)
    seen: list[Path] = []

    async def note(paths: list[Path]) -> None:
        seen.extend(paths)

    async def save_until_seen() -> None:
        seen.clear()
        ends = time.monotonic() + WAIT_SECONDS
        while module not in seen:
            assert time.monotonic() < ends, "the save was never seen"
            module.write_text(f"# {time.monotonic()}")
            await asyncio.sleep(0.05)

    async def run() -> None:
        watching = asyncio.create_task(watch_code(lambda: config, note))
        while "code is not watched" not in caplog.text:
            await asyncio.sleep(0.01)
        directory.mkdir()
        await save_until_seen()
        directory.rename(tmp_path / "before")
        directory.mkdir()
        await save_until_seen()
        watching.cancel()
        await asyncio.wait([watching])

    caplog.set_level("INFO")
    asyncio.run(run())
    assert f"{directory} is another directory now" in caplog.text or (
        caplog.text.count("code is not watched") > 1
    )


def test_a_save_whose_reload_fails_in_an_unexpected_way_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Reloads are not known to do so: this one is made up."""
    table, tried = tmp_path / "mounts.yaml", []
    table.touch()

    async def run() -> None:
        is_done = asyncio.Event()

        async def reload(_: float = 0.0) -> None:
            tried.append(1)
            if len(tried) % 2:
                raise LookupError("at the first try")
            is_done.set()

        for watching in (
            asyncio.create_task(watch_file(str(table), reload)),
            asyncio.create_task(watch_files(lambda: [str(table)], reload)),
        ):
            is_done.clear()
            while not is_done.is_set():
                if not len(tried) % 2:
                    table.write_text(f"# {time.monotonic()}")
                with suppress(TimeoutError):
                    await asyncio.wait_for(is_done.wait(), 1)
            watching.cancel()
            await asyncio.wait([watching])

    asyncio.run(asyncio.wait_for(run(), 2 * WAIT_SECONDS))
    assert caplog.text.count("has failed; it begins again") >= 2


# --- the rule itself: here nothing real can be had, so that work which fails is made up ---------


def test_a_look_that_fails_rests_and_comes_again(caplog: pytest.LogCaptureFixture) -> None:
    looks: list[str] = []

    def fail() -> None:
        looks.append("fails")
        raise LookupError("at each look")

    look, other = guard(fail), guard(lambda: looks.append("goes on"))
    for _ in range(3):
        look()
        other()
    assert looks == ["fails", *["goes on"] * 3]
    assert caplog.text.count("LookupError: at each look") == 2  # the entry and its traceback
    wait_until(lambda: look() or looks.count("fails") == 3, "it comes again, and later each time")
    assert "again in 0.2 s" in caplog.text


def test_a_look_that_succeeds_again_is_as_if_it_had_never_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    looks: list[int] = []

    def fail_now_and_then() -> None:
        looks.append(1)
        if len(looks) % 2:
            raise LookupError

    look = guard(fail_now_and_then)
    wait_until(lambda: look() or len(looks) >= 5, "it comes again")
    assert caplog.text.count("again in 0.1 s") == 3
    assert "again in 0.2 s" not in caplog.text


def test_a_step_that_fails_keeps_nobody_from_the_next(caplog: pytest.LogCaptureFixture) -> None:
    with guarded("the first step"):
        raise LookupError("in it")
    assert "a fault of the gateway's own: the first step: LookupError: in it" in caplog.text


def test_one_that_is_cancelled_is_not_begun_again() -> None:
    begun: list[int] = []

    async def wait() -> None:
        begun.append(1)
        await asyncio.Event().wait()

    async def run() -> None:
        task = asyncio.create_task(keep_up(wait))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(run())
    assert begun == [1]


def test_a_worker_whose_end_cannot_be_noted_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever of it fails: letting go of it, its records, what its generation makes of it."""

    async def run() -> tuple[Generation, list[int]]:
        started: list[int] = []

        def start(_: Generation, __: Purpose) -> Any:
            started.append(len(started))
            return Unlucky(len(started), ProcessState.READY)

        generation = Generation(1, CONFIG, start, on_change=lambda _: [][0])  # type: ignore[index]
        generation.state = GenerationState.SERVING
        child = generation.spawn()
        child.exit_code = 0
        await asyncio.wait_for(handle_exit(generation, child, is_stopping=False), 20)
        return generation, started

    generation, started = asyncio.run(run())
    assert started == [0, 1]
    assert list(generation.processes) == [2]
    for fault in ("releasing worker 1", "the exit of worker 1", "a change of generation g1"):
        assert f"a fault of the gateway's own: {fault}" in caplog.text


class Unlucky(IdleProcess):
    """A worker of which nothing can be had but its number."""

    async def finish(self) -> None:
        raise OSError("its descriptors")

    def describe_end(self) -> str:
        raise LookupError("how it has ended")
