"""Clients that ask without a pause and check every byte of every answer, while something else is
tested.

Owns their connections, in one thread of its own. Refuses to know what is done to the server
meanwhile; it has the app of ``mirror.py`` at ``/mirror``. Source: RFC 9112 §6, §7 and §9.
"""

import hashlib
import itertools
import random
import re
import selectors
import socket
import threading
import time
from collections import Counter
from types import TracebackType

Address = tuple[str, int] | str

SIZES = (1, 100, 100, 100, 1000, 1000, 10_001, 70_001)
READ_BYTES = 256 * 1024
CONNECT_SECONDS = 5.0
# what is still in flight at the end may take as long as the longest timeout of a table
END_SECONDS = 40.0
MAX_FAULTS = 100
MAX_TRIES = 3

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2}) [^\r\n]*")
_LENGTH = re.compile(rb"\r\ncontent-length: ([0-9]+)\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: chunked\r\n", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: close\r\n", re.IGNORECASE)
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]+)\r\n")


class Load:
    """Runs from ``with`` to its end, on ``connections`` kept-alive ones to ``address``, which is a
    host and a port or the path of a Unix socket.

    ``faults`` are what was wrong, ``resets`` how many connections broke; ``answered`` counts what
    was right, by method, and ``longest`` is the longest time that took, in seconds. ``pause`` is
    waited after each turn of all connections, for where the load is not to fill the machine.
    """

    def __init__(self, address: Address, connections: int = 64, pause: float = 0.0) -> None:
        self.address = address
        self.faults: list[str] = []
        self.resets = 0
        self.answered: Counter[str] = Counter()
        self.longest = 0.0
        self._pause = pause
        self._is_ending = threading.Event()
        self._clients = [Client(self, number) for number in range(connections)]
        self._thread = threading.Thread(target=self._run, name="load")

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_ending.set()
        self._thread.join()

    def __str__(self) -> str:
        return (
            f"{dict(self.answered)} answered, the longest after {self.longest:.2f} s; "
            f"resets: {self.resets}; faults: {self.faults[:5]}"
        )

    @property
    def total(self) -> int:
        """How many answers were right so far."""
        return self.answered.total()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            asking = {client for client in self._clients if client.begin(selector)}
            ends = float("inf")
            while asking and time.monotonic() < ends:
                for key, events in selector.select(0.1):
                    client = key.data
                    if client.go_on(events, selector) or (
                        not self._is_ending.is_set() and client.begin(selector)
                    ):
                        continue
                    asking.discard(client)
                    client.close(selector)
                if self._is_ending.is_set():
                    ends = min(ends, time.monotonic() + END_SECONDS)
                time.sleep(self._pause)
            for client in asking:
                self.note_fault(f"{client.name} was not answered within {END_SECONDS:g} s")
                client.close(selector)

    def note_fault(self, fault: str) -> None:
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(fault)


class Client:
    """One of them, with one request in flight on one connection."""

    def __init__(self, load: Load, number: int) -> None:
        self._load = load
        self._chance = random.Random(number)
        self._counts = itertools.count()
        self._number = number
        self._socket: socket.socket | None = None
        self._answers = 0
        self.name = ""

    # --- asking -------------------------------------------------------------------------------

    def begin(self, selector: selectors.BaseSelector) -> bool:
        """Ask the next thing, on another connection where that breaks; whether it is asked."""
        return any(self._ask(selector) for _ in range(MAX_TRIES))

    def _ask(self, selector: selectors.BaseSelector) -> bool:
        try:
            if self._socket is None:
                self._socket = connect(self._load.address)
                self._answers = 0
                selector.register(self._socket, selectors.EVENT_READ, self)
        except OSError as error:
            self._load.note_fault(f"client {self._number} could not connect: {error!r}")
            return False
        size = self._chance.choice(SIZES)
        path = f"/mirror/{size}/{self._number}-{next(self._counts)}"
        if self._chance.random() < 0.5:
            self._method, content = "GET", b""
            self._expected = hashlib.shake_128(path.removeprefix("/mirror").encode()).digest(size)
        else:
            self._method, content = "POST", self._chance.randbytes(size)
            self._expected = content[::-1]
        self.name = f"{self._method} {path}"
        head = f"{self.name} HTTP/1.1\r\nHost: mirror\r\nContent-Length: {len(content)}\r\n\r\n"
        self._unsent = head.encode() + content
        self._received = b""
        self._began = time.monotonic()
        return self._send(selector)

    def _send(self, selector: selectors.BaseSelector) -> bool:
        """Send what can be sent; whether the connection is still there."""
        assert self._socket is not None
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError as error:
            self._break(f"{error!r} while it was sent", selector)
            return False
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        if selector.get_key(self._socket).events != wanted:
            selector.modify(self._socket, wanted, self)
        return True

    # --- being answered -----------------------------------------------------------------------

    def go_on(self, events: int, selector: selectors.BaseSelector) -> bool:
        """Write and read what can be; whether the request is still in flight."""
        assert self._socket is not None
        if events & selectors.EVENT_WRITE and not self._send(selector):
            return False
        if not events & selectors.EVENT_READ:
            return True
        try:
            data = self._socket.recv(READ_BYTES)
        except OSError as error:
            self._break(repr(error), selector)
            return False
        if not data:
            self._break("closed", selector)
            return False
        self._received += data
        return not self._take(selector)

    def _take(self, selector: selectors.BaseSelector) -> bool:
        """Check the answer if it is whole; whether it was."""
        head, separator, rest = self._received.partition(b"\r\n\r\n")
        if not separator:
            return False
        head += b"\r\n"
        content = read_content(head, rest)
        if content is None:
            return False
        found = _STATUS_LINE.match(head)
        is_right = found and found[1] == b"200" and content == self._expected and not self._unsent
        if is_right:
            self._load.answered[self._method] += 1
            self._load.longest = max(self._load.longest, time.monotonic() - self._began)
        else:
            self._load.note_fault(f"{self.name}: {head[:40]!r} with {len(content)} bytes")
        self._answers += 1
        if not is_right or _CLOSE.search(head):
            self.close(selector)
        return True

    def _break(self, how: str, selector: selectors.BaseSelector) -> None:
        self._load.resets += 1
        self._load.note_fault(
            f"{self.name}: {how} after {len(self._received)} bytes of answer {self._answers}"
        )
        self.close(selector)

    def close(self, selector: selectors.BaseSelector) -> None:
        if self._socket is not None:
            selector.unregister(self._socket)
            self._socket.close()
            self._socket = None


def connect(address: Address) -> socket.socket:
    """A connection that does not block once it is there."""
    if isinstance(address, str):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(CONNECT_SECONDS)
        try:
            connection.connect(address)
        except OSError:
            connection.close()
            raise
    else:
        connection = socket.create_connection(address, CONNECT_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setblocking(False)
    return connection


def read_content(head: bytes, rest: bytes) -> bytes | None:
    """The content of an answer with what follows it, which is to be nothing; None where it is not
    whole yet. Framing that is neither of RFC 9112 §6.3's two gives no content that is right."""
    if length := _LENGTH.search(head):
        return rest if len(rest) >= int(length[1]) else None
    if not _CHUNKED.search(head):
        return b""
    content, place = b"", 0
    while line := _CHUNK_LINE.match(rest, place):
        size = int(line[1], 16)
        chunk = rest[line.end() : line.end() + size + 2]
        place = line.end() + size + 2
        if len(chunk) < size + 2:
            return None
        if not size:
            return content + rest[place:]
        content += chunk[:-2]
    return None
