"""A plain HTTP/1.1 client that sends exactly the bytes it is given and trusts nothing it reads.

Owns one socket and the reading of answers. Refuses to know the stack. Source: RFC 9112 §4 to §7.
"""

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Address = tuple[str, int]
Field = tuple[str, str]

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [^\r\n]*\r\n")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]+)\r\n")


class CutShortError(ConnectionError):
    """The peer closed or reset the connection within an answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One response. ``fields`` as they came, ``content`` without its framing."""

    status: int
    fields: tuple[Field, ...]
    content: bytes = b""

    def __getitem__(self, name: str) -> str:
        """The value of a field, repeated ones joined by a comma; "" where there is none."""
        return ", ".join(value for key, value in self.fields if key.lower() == name.lower())

    @property
    def text(self) -> str:
        return self.content.decode()

    def json(self) -> Any:
        return json.loads(self.content)


class Connection:
    """A client's connection. ``timeout`` is the longest silence in seconds."""

    def __init__(self, address: Address, timeout: float = 10.0) -> None:
        self.socket = socket.create_connection(address, timeout)
        self._reader = self.socket.makefile("rb")

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._reader.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, target: str, method: str = "GET", *fields: Field, content: bytes = b"") -> Answer:
        """One request and its answer; the connection is kept."""
        self.send(build_request(self.host, target, method, *fields, content=content))
        return self.read_answer(method)

    @property
    def host(self) -> str:
        """The Host field of whoever means this peer."""
        host, port = self.socket.getpeername()[:2]
        return f"{host}:{port}"

    def read_answer(self, method: str = "GET") -> Answer:
        """The next final answer, whole. Raises CutShortError, TimeoutError."""
        head = self.read_head()
        return Answer(head.status, head.fields, b"".join(self.read_content(head, method)))

    def read_answers(self, *methods: str) -> list[Answer]:
        """All answers up to the close: to ``methods``, then to GETs. Raises as ``read_answer``."""
        answers: list[Answer] = []
        while not self.has_closed():
            method = methods[len(answers)] if len(answers) < len(methods) else "GET"
            answers.append(self.read_answer(method))
        return answers

    def has_closed(self) -> bool:
        """Whether the peer has closed, with nothing left to read; waits until either is known."""
        try:
            return not self._reader.peek(1)
        except ConnectionResetError:
            return True

    def read_head(self) -> Answer:
        """The head of the next final answer; interim ones (1xx) are passed over."""
        while True:
            head = self._read_one_head()
            if head.status >= 200:
                return head

    def _read_one_head(self) -> Answer:
        line = self._line()
        found = _STATUS_LINE.fullmatch(line)
        assert found, f"not a status line: {line!r}"
        fields = []
        while (line := self._line()) != b"\r\n":
            assert line.endswith(b"\r\n"), line
            name, colon, value = line.decode("latin-1").partition(":")
            assert colon, line
            fields.append((name, value.strip()))
        return Answer(int(found[1]), tuple(fields))

    def read_content(self, head: Answer, method: str = "GET") -> Iterator[bytes]:
        """The content that belongs to ``head``, in the pieces it was sent in."""
        if method == "HEAD" or head.status in (204, 304):
            return
        if head["Transfer-Encoding"]:
            assert head["Transfer-Encoding"] == "chunked"
            assert not head["Content-Length"]
            yield from self._read_chunks()
        elif head["Content-Length"]:
            yield self._exactly(int(head["Content-Length"]))
        else:
            yield self._reader.read()

    def _read_chunks(self) -> Iterator[bytes]:
        while True:
            line = self._line()
            found = _CHUNK_LINE.fullmatch(line)
            assert found, f"not a chunk size: {line!r}"
            size = int(found[1], 16)
            chunk = self._exactly(size)
            assert self._exactly(2) == b"\r\n"
            if not size:
                return
            yield chunk

    def _line(self) -> bytes:
        try:
            line = self._reader.readline(65536)
        except ConnectionResetError as error:
            raise CutShortError("reset") from error
        if not line.endswith(b"\n"):
            raise CutShortError(f"closed after {line!r}")
        return line

    def _exactly(self, size: int) -> bytes:
        try:
            data = self._reader.read(size)
        except ConnectionResetError as error:
            raise CutShortError("reset") from error
        if len(data) < size:
            raise CutShortError(f"closed {size - len(data)} bytes early")
        return data


def build_request(
    host: str, target: str, method: str = "GET", *fields: Field, content: bytes = b""
) -> bytes:
    """A request's bytes; ``Content-Length`` is added where there is content to send."""
    lines = [f"{method} {target} HTTP/1.1"]
    if not any(name.lower() == "host" for name, _ in fields):
        lines.append(f"Host: {host}")
    if content or method == "POST":
        lines.append(f"Content-Length: {len(content)}")
    lines += [f"{name}: {value}" for name, value in fields]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


def fetch(
    address: Address, target: str, method: str = "GET", *fields: Field, content: bytes = b""
) -> Answer:
    """One request on a connection of its own."""
    with Connection(address) as connection:
        return connection.ask(target, method, *fields, content=content)


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 15.0) -> Any:
    """The first true value of ``condition``; fails with ``what`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
