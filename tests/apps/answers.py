"""Apps that keep PEP 3333, each answering in one way. Their content is always CONTENT, or none."""

from collections.abc import Iterator
from typing import Any

from gateway.wsgi import Environ, StartResponse

CONTENT = b"first second third"
PIECES = [b"first ", b"second ", b"third"]
TEXT = [("Content-Type", "text/plain")]


def one_piece(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", list(TEXT))
    return [CONTENT]


def one_piece_tuple(environ: Environ, start_response: StartResponse) -> tuple[bytes]:
    start_response("200 OK", list(TEXT))
    return (CONTENT,)


def one_piece_of_own_class(environ: Environ, start_response: StartResponse) -> "Sized":
    start_response("200 OK", list(TEXT))
    return Sized([CONTENT])


class Sized:
    """An iterable with a length that is neither list nor tuple."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def __len__(self) -> int:
        return len(self.pieces)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.pieces)


def pieces(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", list(TEXT))
    return PIECES


def empty_pieces(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", list(TEXT))
    return [b"", *PIECES[:1], b"", *PIECES[1:], b""]


def generator(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", list(TEXT))
    yield from PIECES


def late_start(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    """A generator: start_response is called at the first iteration, after an empty piece."""

    def run() -> Iterator[bytes]:
        start_response("200 OK", list(TEXT))
        yield b""
        yield from PIECES

    return run()


def write(environ: Environ, start_response: StartResponse) -> list[bytes]:
    send = start_response("200 OK", list(TEXT))
    for piece in PIECES:
        send(piece)
    return []


def write_then_pieces(environ: Environ, start_response: StartResponse) -> list[bytes]:
    send = start_response("200 OK", list(TEXT))
    send(PIECES[0])
    return PIECES[1:]


def with_length(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [*TEXT, ("Content-Length", str(len(CONTENT)))])
    yield from PIECES


def write_with_length(environ: Environ, start_response: StartResponse) -> list[bytes]:
    send = start_response("200 OK", [*TEXT, ("content-length", str(len(CONTENT)))])
    send(PIECES[0])
    return PIECES[1:]


def restarted(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Begins one answer and gives another, with exc_info, before anything has gone out."""
    import sys

    start_response("404 Not Found", [*TEXT, ("Content-Length", "3"), ("X-Dropped", "yes")])
    try:
        raise KeyError("no such thing")
    except KeyError:
        start_response("200 OK", list(TEXT), sys.exc_info())  # type: ignore[arg-type]
    return [CONTENT]


def nothing(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", list(TEXT))
    return []


def nothing_from_a_generator(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", list(TEXT))
    yield from ()


def no_content(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("204 No Content", [("X-Kept", "yes")])
    return []


def not_modified(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("304 Not Modified", [("ETag", '"1"')])
    return []


def environ_as_text(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", list(TEXT))
    return ["".join(f"{key}={environ[key]!r}\n" for key in sorted(environ)).encode()]


class Files:
    """Answers with a file object through ``wsgi.file_wrapper``, from its position."""

    def __init__(self, file: Any, *headers: tuple[str, str]) -> None:
        self.file = file
        self.headers = headers

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", [*TEXT, *self.headers])
        return environ["wsgi.file_wrapper"](self.file, 4096)


class Counted:
    """Answers with ``pieces``; ``closed`` counts how often close() was called."""

    def __init__(self, pieces: list[bytes], status: str = "200 OK") -> None:
        self.pieces = pieces
        self.status = status
        self.closed = 0

    def __call__(self, environ: Environ, start_response: StartResponse) -> "Counted":
        start_response(self.status, list(TEXT))
        return self

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.pieces)

    def close(self) -> None:
        self.closed += 1
