"""One app that reads and answers as its query says, and notes what it was given.

``/MARKER?read=HOW&answer=HOW``; every answer names its marker in ``X-Marker``, and in its content,
where it has one, what was read of the request's own.
"""

from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs

import gevent

from gateway.wsgi import Environ, StartResponse

READS = ["all", "none", "some", "lines", "pieces", "stubborn"]
# which ends the content of the answer, where the method and the status let it have one
ANSWERS = {
    "whole": "length",
    "with_length": "length",
    "too_long": "length",
    "fails": "length",
    "nothing": "length",
    "pieces": "chunked",
    "written": "chunked",
    "waiting": "chunked",
    "hinted": "length",
    "no_content": "none",
    "not_modified": "none",
    "cut": "cut",
}


def summary(marker: str, content: bytes) -> bytes:
    return f"{marker} {len(content)} {sha256(content).hexdigest()}".encode()


class Echo:
    """``calls`` holds (marker, content as far as it was read) of each request, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bytes]] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        marker = environ["PATH_INFO"].strip("/")
        query = parse_qs(environ["QUERY_STRING"])
        index = len(self.calls)
        self.calls.append((marker, b""))
        content = b""
        for piece in read(environ["wsgi.input"], query["read"][0]):
            content += piece
            self.calls[index] = (marker, content)
        answer = globals()[f"answer_{query['answer'][0]}"]
        return answer(environ, start_response, [("X-Marker", marker)], summary(marker, content))


def read(content: Any, how: str) -> Iterator[bytes]:
    match how:
        case "all":
            yield content.read()
        case "some":
            yield content.read(3)
        case "lines":
            yield from content
        case "pieces":
            yield from iter(lambda: content.read(7), b"")
        case "stubborn":
            for _ in range(3):
                with suppress(Exception):  # an app that goes on whatever it is told
                    yield content.read()


def answer_whole(environ: Environ, start: StartResponse, headers: Any, content: bytes) -> Any:
    start("200 OK", headers)
    return [content]


def answer_with_length(environ: Environ, start: StartResponse, headers: Any, content: bytes) -> Any:
    start("200 OK", [*headers, ("Content-Length", str(len(content)))])
    return iter([content[:5], b"", content[5:]])


def answer_too_long(environ: Environ, start: StartResponse, headers: Any, content: bytes) -> Any:
    start("200 OK", [*headers, ("Content-Length", str(len(content)))])
    return iter([content, b"HTTP/1.1 200 OK\r\nX-Marker: evil\r\nContent-Length: 0\r\n\r\n"])


def answer_fails(environ: Environ, start: StartResponse, headers: Any, content: bytes) -> Any:
    start("200 OK", headers)
    raise ValueError("as it was told")


def answer_nothing(environ: Environ, start: StartResponse, headers: Any, content: bytes) -> Any:
    start("200 OK", headers)
    return []


def answer_pieces(environ: Environ, start: StartResponse, headers: Any, content: bytes) -> Any:
    start("200 OK", headers)
    return iter([content[:1], content[1:2], content[2:]])


def answer_written(environ: Environ, start: StartResponse, headers: Any, content: bytes) -> Any:
    write = start("200 OK", headers)
    write(content[:9])
    return [content[9:]]


def answer_waiting(environ: Environ, start: StartResponse, headers: Any, content: bytes) -> Any:
    start("200 OK", headers)
    for at in range(0, len(content), 20):
        gevent.sleep(0)
        yield content[at : at + 20]


def answer_hinted(environ: Environ, start: StartResponse, headers: Any, content: bytes) -> Any:
    environ["wsgi.early_hints"]([("Link", "</style.css>; rel=preload")])
    start("200 OK", headers)
    return (content,)


def answer_no_content(environ: Environ, start: StartResponse, headers: Any, content: bytes) -> Any:
    start("204 No Content", headers)
    return [content]


def answer_not_modified(
    environ: Environ, start: StartResponse, headers: Any, content: bytes
) -> Any:
    start("304 Not Modified", [*headers, ("Content-Length", str(len(content)))])
    return [content]


def answer_cut(environ: Environ, start: StartResponse, headers: Any, content: bytes) -> Any:
    start("200 OK", headers)
    yield content
    raise ValueError("as it was told")
