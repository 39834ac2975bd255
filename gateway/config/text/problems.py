"""The problems of a table, collected. Owns the form of every message about them.

Knows neither YAML nor the model. Source: the compilers' ``file:line:column: message``.
"""

from collections.abc import Iterable
from typing import NoReturn, Protocol

from gateway.errors import ConfigError

MAX_LISTED = 50  # nobody fixes more than a screenful or two at a time
MAX_QUOTED = 60  # characters of a value or a key that a message shows
MAX_HINT = 200  # a longer hint only repeats a long value


class Positioned(Protocol):
    """Anything with a place in the table, counted from 1."""

    @property
    def line(self) -> int: ...
    @property
    def column(self) -> int: ...


class BadValueError(Exception):
    """A text is not what its kind of value expects.

    ``hint`` says how to fix it, and may quote the text. ``expected`` replaces the kind's own words,
    and never quotes the text, which can be a secret.
    """

    def __init__(self, hint: str = "", *, expected: str = "") -> None:
        super().__init__(hint or expected)
        self.hint = hint if len(hint) <= MAX_HINT else ""
        self.expected = expected


class Problems:
    """All problems of one table, so that all can be fixed at once."""

    def __init__(self, source: str) -> None:
        self._source = printable(source)
        self._found: list[tuple[int, int, str]] = []

    def add(self, place: Positioned, path: str, message: str) -> None:
        """Record ``message`` about the key ``path`` ("" for the whole table)."""
        key = f"{shorten(path, 2 * MAX_QUOTED)}: " if path else ""
        self._found.append((place.line, place.column, key + printable(message)))

    def locate(self, place: Positioned, path: str) -> str:
        """A value's place, as messages show it."""
        return f"{self._source}:{place.line}:{place.column}: {shorten(path, 2 * MAX_QUOTED)}"

    def raise_any(self) -> None:
        """Raises ConfigError if there is a problem."""
        if self._found:
            raise self.error()

    def error(self) -> ConfigError:
        """All problems sorted by place, or the first of very many."""
        found = sorted(self._found, key=lambda problem: problem[:2])
        lines = [f"{self._source}:{line}:{column}: {text}" for line, column, text in found]
        if len(lines) > MAX_LISTED:
            more = len(lines) - MAX_LISTED
            lines[MAX_LISTED:] = [f"{self._source}: and {more} more, fix these first"]
        return ConfigError(lines)


def refuse_whole(source: str, message: str, cause: Exception | None = None) -> NoReturn:
    """Raises ConfigError for a table as a whole."""
    raise ConfigError([f"{printable(source)}: {message}"]) from cause


def printable(text: str) -> str:
    """``text`` on one line: what a terminal could not show is escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shorten(text: str, most: int = MAX_QUOTED) -> str:
    """``text`` printable, and cut beyond ``most`` characters."""
    return printable(text if len(text) <= most else f"{text[:most]}…")


def quote(text: str) -> str:
    """``text`` as messages show a value."""
    return f'"{shorten(text)}"'


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``did you mean "…"?`` when one known word is close, else ""."""
    from difflib import get_close_matches  # imported only for an invalid table

    close = get_close_matches(word[:MAX_QUOTED], known, n=1, cutoff=0.6)
    return f'did you mean "{close[0]}"?' if close else ""
