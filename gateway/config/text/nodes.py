"""YAML text to nodes with their places. Owns every message about YAML itself.

Does not know what a table means: a scalar stays text, tags are refused, and nothing is
constructed. Source: YAML 1.1 as PyYAML parses it. The nodes are built from the parser's events,
since PyYAML's own composer overruns the C stack on deep nesting.
"""

import re
from dataclasses import dataclass
from typing import Any

import yaml

try:
    from yaml import CSafeLoader as _Loader
except ImportError:  # a PyYAML built without libyaml reads the same, ten times slower
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

MAX_DEPTH = 20  # a table needs five levels
MAX_NODES = 1_000_000  # aliases expanded; 10,000 full mounts are about 150,000

# What YAML 1.1 §5.1 does not allow in a stream, and U+0085, U+2028 and U+2029, which YAML counts as
# line breaks and editors do not show.
_NOT_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")


@dataclass(slots=True, eq=False)
class Scalar:
    """``text`` as YAML reads it. ``is_plain``: it was written without quotes."""

    line: int
    column: int
    text: str
    is_plain: bool
    weight: int = 1


@dataclass(slots=True, eq=False)
class Sequence:
    """A list."""

    line: int
    column: int
    items: "list[Node]"
    weight: int = 1


@dataclass(slots=True, eq=False)
class Mapping:
    """Keys and values alternately, as written: nothing is merged, and no key is lost."""

    line: int
    column: int
    items: "list[Node]"
    weight: int = 1


Node = Scalar | Sequence | Mapping


class YamlError(Exception):
    """The text is not YAML that a table may use, at a place counted from 1."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


def parse_yaml(text: str) -> Mapping:
    """The one document in ``text``, which must be a mapping. Raises YamlError."""
    text = text.removeprefix("\ufeff")
    if found := _NOT_TEXT.search(text):
        line, column = _place(text, found.start())
        code = f"U+{ord(found[0]):04X}"
        raise YamlError(line, column, f"the character {code} is not allowed in a table: remove it")
    try:
        root = _NodeBuilder().build(yaml.parse(text, Loader=_Loader))
    except yaml.MarkedYAMLError as exc:
        raise _translated(exc, text) from exc
    if root is None or describe_node(root) == "nothing":
        raise YamlError(1, 1, 'the table is empty: it needs at least "mounts:" and a mount')
    if not isinstance(root, Mapping):
        expected = 'expected a mapping with "mounts:"'
        raise YamlError(root.line, root.column, f"{expected}, got {describe_node(root)}")
    return root


def describe_node(node: Node) -> str:
    """What the node is, for a message; a scalar's text is not shown."""
    if isinstance(node, Mapping):
        return "a mapping"
    if isinstance(node, Sequence):
        return "a list"
    return "nothing" if node.is_plain and node.text in _NOTHING else "a single value"


def find_key(node: Node, key: str) -> "tuple[Scalar, Node] | None":
    """The key and its value in a mapping, if ``node`` is one and has it."""
    if isinstance(node, Mapping):
        for name, value in zip(node.items[::2], node.items[1::2], strict=True):
            if isinstance(name, Scalar) and name.text == key:
                return name, value
    return None


def yaml_surprise(node: Scalar) -> str:
    """What YAML 1.1 reads a plain scalar as, if not as text; "" for text.

    An ordinary decimal whole number counts as text: every reader sees the same digits.
    """
    if not node.is_plain or re.fullmatch(r"-?(0|[1-9][0-9]*)", node.text):
        return ""
    resolvers = yaml.SafeLoader.yaml_implicit_resolvers
    for tag, pattern in resolvers.get(node.text[:1], ()):
        if pattern.match(node.text) and tag in _SURPRISES:
            return _SURPRISES[tag]
    return ""


_NOTHING = ("", "~", "null", "Null", "NULL")
_SURPRISES = {
    "tag:yaml.org,2002:bool": "true or false",
    "tag:yaml.org,2002:float": "a number",
    "tag:yaml.org,2002:int": "a number",
    "tag:yaml.org,2002:null": "nothing",
    "tag:yaml.org,2002:timestamp": "a date",
}


class _NodeBuilder:
    """Nodes from events, with the containers still open on a stack."""

    def __init__(self) -> None:
        self._open: list[Sequence | Mapping] = []
        self._anchors: dict[str, Node] = {}
        self._root: Node | None = None

    def build(self, events: Any) -> Node | None:
        for event in events:
            if isinstance(event, yaml.NodeEvent):
                node = self._node(event)
                if isinstance(event, yaml.CollectionStartEvent):
                    self._open.append(node)  # type: ignore[arg-type]
                else:
                    self._close(node, event)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._close(self._open.pop(), event)
            elif isinstance(event, yaml.DocumentStartEvent) and self._root is not None:
                raise _error(event, 'a second document begins here: remove the "---"')
        return self._root

    def _node(self, event: Any) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._aliased(event)
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise _error(event, f'tags are not supported: remove "{tag}"')
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        node: Node
        if isinstance(event, yaml.ScalarEvent):
            node = Scalar(line, column, event.value, not event.style)
        elif len(self._open) == MAX_DEPTH:
            raise _error(event, f"nested more than {MAX_DEPTH} deep: a table needs five levels")
        elif isinstance(event, yaml.MappingStartEvent):
            node = Mapping(line, column, [])
        else:
            node = Sequence(line, column, [])
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _aliased(self, event: Any) -> Node:
        node = self._anchors.get(event.anchor)
        if node is None:
            raise _error(event, f'no "&{event.anchor}" stands before this "*{event.anchor}"')
        if any(node is container for container in self._open):
            raise _error(event, f'"*{event.anchor}" stands inside "&{event.anchor}" itself')
        return node

    def _close(self, node: Node, event: Any) -> None:
        if not self._open:
            self._root = node
            return
        parent = self._open[-1]
        parent.items.append(node)
        parent.weight += node.weight
        if parent.weight > MAX_NODES:
            raise _error(event, f"aliases expand to more than {MAX_NODES:,} values")


def _error(event: Any, message: str) -> YamlError:
    return YamlError(event.start_mark.line + 1, event.start_mark.column + 1, message)


def _place(text: str, index: int) -> tuple[int, int]:
    before = text[:index].replace("\r\n", "\n").replace("\r", "\n")
    return before.count("\n") + 1, len(before) - before.rfind("\n")


# Phrases of PyYAML's two parsers, and the usual mistake behind them.
_INDENTATION = "this does not continue what stands above: check the indentation and the quotes"
_BRACKETS = (
    'a "," or a closing bracket is missing; inside brackets, a value with "${…}" needs quotes'
)
_MENDINGS = (
    ("unknown directive", 'a "%" begins a directive of YAML: put the text in quotes'),
    ("tab character", "a tab: indent with spaces"),
    ("mapping values are not allowed", 'a ": " too many: put the value in quotes, or indent less'),
    ("could not find expected ':'", 'a key without its ":"'),
    ("did not find expected key", _INDENTATION),
    ("expected <block end>", _INDENTATION),
    ("did not find expected '-' indicator", _INDENTATION),
    ("sequence entries are not allowed", 'a "- " too many: put it on its own line'),
    ("expected ',' or", _BRACKETS),
    ("node content", "a value is missing, or a bracket is not closed"),
    ("unexpected end of stream", "the quote that opens here is not closed"),
    ("unknown escape character", "a backslash: write it twice, or use single quotes"),
)


def _translated(exc: yaml.MarkedYAMLError, text: str) -> YamlError:
    problem = exc.problem or "it cannot be read"
    # If the text ends too early, the mistake is where the value began.
    mark = exc.context_mark if "end of stream" in problem else exc.problem_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    if "cannot start any token" in problem:
        found = text.splitlines()[line - 1][column - 1]
        problem = f'no value begins with "{found}": put it in quotes'
        if found == "\t":
            problem = "a tab: indent with spaces"
    else:
        problem = next((mending for words, mending in _MENDINGS if words in problem), problem)
    return YamlError(line, column, f"not YAML: {problem}")
