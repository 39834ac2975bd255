"""The real engine in this process, without a port: clients come in over socketpairs.

``Gateway`` runs ``Service``, ``Server`` and ``Connection`` on the test's own hub, nothing patched;
``Client`` sends raw bytes and reads answers as strictly as RFC 9112 is written. At its end a
gateway tells of what a test must not leave behind: open connections, greenlets, errors in the hub.
"""

import gc
import json
import os
import re
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gevent
from gevent import get_hub
from gevent import socket as gevent_socket
from greenlet import getcurrent, greenlet

from gateway.access_log import AccessLog
from gateway.http.connection import Connection
from gateway.http.dispatch import LoadedMount, MountTable
from gateway.http.environ import build_base_environ
from gateway.http.forwarded import TrustedProxies
from gateway.http.server import Server
from gateway.http.service import Service
from gateway.http.states import CONNECTION, State
from gateway.inflight import InFlight
from gateway.limits import Limits, MountLimits
from gateway.states import IllegalTransitionError
from gateway.wsgi import WSGIApp

WAIT_SECONDS = 20.0
PEER = "192.0.2.7"  # RFC 5737: an address of documentation
GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-9][0-9]{2}) ([\t\x20-\x7e\x80-\xff]*)")
_FIELD_LINE = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ?((?:[\x21-\x7e\x80-\xff][\t\x20-\x7e\x80-\xff]*)?)"
)
_CHUNK_LINE = re.compile(rb"[0-9a-f]{1,16}")
_DATE = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT")


# transitions of connections that their table does not have
_illegal: list[str] = []


def _refuse(old: State, new: State, name: str) -> None:
    _illegal.append(f"{old} -> {new}")
    raise IllegalTransitionError(_illegal[-1])


CONNECTION.refuse = _refuse  # type: ignore[method-assign]


def wait_until(condition: Callable[[], object], what: str = "") -> None:
    """Let the hub work until ``condition()`` is true; fail after WAIT_SECONDS."""
    deadline = time.monotonic() + WAIT_SECONDS
    gevent.idle()
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what or condition}"
        gevent.sleep(0.001)


class Cut(Exception):
    """The connection ended within an answer; ``content`` is what had come of it."""

    def __init__(self, content: bytes, head: "Answer | None" = None) -> None:
        super().__init__(f"ended after {content[-200:]!r}")
        self.content = content
        self.head = head


@dataclass
class Answer:
    """A whole response. ``fields`` have lower-case names; ``framing`` is what ended the content:
    none, length, chunked or close. ``interim`` holds the 1xx answers before it."""

    status: int
    reason: str
    fields: list[tuple[str, str]]
    framing: str = "none"
    content: bytes = b""
    interim: list["Answer"] = field(default_factory=list)

    def __getitem__(self, name: str) -> str:
        [value] = [value for key, value in self.fields if key == name]
        return value

    def __contains__(self, name: str) -> bool:
        return any(key == name for key, _ in self.fields)

    @property
    def is_last(self) -> bool:
        """Whether the server says that it closes."""
        return "connection" in self and self["connection"] == "close"


class Client:
    """The other end of a connection."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = gevent_socket.socket(fileno=connected.detach())
        self._socket.settimeout(WAIT_SECONDS)
        self._received = b""

    def send(self, *pieces: bytes) -> None:
        """Send ``pieces``, each seen by the server on its own."""
        for piece in pieces:
            self._socket.sendall(piece)
            gevent.idle()

    def ask(self, *pieces: bytes, method: str = "GET") -> Answer:
        """Send a request and read its answer."""
        self.send(*pieces)
        return self.read_answer(method)

    def read_answer(self, method: str = "GET") -> Answer:
        """The next answer, with the 1xx ones before it. Raises Cut; fails where it is malformed."""
        interim: list[Answer] = []
        while (answer := self._read_head()).status < 200:
            interim.append(answer)
        answer.interim = interim
        assert _DATE.fullmatch(answer["date"])
        has_length, has_coding = "content-length" in answer, "transfer-encoding" in answer
        assert not (has_length and has_coding)
        if method == "HEAD" or answer.status in (204, 304):
            assert answer.status != 204 or not (has_length or has_coding)  # RFC 9110 §8.6
            return answer
        read = self._read_chunks if has_coding else self._read_to_end
        answer.framing = "chunked" if has_coding else "close"
        if has_length:
            assert re.fullmatch("[0-9]+", answer["content-length"])
            answer.framing = "length"
            read = partial(self._read_length, int(answer["content-length"]))
        assert not has_coding or answer["transfer-encoding"] == "chunked"
        assert answer.framing != "close" or answer.is_last
        try:
            answer.content = read()
        except Cut as cut:
            raise Cut(cut.content, answer) from None
        return answer

    def _read_head(self) -> Answer:
        lines: list[bytes] = []
        while not lines or lines[-1]:
            lines.append(self._read_line())
        found = _STATUS_LINE.fullmatch(lines[0])
        assert found is not None, f"not a status line: {lines[0]!r}"
        fields: list[tuple[str, str]] = []
        for line in lines[1:-1]:
            parts = _FIELD_LINE.fullmatch(line)
            assert parts is not None, f"not a field line: {line!r}"
            fields.append((parts[1].decode().lower(), parts[2].decode("latin-1")))
        return Answer(int(found[1]), found[2].decode("latin-1"), fields)

    def _read_line(self) -> bytes:
        while b"\n" not in self._received:
            self._more()
        line, _, self._received = self._received.partition(b"\n")
        assert line.endswith(b"\r")
        assert b"\r" not in line[:-1]
        return line[:-1]

    def _read_length(self, size: int) -> bytes:
        while len(self._received) < size:
            self._more()
        content, self._received = self._received[:size], self._received[size:]
        return content

    def _read_chunks(self) -> bytes:
        content = b""
        while True:
            try:
                line = self._read_line()
                assert _CHUNK_LINE.fullmatch(line), f"not a chunk size: {line!r}"
                content += self._read_length(int(line, 16))
                assert self._read_line() == b""
            except Cut as cut:
                raise Cut(content + cut.content) from None
            if not int(line, 16):
                return content

    def _read_to_end(self) -> bytes:
        content = b""
        while True:
            try:
                self._more()
            except Cut as cut:
                return content + cut.content

    def _more(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            rest, self._received = self._received, b""
            raise Cut(rest)
        self._received += data

    def expect_end(self) -> None:
        """The server closes now, in order, and has sent nothing more."""
        assert not self._received
        assert self._socket.recv(65536) == b""

    def expect_open(self) -> None:
        """Nothing more has come, and the connection is not closed."""
        gevent.idle()
        assert not self._received
        self._socket.settimeout(0)
        try:
            data = self._socket.recv(1)
        except BlockingIOError:
            return
        finally:
            self._socket.settimeout(WAIT_SECONDS)
        raise AssertionError(f"the server sent {data!r}" if data else "the server closed")

    def end(self) -> None:
        """Send no more; still read (a half-close)."""
        self._socket.shutdown(socket.SHUT_WR)
        gevent.idle()

    def close(self) -> None:
        self._socket.close()
        gevent.idle()


class Listener:
    """A listening socket without a port: what is to be accepted travels over a socketpair."""

    family, type, proto = socket.AF_INET, socket.SOCK_STREAM, 0

    def __init__(self) -> None:
        self._queue, self._backlog = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    def connect(self, peer: str, *, buffer_bytes: int = 0) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            if buffer_bytes:
                theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
            socket.send_fds(self._queue, [peer.encode()], [theirs.fileno()])
        return ours

    def fileno(self) -> int:
        return self._backlog.fileno()

    def setblocking(self, flag: bool) -> None:
        self._backlog.setblocking(flag)

    def setsockopt(self, *_: int) -> None:
        pass

    def _accept(self) -> tuple[int, tuple[str, int]]:
        peer, [descriptor], _, _ = socket.recv_fds(self._backlog, 256, 1)
        return descriptor, (peer.decode(), 50000)

    def close(self) -> None:
        self._queue.close()
        self._backlog.close()


class TcpListener(Listener):
    """The same, of real TCP connections."""

    def connect(self, peer: str, *, buffer_bytes: int = 0) -> socket.socket:
        assert not buffer_bytes
        with socket.create_server(("127.0.0.1", 0)) as server:
            ours = socket.create_connection(server.getsockname())
            theirs, _ = server.accept()
        with theirs:
            # as what the real one accepts inherits it
            theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            socket.send_fds(self._queue, [peer.encode()], [theirs.fileno()])
        return ours


class Gateway:
    """Serves ``mounts``, an app or apps by prefix ("/" is the root), until it is closed."""

    def __init__(
        self,
        mounts: WSGIApp | Mapping[str, WSGIApp],
        *,
        limits: Limits | None = None,
        mount_limits: MountLimits | None = None,
        trusted_proxies: tuple[Any, ...] = (),
        access_log: str = "json",
        proxy_protocol: bool = False,
        in_flight: InFlight | None = None,
        listener: Listener | None = None,
    ) -> None:
        _illegal.clear()  # tests of the table itself make some
        if not isinstance(mounts, Mapping):
            mounts = {"/": mounts}
        table = MountTable(
            LoadedMount(
                name=key,
                host=None,
                prefix=key.rstrip("/"),
                app=app,
                limits=mount_limits or MountLimits(),
            )
            for key, app in mounts.items()
        )
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        self._logged_bytes = 0  # of it, in self._records
        self._records: list[dict[str, Any]] = []
        self.listener = listener or Listener()
        self.service = Service(
            table=table,
            base_environ=build_base_environ("gateway.example", "80", ()),
            limits=limits or Limits(),
            proxies=TrustedProxies(trusted_proxies),
            access_log=AccessLog(access_log, self._log.fileno()),
            in_flight=in_flight,
        )
        self.server = Server(
            self.listener,  # type: ignore[arg-type]
            self.service,
            proxy_protocol=proxy_protocol,
        )
        self._clients: list[Client] = []
        self._hub_errors: list[BaseException] = []
        gc.freeze()  # from here on gc knows only what this gateway brings about
        get_hub().handle_error = self._note_hub_error
        self.server.start()

    def _note_hub_error(self, context: object, kind: Any, error: Any, traceback: Any) -> None:
        self._hub_errors.append(error if isinstance(error, BaseException) else kind(error))

    def connect(self, peer: str = PEER, *, buffer_bytes: int = 0) -> Client:
        """A new client; ``buffer_bytes`` bounds what the kernel takes of an answer unread."""
        client = Client(self.listener.connect(peer, buffer_bytes=buffer_bytes))
        self._clients.append(client)
        gevent.idle()
        return client

    def ask(self, *pieces: bytes, method: str = "GET") -> Answer:
        """One request on a connection of its own."""
        client = self.connect()
        answer = client.ask(*pieces or (GET,), method=method)
        client.close()
        return answer

    @property
    def connection(self) -> Connection:
        """The only one."""
        [connection] = self.service.connections
        return connection

    @property
    def records(self) -> list[dict[str, Any]]:
        """The access records so far."""
        gevent.idle()
        text = os.pread(self._log.fileno(), 1 << 24, self._logged_bytes)
        self._logged_bytes += len(text)
        lines = text.split(b"\n")
        assert lines.pop() == b""
        self._records += map(json.loads, lines)
        return self._records.copy()

    def pass_time(self, seconds: float) -> None:
        """Let every connection believe that ``seconds`` have gone by; deadlines fire."""
        now = time.monotonic() + seconds
        for connection in tuple(self.service.connections):
            get_hub().loop.run_callback(connection.sweep, now, self.service.limits)
        gevent.idle()

    def close(self) -> None:
        """End it, and fail where something is left behind."""
        try:
            for client in self._clients:
                client.close()
            wait_until(lambda: not self.service.connections, "all connections are closed")
            self.service.greenlets.close()
            parked = self.service.greenlets._parked
            wait_until(lambda: set(_live_greenlets()) <= set(parked), "no greenlet runs any more")
            assert not self._hub_errors
            assert not _illegal
        finally:
            self.server.drain(0)
            self.server._turn_end.stop()
            self._end_parked()
            self.listener.close()
            self._log.close()
            _illegal.clear()
            del get_hub().handle_error
            gc.collect()  # ResourceWarning is an error, and belongs to this test
            gc.unfreeze()

    def _end_parked(self) -> None:
        for runner in tuple(self.service.greenlets._parked):
            runner.parent = getcurrent()
            runner.throw()


def _live_greenlets() -> list[greenlet]:
    standing = {get_hub(), getcurrent()}
    return [
        each
        for each in gc.get_objects()
        if issubclass(type(each), greenlet) and not each.dead and each not in standing
    ]
