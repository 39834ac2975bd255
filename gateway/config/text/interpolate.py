"""``${…}`` in a value: variables of the environment and secret files.

Runs on text that YAML has already parsed, so a value can never become structure. Does not know what
the text is for. Source: Compose's interpolation syntax; ``${file:…}`` is ours.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.config.text.problems import quote
from gateway.config.text.secret_files import read_file

MAX_DEPTH = 8  # defaults inside defaults; two are usual
MAX_SECRET_BYTES = 64 * 1024  # a key or a certificate chain; the kernel's own bound is 128 KiB

_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-?])(.*))?", re.DOTALL)


class InterpolationError(Exception):
    """What is wrong with a ``${…}``, without any value."""


@dataclass(slots=True)
class Text:
    """A value after interpolation. ``is_secret``: a part of it came from a file."""

    value: str
    is_secret: bool = False


@dataclass(frozen=True, slots=True)
class Interpolator:
    """Expands with ``environ``. Relative files are relative to ``directory``. ``files`` are those
    that were read."""

    environ: Mapping[str, str]
    directory: Path
    files: set[str] = field(default_factory=set)

    def expand(self, text: str) -> Text:
        """Raises InterpolationError."""
        result = Text("")
        result.value = self._expand(text, result, MAX_DEPTH) if "$" in text else text
        return result

    def _expand(self, text: str, result: Text, depth: int) -> str:
        if depth == 0:
            raise InterpolationError(f'at most {MAX_DEPTH} "${{" may stand inside one another')
        pieces = []
        done = 0
        while (at := text.find("$", done)) >= 0:
            pieces.append(text[done:at])
            follower = text[at + 1 : at + 2]
            if follower == "$":
                pieces.append("$")
                done = at + 2
            elif follower == "{":
                end = _closing_brace(text, at + 2)
                pieces.append(self._replacement(text[at + 2 : end], result, depth))
                done = end + 1
            else:
                raise InterpolationError(
                    'a "$" alone: write "$$" for a dollar sign, "${NAME}" for a variable'
                )
        pieces.append(text[done:])
        return "".join(pieces)

    def _replacement(self, inside: str, result: Text, depth: int) -> str:
        if inside.startswith("file:") and inside[5:6] not in ("-", "?"):
            result.is_secret = True
            return self._secret(self._expand(inside[5:], result, depth - 1))
        parts = _VARIABLE.fullmatch(inside)
        if not parts:
            raise InterpolationError(
                f"{quote('${' + inside + '}')} is not understood: write "
                '"${NAME}", "${NAME:-default}", "${NAME:?message}" or "${file:/path}"'
            )
        name, operator, word = parts[1], parts[2] or "", parts[3] or ""
        value = self.environ.get(name)
        if value is not None and (value or not operator.startswith(":")):
            return value
        if operator.endswith("-"):
            return self._expand(word, result, depth - 1)
        raise InterpolationError(_missing(name, operator, word))

    def _secret(self, path: str) -> str:
        if not path:
            raise InterpolationError('"${file:}" names no file: write "${file:/run/secrets/name}"')
        self.files.add(str(self.directory / path))
        try:
            content = read_file(self.directory / path, MAX_SECRET_BYTES + 1, self.directory)
        except (OSError, ValueError) as exc:
            reason = (getattr(exc, "strerror", None) or "not a path").lower()
            raise InterpolationError(
                f"the secret file {quote(path)} cannot be read: {reason}"
            ) from exc
        if len(content) > MAX_SECRET_BYTES:
            raise InterpolationError(f"the secret file {quote(path)} is larger than 64 KiB")
        try:
            return content.decode().rstrip("\r\n")
        except UnicodeDecodeError as exc:
            raise InterpolationError(f"the secret file {quote(path)} is not UTF-8 text") from exc


def _closing_brace(text: str, start: int) -> int:
    """Where the ``${`` before ``start`` is closed; a ``}`` closes the innermost one."""
    depth = 1
    for found in re.finditer(r"\$\$|\$\{|\}", text[start:]):
        depth += {"${": 1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return start + found.start()
    raise InterpolationError(
        '"${" without its "}": close it, or write "$${" for the characters themselves'
    )


def _missing(name: str, operator: str, word: str) -> str:
    unset = "is not set or empty" if operator.startswith(":") else "is not set"
    if operator:
        return f"the variable {name} {unset}" + (f": {word}" if word else "")
    return f'the variable {name} {unset}: set it, or write "${{{name}:-default}}"'
