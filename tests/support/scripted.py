"""Servers that answer as a test says, byte by byte, each connection in a thread of its own.

``Scripted`` listens on a Unix socket, or on a TCP port that the kernel chose. The n-th connection
runs the n-th script, and those after them the last. What a script fails with, ``close`` raises.
"""

import select
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

WAIT_SECONDS = 20.0
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"


class Peer:
    """The server's end of a connection."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._received = b""

    def read_head(self) -> str:
        """A request's head, without the empty line."""
        while b"\r\n\r\n" not in self._received:
            self._more()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        return head.decode("latin-1")

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        while len(self._received) < size:
            self._more()
        data, self._received = self._received[:size], self._received[size:]
        return data

    def read_until(self, end: bytes) -> bytes:
        """To the first ``end``, which is part of it."""
        while end not in self._received:
            self._more()
        data, _, self._received = self._received.partition(end)
        return data + end

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError(f"ended after {self._received[-200:]!r}")
        self._received += data

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.socket.sendall(piece)

    def answer(self, answer: bytes = OK) -> str:
        """Read a head and answer it; the head."""
        head = self.read_head()
        self.send(answer)
        return head

    def wait_for_end(self) -> bytes:
        """What came until the gateway closed."""
        with suppress(ConnectionResetError):
            while True:
                try:
                    self._more()
                except EOFError:
                    break
        return self._received

    def wait_for_close(self) -> None:
        """Until the gateway closes, reading nothing of what it sends."""
        poller = select.poll()
        poller.register(self.socket, select.POLLRDHUP)
        assert poller.poll(WAIT_SECONDS * 1000)

    def reset(self) -> None:
        """Close with a RST, where the socket is TCP's."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


Script = Callable[[Peer], object]


class Scripted:
    """``address`` is what a table would say, ``connections`` how many have been accepted."""

    def __init__(self, *scripts: Script, tcp: bool = False) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._scripts = scripts
        if tcp:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        else:
            path = str(Path(self._folder.name) / "s")
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(path)
            self._listener.listen()
            self.address = f"unix:{path}"
        self.connections = 0
        self._open: list[socket.socket] = []
        self._failures: list[BaseException] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connected, _ = self._listener.accept()
            except OSError:
                return
            script = self._scripts[min(self.connections, len(self._scripts) - 1)]
            self.connections += 1
            self._open.append(connected)
            thread = threading.Thread(target=self._run, args=(script, connected))
            self._threads.append(thread)
            thread.start()

    def _run(self, script: Script, connected: socket.socket) -> None:
        connected.settimeout(WAIT_SECONDS)
        with connected:
            try:
                script(Peer(connected))
            except EOFError:
                pass  # the gateway has closed what it kept
            except BaseException as error:  # noqa: BLE001
                self._failures.append(error)

    def refuse(self) -> None:
        """From now on nobody listens there."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def close(self) -> None:
        self.refuse()
        for connected in self._open:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RD)  # whoever waits for a next request
        for thread in tuple(self._threads):
            thread.join(WAIT_SECONDS)
            assert not thread.is_alive(), "a script waits for something that never comes"
        self._folder.cleanup()
        if self._failures:
            raise self._failures[0]


def keep_answering(answer: bytes = OK) -> Script:
    """A script: every request without content gets ``answer``."""

    def script(peer: Peer) -> None:
        while True:
            peer.answer(answer)

    return script


@contextmanager
def scripted(*scripts: Script, tcp: bool = False) -> Iterator[Scripted]:
    """A ``Scripted`` that is closed at the end."""
    server = Scripted(*scripts, tcp=tcp)
    try:
        yield server
    finally:
        server.close()
