"""Finds words of ``words.txt`` in prose, in files or below directories that are given; 1 if any.

Of Python that is comments, docstrings and other texts; of Markdown all but code.
"""

import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

WORDS = Path(__file__).with_name("words.txt")
CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]+`", re.DOTALL | re.MULTILINE)


def read_words(text: str) -> list[tuple[re.Pattern[str], str]]:
    """The patterns of a list, each with what to write instead."""
    lines = (line.rpartition(" -> ") for line in text.splitlines() if line[:1] not in ("", "#"))
    return [
        (re.compile(rf"\b(?:{found})\b".replace(" ", r"\s+"), re.IGNORECASE), instead)
        for found, _, instead in lines
    ]


def find_prose(path: Path) -> Iterator[tuple[int, str]]:
    """Passages of a file's prose, each with the number of its first line."""
    text = path.read_text()
    if path.suffix != ".py":
        # line breaks stay, so that lines keep their numbers
        yield 1, CODE.sub(lambda code: "`" + "\n" * code[0].count("\n") + "`", text)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT or token.type in STRINGS:
            yield token.start[0], CODE.sub("`", token.string)


STRINGS = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def find_words(path: Path, words: list[tuple[re.Pattern[str], str]]) -> Iterator[str]:
    """A line for each word that is found, for a person."""
    for first_line, prose in find_prose(path):
        # a passage may be broken between two of its words
        flat = re.sub(r"\n(?: *# ?| *)", lambda gap: "\n" + " " * (len(gap[0]) - 1), prose)
        for pattern, instead in words:
            for found in pattern.finditer(flat):
                line = first_line + flat.count("\n", 0, found.start())
                yield f"{path}:{line}: {found[0]!r}: write {instead}"


def find_files(path: Path) -> list[Path]:
    """The texts below a directory, or the file itself."""
    if not path.is_dir():
        return [path]
    return sorted([*path.rglob("*.py"), *path.rglob("*.md")])


def main() -> int:
    words = read_words(WORDS.read_text())
    paths = [Path(name) for name in sys.argv[1:]]
    files = [file for path in paths for file in find_files(path)]
    lines = [line for file in files for line in find_words(file, words)]
    print(*lines, sep="\n", end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
