"""Apps that read their content, each in one way, and answer with what they have read."""

from collections.abc import Callable
from typing import Any

from gateway.wsgi import Environ, StartResponse


def reader(read: Callable[[Any], list[bytes]]) -> Any:
    """An app that answers with the pieces that ``read(wsgi.input)`` gives, each as its repr."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        pieces = read(environ["wsgi.input"])
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [repr(pieces).encode()]

    return app


def in_pieces_of(size: int) -> Callable[[Any], list[bytes]]:
    def read(content: Any) -> list[bytes]:
        return list(iter(lambda: content.read(size), b""))

    return read


def lines_of_at_most(size: int) -> Callable[[Any], list[bytes]]:
    def read(content: Any) -> list[bytes]:
        return list(iter(lambda: content.readline(size), b""))

    return read


@reader
def whole(content: Any) -> list[bytes]:
    return [content.read()]


@reader
def whole_by_minus_one(content: Any) -> list[bytes]:
    return [content.read(-1)]


@reader
def lines(content: Any) -> list[bytes]:
    return list(iter(content.readline, b""))


@reader
def all_lines(content: Any) -> list[bytes]:
    return content.readlines()  # type: ignore[no-any-return]


@reader
def lines_with_hint(content: Any) -> list[bytes]:
    return [*content.readlines(5), b"|", *content.readlines()]


@reader
def iterated(content: Any) -> list[bytes]:
    return list(content)


@reader
def some_then_lines(content: Any) -> list[bytes]:
    return [content.read(2), *content]


@reader
def beyond_its_end(content: Any) -> list[bytes]:
    return [content.read(), content.read(), content.read(1), content.readline()]


@reader
def nothing(content: Any) -> list[bytes]:
    return []
