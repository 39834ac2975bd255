"""Apps that fail, each at one moment, with the exception they were made with."""

from collections.abc import Iterator
from typing import Any

from gateway.wsgi import Environ, StartResponse

TEXT = [("Content-Type", "text/plain")]


class Failing:
    """``error`` is raised by ``fail``; ``closed`` counts calls of the result's close()."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.closed = 0

    def fail(self) -> Any:
        raise self.error

    def close(self) -> None:
        self.closed += 1


class AtCall(Failing):
    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        start_response("200 OK", list(TEXT))
        return self.fail()


class BeforeContent(Failing):
    """After start_response, at the first iteration."""

    def __call__(self, environ: Environ, start_response: StartResponse) -> "BeforeContent":
        start_response("200 OK", [*TEXT, ("Content-Length", "10")])
        return self

    def __iter__(self) -> Iterator[bytes]:
        yield b""
        yield self.fail()


class AfterContent(Failing):
    """When the head and a piece have gone out."""

    def __call__(self, environ: Environ, start_response: StartResponse) -> "AfterContent":
        start_response("200 OK", list(TEXT))
        return self

    def __iter__(self) -> Iterator[bytes]:
        yield b"a piece"
        yield self.fail()


class AtClose(Failing):
    """When all has gone out."""

    def __call__(self, environ: Environ, start_response: StartResponse) -> "AtClose":
        start_response("200 OK", list(TEXT))
        return self

    def __iter__(self) -> Iterator[bytes]:
        yield b"a piece"

    def close(self) -> None:
        super().close()
        self.fail()
