"""Calls a WSGI app in process, through the standard library's validator."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

from gateway.wsgi import WSGIApp


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    content: bytes


def ask(
    app: WSGIApp,
    path_info: str = "/",
    *,
    script_name: str = "/files",
    method: str = "GET",
    query: str = "",
    environ: dict[str, Any] | None = None,
    **fields: str,
) -> Answer:
    """One request; ``fields`` are header fields such as ``if_range``, ``environ`` adds the rest."""
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": script_name,
        "PATH_INFO": path_info,
        "QUERY_STRING": query,
        **(environ or {}),
        **{f"HTTP_{name.upper()}": value for name, value in fields.items()},
    }
    setup_testing_defaults(environ)
    answers: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        answers.append((status, headers))
        return lambda data: None

    # The validator wants a path or a prefix; a request for "*" or for the bare host has neither.
    named = path_info.startswith("/") or (path_info == "" and script_name)
    body: Iterable[bytes] = (validator(app) if named else app)(environ, start_response)
    try:
        content = b"".join(body)
    finally:
        getattr(body, "close", lambda: None)()
    [(status, headers)] = answers
    names = [name.lower() for name, _ in headers]
    assert len(names) == len(set(names))
    return Answer(int(status[:3]), dict(headers), content)
