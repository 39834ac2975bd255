"""Apps that break PEP 3333, each in one way."""

from collections.abc import Iterator
from typing import Any

import gevent
from greenlet import getcurrent

from gateway.wsgi import Environ, StartResponse

TEXT = [("Content-Type", "text/plain")]


class Starts:
    """Calls start_response with what it was made with, and answers with one piece."""

    def __init__(self, status: Any, headers: Any) -> None:
        self.status = status
        self.headers = headers

    def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response(self.status, self.headers)
        return [b"never to be seen"]


class Returns:
    """Returns what it was made with."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", list(TEXT))
        return self.result


def never_starts(environ: Environ, start_response: StartResponse) -> list[bytes]:
    return [b"no head"]


def never_starts_nor_yields(environ: Environ, start_response: StartResponse) -> list[bytes]:
    return []


def starts_too_late(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    yield b"content"
    start_response("200 OK", list(TEXT))


def starts_twice(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", list(TEXT))
    start_response("200 OK", list(TEXT))
    return [b"never to be seen"]


def writes_text(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", list(TEXT))("text")  # type: ignore[arg-type]
    return []


def yields_text_late(environ: Environ, start_response: StartResponse) -> Iterator[Any]:
    start_response("200 OK", list(TEXT))
    yield b"bytes "
    yield "text"


def short_of_length(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [*TEXT, ("Content-Length", "10")])
    yield b"12345"


def short_of_length_at_once(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [*TEXT, ("Content-Length", "10")])
    return [b"12345"]


def nothing_despite_length(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [*TEXT, ("Content-Length", "10")])
    return []


def beyond_length(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [*TEXT, ("Content-Length", "10")])
    yield b"12345"
    yield b"67890HTTP/1.1 200 OK\r\n"
    yield b"Content-Length: 0\r\n\r\n"


def beyond_length_at_once(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [*TEXT, ("Content-Length", "10")])
    return [b"1234567890HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]


def writes_beyond_length(environ: Environ, start_response: StartResponse) -> list[bytes]:
    write = start_response("200 OK", [*TEXT, ("Content-Length", "10")])
    write(b"1234567890")
    write(b"HTTP/1.1 200 OK\r\n\r\n")
    return []


def more_than_its_own_len(environ: Environ, start_response: StartResponse) -> "Understated":
    start_response("200 OK", list(TEXT))
    return Understated()


class Understated:
    """Says that it has one piece and has two."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"1234567890", b"HTTP/1.1 200 OK\r\n\r\n"])


class WritesAtClose:
    """Uses the write callable once more while it is closed, behind the end of its content."""

    def __call__(self, environ: Environ, start_response: StartResponse) -> "WritesAtClose":
        self.write = start_response("200 OK", list(TEXT))
        return self

    def __iter__(self) -> Iterator[bytes]:
        yield b"content"

    def close(self) -> None:
        self.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


class LeavesRunning:
    """Answers at once, and leaves something running that hits its greenlet ``seconds`` later."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        self.begin()
        start_response("200 OK", [*TEXT, ("Content-Length", "2")])
        return [b"ok"]

    def begin(self) -> None:
        raise NotImplementedError


class late_timeout(LeavesRunning):  # noqa: N801  an app
    """A timer that is never cancelled."""

    def begin(self) -> None:
        gevent.Timeout(self.seconds).start()


class late_kill(LeavesRunning):  # noqa: N801
    """A greenlet that ends the one that has started it."""

    def begin(self) -> None:
        gevent.spawn_later(self.seconds, gevent.kill, getcurrent())


class late_interrupt(LeavesRunning):  # noqa: N801
    """A greenlet that raises what a signal would in the one that has started it."""

    def begin(self) -> None:
        gevent.spawn_later(self.seconds, gevent.kill, getcurrent(), KeyboardInterrupt("late"))
