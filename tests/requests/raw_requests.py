"""Reads the raw requests of this folder; README.md says what is in a file."""

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent

_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|([rnt0\\]))|(\\)")
_ESCAPED = {"r": "\r", "n": "\n", "t": "\t", "0": "\0", "\\": "\\"}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What one request of a valid file is read as."""

    method: str = "GET"
    target: str = "/"
    path: str = ""
    query: str = ""
    path_info: str = ""
    fields: dict[str, str] = field(default_factory=lambda: {"HTTP_HOST": "example.com"})
    content: str = ""
    status: int = 200
    persistent: bool = True


@dataclass(frozen=True, kw_only=True)
class _Settings:
    limits: dict[str, Any] = field(default_factory=dict)
    mount_limits: dict[str, Any] = field(default_factory=dict)
    trusted: bool = False


@dataclass(frozen=True, kw_only=True)
class Valid(_Settings):
    raw: bytes
    request: list[Request]


@dataclass(frozen=True, kw_only=True)
class Invalid(_Settings):
    raw: bytes
    status: int
    reason: str = ""
    at: str = "head"

    def __post_init__(self) -> None:
        assert self.at in ("connection", "head", "mount", "content")


def load_valid() -> dict[str, Valid]:
    """The valid files by name."""
    cases = {}
    for name, raw, expected in _load("valid"):
        requests = [_build_request(**request) for request in expected.pop("request")]
        cases[name] = Valid(raw=raw, request=requests, **expected)
    return cases


def load_invalid() -> dict[str, Invalid]:
    """The invalid files by name."""
    return {name: Invalid(raw=raw, **expected) for name, raw, expected in _load("invalid")}


def _load(kind: str) -> list[tuple[str, bytes, dict[str, Any]]]:
    cases = []
    for file in sorted((FOLDER / kind).glob("*.http")):
        expected, separator, notation = file.read_text("utf-8").partition("\n---\n")
        assert separator, f"{file}: no line with ---"
        try:
            cases.append((file.stem, parse_notation(notation), tomllib.loads(expected)))
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
    return cases


def parse_notation(text: str) -> bytes:
    """The bytes that ``text`` stands for."""
    lines = text.splitlines()
    for line in lines:
        if line != line.rstrip():
            raise ValueError(f"{line!r} ends with a blank: write it as \\x20")
    if not text.isascii():
        raise ValueError(r"the bytes are written in ASCII: \xHH for the others")
    return _ESCAPE.sub(_unescape, "".join(lines)).encode("latin-1")


def _unescape(found: re.Match[str]) -> str:
    if found[3]:
        raise ValueError(r"a backslash is none of \r \n \t \0 \\ \xHH")
    return chr(int(found[1], 16)) if found[1] else _ESCAPED[found[2]]


def _build_request(target: str = "/", **expected: Any) -> Request:
    path, _, query = target.partition("?")
    expected = {"path": path, "query": query} | expected
    return Request(**{"target": target, "path_info": expected["path"]} | expected)
