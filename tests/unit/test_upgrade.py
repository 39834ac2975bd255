"""Apps that take a connection over: what they find, what the client gets, ends, deadlines, records.

In greenlets and in native threads, with plain bytes and with the libraries' own objects.
"""

import copy
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import gevent
import gevent.event
import gevent.selectors
import pytest
from harness import GET, Client, Gateway, wait_until
from peer import Peer
from simple_websocket import ConnectionClosed, Server
from test_threads import CountedPool
from test_upstream_tunnel import MIB, UPGRADE, read_head
from wsproto.events import CloseConnection, Message, Ping, Pong

from gateway.http import upgrade
from gateway.limits import Limits, MountLimits
from gateway.mounts.admission import Limited, Semaphore
from gateway.mounts.threads import InThreads

ACCEPTED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
KEYS = ("werkzeug.socket", "gunicorn.socket")


@pytest.fixture(params=["greenlets", "threads"])
def run(request: Any) -> Iterator[Any]:
    """``run(app)`` is the app as a worker of that kind has it."""
    if request.param == "greenlets":
        yield lambda app: app
        return
    pool = CountedPool(4)
    yield lambda app: InThreads(app, pool)
    wait_until(lambda: not len(pool), "no thread is at work")
    pool.end()


def echo(environ: Any, start_response: Any) -> list[bytes]:
    """Takes the connection over and sends back what comes."""
    with environ["gunicorn.socket"] as connected:
        connected.sendall(ACCEPTED)
        while data := connected.recv(65536):
            connected.sendall(data)
    return []


def upgraded(gateway: Gateway, after: bytes = b"") -> Client:
    client = gateway.connect()
    client.send(UPGRADE + after)
    assert read_head(client).startswith("HTTP/1.1 101 ")
    return client


def only_record(gateway: Gateway) -> dict[str, Any]:
    wait_until(lambda: gateway.records, "the record is written")
    [record] = gateway.records
    return record


# --- bytes --------------------------------------------------------------------------------------


def test_an_app_has_the_connection_to_itself(serve: Any, run: Any) -> None:
    gateway = serve(run(echo))
    client = upgraded(gateway)
    client.send(b"ping")
    assert client._read_length(4) == b"ping"
    client.end()
    client.expect_end()
    record = only_record(gateway)
    assert (record["status"], record["bytes_in"]) == (101, 4)
    assert record["bytes_out"] == len(ACCEPTED) + 4
    assert "error" not in record


def test_what_came_with_the_head_is_given_first(serve: Any, run: Any) -> None:
    client = upgraded(serve(run(echo)), b"eager")
    client.send(b" and late")
    assert client._read_length(14) == b"eager and late"
    client.close()


def test_much_goes_both_ways_at_once(serve: Any, run: Any) -> None:
    client = upgraded(serve(run(echo)))
    sent = bytes(range(256)) * 4096
    sending = gevent.spawn(client.send, *[sent[i : i + 65536] for i in range(0, MIB, 65536)])
    assert client._read_length(MIB) == sent
    sending.join()
    client.close()


def test_what_was_written_last_arrives_before_the_end(serve: Any, run: Any) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        with environ["werkzeug.socket"] as connected:
            connected.sendall(ACCEPTED + bytes(4 * MIB))
        return []

    client = upgraded(serve(run(app)))
    assert client._read_length(4 * MIB) == bytes(4 * MIB)
    client.expect_end()


def test_the_status_is_what_the_app_wrote(serve: Any, run: Any) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        with environ["werkzeug.socket"] as connected:
            connected.sendall(b"HTTP/1.")
            connected.sendall(b"1 400 Bad Request\r\n\r\n")
        return []

    gateway = serve(run(app))
    client = gateway.connect()
    client.send(UPGRADE)
    assert read_head(client).startswith("HTTP/1.1 400 ")
    client.expect_end()
    assert only_record(gateway)["status"] == 400


def ends_with_an_answer(environ: Any, start_response: Any) -> list[bytes]:
    echo(environ, start_response)
    start_response("200 OK", [])(b"written")
    return [b"a second answer"]


def ends_with_an_iterator(environ: Any, start_response: Any) -> Any:
    yield from ends_with_an_answer(environ, start_response)


def ends_as_gunicorn_expects(environ: Any, start_response: Any) -> Any:
    echo(environ, start_response)
    raise StopIteration


def ends_as_werkzeug_expects(environ: Any, start_response: Any) -> Any:
    echo(environ, start_response)
    raise ConnectionError


ENDS = [
    ends_with_an_answer,
    ends_with_an_iterator,
    ends_as_gunicorn_expects,
    ends_as_werkzeug_expects,
]


@pytest.mark.parametrize("app", ENDS)
def test_what_the_app_ends_with_is_no_second_answer(
    serve: Any, run: Any, app: Any, caplog: Any
) -> None:
    gateway = serve(run(app))
    client = upgraded(gateway, b"x")
    assert client._read_length(1) == b"x"
    client.end()
    client.expect_end()
    record = only_record(gateway)
    assert (record["status"], record.get("error")) == (101, None)
    assert not caplog.records


@pytest.mark.parametrize("app", ENDS[2:])
def test_without_the_connection_it_is_a_fault(serve: Any, run: Any, app: Any) -> None:
    def declining(environ: Any, start_response: Any) -> Any:
        raise ConnectionError if app is ends_as_werkzeug_expects else StopIteration

    gateway = serve(run(declining))
    assert gateway.ask(UPGRADE).status == 500
    assert only_record(gateway)["error"]


def test_a_fault_of_an_app_that_has_the_connection_is_logged(
    serve: Any, run: Any, caplog: Any
) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        with environ["gunicorn.socket"] as connected:
            connected.sendall(ACCEPTED + b"first")
            raise RuntimeError("broken")

    gateway = serve(run(app))
    client = upgraded(gateway)
    assert client._read_length(5) == b"first"
    client.expect_end()
    record = only_record(gateway)
    assert (record["status"], record["error"]) == (101, "RuntimeError: broken")
    [logged] = caplog.records
    assert "RuntimeError: broken" in logged.getMessage()


def test_an_app_that_sends_nothing_is_at_fault(serve: Any, run: Any, caplog: Any) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        environ["gunicorn.socket"].close()
        return []

    gateway = serve(run(app))
    client = gateway.connect()
    client.send(UPGRADE)
    client.expect_end()
    assert "sent nothing" in only_record(gateway)["error"]


# --- the offer ----------------------------------------------------------------------------------


def test_an_app_that_leaves_it_alone_answers_as_ever(serve: Any, run: Any) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        offered = environ["gunicorn.socket"]
        assert environ["werkzeug.socket"] is offered
        assert "object at" in repr(offered)
        assert offered.getpeername()[0] == environ["REMOTE_ADDR"]
        assert copy.copy(environ)["gunicorn.socket"] is offered
        assert not hasattr(offered, "__len__")
        start_response("426 Upgrade Required", [])
        return [b"no"] if environ["PATH_INFO"] == "/chat" else iter([b"n", b"o"])

    gateway = serve(run(app))
    client = gateway.connect()
    for target in (b"/chat", b"/other"):
        answer = client.ask(UPGRADE.replace(b"/chat", target))
        assert (answer.status, answer.content) == (426, b"no")
    client.expect_open()


@pytest.mark.parametrize(
    "request_",
    [
        GET,
        UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0"),
        UPGRADE.replace(b"keep-alive, Upgrade", b"keep-alive"),
        UPGRADE.replace(b": websocket", b": h2c"),
        UPGRADE.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\n\r\nx"),
    ],
)
def test_it_is_offered_for_an_upgrade_alone(serve: Any, run: Any, request_: bytes) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [" ".join(key for key in environ if "socket" in key.lower()).encode()]

    found = serve(run(app)).ask(request_).content
    assert b".socket" not in found
    assert b"wsgi.websocket" not in found


def test_it_cannot_be_taken_once_the_response_has_begun(serve: Any, run: Any) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "5")])
        yield b"fi"
        with pytest.raises(RuntimeError, match="has begun"):
            environ["gunicorn.socket"].send(b"x")
        yield b"rst"

    assert serve(run(app)).ask(UPGRADE).content == b"first"


def test_it_cannot_be_taken_after_the_request(serve: Any, run: Any) -> None:
    kept = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        kept.append(environ["gunicorn.socket"])
        start_response("200 OK", [])
        return [b"done"]

    gateway = serve(app if run(app) is app else run(app))
    client = gateway.connect()
    assert client.ask(UPGRADE).content == b"done"
    errors: list[BaseException] = []

    def use() -> None:
        try:
            kept[0].sendall(b"late")
        except OSError as error:
            errors.append(error)

    if run(app) is app:
        use()
    else:
        user = threading.Thread(target=use)
        user.start()
        wait_until(lambda: not user.is_alive(), "it was refused")
    assert len(errors) == 1
    client.expect_open()


def test_a_place_is_taken_until_the_app_is_done(serve: Any) -> None:
    semaphore = Semaphore("mount /")
    gateway = serve(Limited(echo, semaphore))
    client = upgraded(gateway)
    assert semaphore._running == 1
    client.end()
    client.expect_end()
    assert semaphore._running == 0


# --- ends and deadlines -------------------------------------------------------------------------


def waits(ended: list[str]) -> Any:
    """An app that sends nothing more, and notes its end."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        with environ["gunicorn.socket"] as connected:
            connected.sendall(ACCEPTED)
            try:
                ended.append(repr(connected.recv(10)))
            except BaseException as error:
                ended.append(type(error).__name__)
                raise
        return []

    return app


def test_silence_has_a_time_of_its_own(serve: Any, run: Any) -> None:
    ended: list[str] = []
    limits = MountLimits(timeout_seconds=1.0, tunnel_timeout_seconds=60.0)
    gateway = serve(run(waits(ended)), mount_limits=limits)
    client = upgraded(gateway)
    gateway.pass_time(0)
    gateway.pass_time(59)
    client.expect_open()
    gateway.pass_time(61)
    client.expect_end()
    record = only_record(gateway)
    assert (record["status"], record["error"]) == (101, "no byte moved for 60 s")
    wait_until(lambda: ended, "the app hears of it")


def test_a_drain_ends_it_after_its_time(serve: Any, run: Any) -> None:
    ended: list[str] = []
    gateway = serve(run(waits(ended)))
    client = upgraded(gateway)
    assert gateway.server.drain(0.05) == 1
    client.expect_end()
    record = only_record(gateway)
    assert (record["status"], record["error"]) == (101, "cut: drain_timeout has passed")
    wait_until(lambda: ended, "the app hears of it")


def test_a_client_that_vanishes_is_the_end_of_input(serve: Any, run: Any) -> None:
    ended: list[str] = []
    gateway = serve(run(waits(ended)))
    client = upgraded(gateway)
    client.close()
    wait_until(lambda: ended == ["b''"], "the app hears of it")
    only_record(gateway)


def test_a_client_that_reads_nothing_is_given_up(serve: Any, run: Any) -> None:
    ended: list[str] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        with environ["gunicorn.socket"] as connected:
            connected.sendall(ACCEPTED)
            try:
                while True:
                    connected.sendall(bytes(MIB))
            except BaseException as error:
                ended.append(type(error).__name__)
                raise

    gateway = serve(run(app), limits=Limits(send_timeout_seconds=5.0))
    client = gateway.connect(buffer_bytes=4096)
    client.send(UPGRADE)
    connection = gateway.connection
    wait_until(lambda: connection.state.value == "writing", "it waits for the client")
    gateway.pass_time(6)
    wait_until(lambda: ended, "the app hears of it")
    assert only_record(gateway)["status"] == 101


# --- simple-websocket ---------------------------------------------------------------------------


def talk(gateway: Any) -> tuple[Peer, Client]:
    client = gateway.connect()
    peer = Peer(client._socket, "/chat")
    assert peer.accepted
    return peer, client


class GreenletThread(gevent.Greenlet):
    """What a ``threading.Thread`` is in a worker that is patched."""

    def __init__(self, target: Any) -> None:
        super().__init__(target)
        self.name = ""


@pytest.fixture
def options(run: Any) -> dict[str, Any]:
    """What simple-websocket runs and waits with: as python-engineio's gevent mode has it, or as in
    an unpatched process."""
    if run(echo) is not echo:
        return {}
    classes = GreenletThread, gevent.event.Event, gevent.selectors.DefaultSelector
    return dict(zip(("thread_class", "event_class", "selector_class"), classes, strict=True))


def test_simple_websocket_takes_it_over(serve: Any, run: Any, options: Any) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        """As flask-sock does: an ordinary answer at the end."""
        websocket = Server.accept(environ, **options)
        try:
            while True:
                websocket.send(websocket.receive())
        except ConnectionClosed:
            pass
        start_response("200 OK", [])
        return [b""]

    gateway = serve(run(app))
    peer, client = talk(gateway)
    peer.send(Message("grüße", message_finished=False))
    peer.send(Ping(b"?"))
    assert peer.next() == Pong(b"?")
    peer.send(Message(" an alle"))
    assert peer.message() == "grüße an alle"
    peer.send(Message(bytes(MIB)))
    assert peer.message() == bytes(MIB)
    peer.send(CloseConnection(4000, "enough"))
    closed = peer.next()
    assert (closed.code, closed.reason) == (4000, "enough")
    client.expect_end()
    record = only_record(gateway)
    assert (record["status"], record.get("error")) == (101, None)


def test_simple_websocket_asks_whether_the_client_is_there(
    serve: Any, run: Any, options: Any
) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        websocket = Server.accept(environ, ping_interval=0.05, **options)
        with suppress(ConnectionClosed):
            websocket.receive()
        return []

    gateway = serve(run(app))
    peer, client = talk(gateway)
    assert isinstance(peer.next(), Ping)
    client.close()
    only_record(gateway)


# --- gevent-websocket ---------------------------------------------------------------------------


def test_gevent_websocket_has_its_object(serve: Any, run: Any) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        websocket = environ["wsgi.websocket"]
        while (message := websocket.receive()) is not None:
            websocket.send(message)
        return []

    gateway = serve(run(app))
    peer, client = talk(gateway)
    peer.send(Message("grüße"))
    assert peer.message() == "grüße"
    peer.send(Message(bytes(70_000)))
    assert peer.message() == bytes(70_000)
    peer.send(CloseConnection(1000))
    assert isinstance(peer.next(), CloseConnection)
    client.expect_end()
    record = only_record(gateway)
    assert (record["status"], record.get("error")) == (101, None)


def test_gevent_websocket_is_closed_behind_its_app(serve: Any, run: Any) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        environ["wsgi.websocket"].send("only this")
        return []

    peer, client = talk(serve(run(app)))
    assert peer.message() == "only this"
    assert isinstance(peer.next(), CloseConnection)
    client.expect_end()


@pytest.mark.parametrize("closes", [True, False])
def test_gevent_websocket_s_connection_ends_with_its_app(
    serve: Any, run: Any, monkeypatch: pytest.MonkeyPatch, closes: bool
) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        environ["wsgi.websocket"].send("only this")
        if closes:
            environ["wsgi.websocket"].close()
        return []

    monkeypatch.setattr(upgrade, "GRACE_SECONDS", 1000)
    peer, client = talk(serve(run(app)))
    assert peer.message() == "only this"
    assert isinstance(peer.next(), CloseConnection)
    client.expect_end()


def test_gevent_websocket_that_another_one_still_reads_ends_with_its_app(
    serve: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_greenlets = run(echo) is echo
    reads = gevent.event.Event() if in_greenlets else threading.Event()
    received: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        websocket = environ["wsgi.websocket"]
        websocket.send("only this")
        kind = GreenletThread if in_greenlets else threading.Thread
        kind(target=partial(receive, websocket)).start()
        reads.wait()
        return []

    def receive(websocket: Any) -> None:
        reads.set()
        received.append(websocket.receive())

    monkeypatch.setattr(upgrade, "GRACE_SECONDS", 1000)
    peer, client = talk(serve(run(app)))
    assert peer.message() == "only this"
    assert isinstance(peer.next(), CloseConnection)
    client.expect_end()
    wait_until(lambda: received == [None], "the other one sees the end")


def test_gevent_websocket_that_nobody_uses_is_silent(serve: Any, run: Any) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        assert environ.pop("wsgi.websocket") is not None
        start_response("403 Forbidden", [])
        return [b"no"]

    gateway = serve(run(app))
    client = gateway.connect()
    request = UPGRADE.replace(b"Key: AAAA", b"Key: AAAAAAAAAAAAAAAAAAAAAA==")
    assert client.ask(request).status == 403
    client.expect_open()


@pytest.mark.parametrize("wrong", [b"Key: AAAA", b"Version: 99"])
def test_a_broken_handshake_gets_no_object(serve: Any, run: Any, wrong: bytes) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [str("wsgi.websocket" in environ).encode()]

    good = UPGRADE.replace(b"Key: AAAA", b"Key: AAAAAAAAAAAAAAAAAAAAAA==")
    name = wrong.partition(b":")[0]
    bad = b"\r\n".join(
        b"Sec-WebSocket-" + wrong if line.startswith(b"Sec-WebSocket-" + name) else line
        for line in good.split(b"\r\n")
    )
    gateway = serve(run(app))
    assert gateway.ask(good).content == b"True"
    assert gateway.ask(bad).content == b"False"
