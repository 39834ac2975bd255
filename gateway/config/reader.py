"""Nodes to values: the one walk that every section of the table shares.

Owns the checks that apply to any mapping and any value; does not know which keys there are.
Source: the settings it is given.
"""

import re
from collections.abc import Mapping as ReadOnlyMapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from gateway.config.kinds import ENVIRONMENT_NAME_PATTERN, Kind
from gateway.config.settings import Setting, Settings, places_of
from gateway.config.text import nodes
from gateway.config.text.interpolate import InterpolationError, Interpolator, Text
from gateway.config.text.nodes import Mapping, Node, Scalar, Sequence
from gateway.config.text.problems import (
    BadValueError,
    Positioned,
    Problems,
    did_you_mean,
    quote,
    shorten,
)
from gateway.file_tasks import touching


@dataclass(frozen=True, slots=True)
class Entry:
    """A key and its value, as nodes."""

    key: Scalar
    value: Node


Entries = dict[str, Entry]


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads values and records problems; what cannot be read is left out."""

    problems: Problems
    interpolator: Interpolator

    def pairs(self, node: Node, path: str, expected: str) -> Entries | None:
        """A mapping's keys and values, none for an empty value; None for anything else, with a
        problem recorded."""
        if isinstance(node, Mapping):
            return self.unique_pairs(node, path)
        if nodes.describe_node(node) == "nothing":
            return {}
        self.problems.add(node, path, f"expected {expected}, got {_got(node)}")
        return None

    def unique_pairs(self, node: Mapping, path: str) -> Entries:
        """A mapping's keys and values. A duplicate key is a problem, and its first value counts."""
        found: Entries = {}
        for key, value in zip(node.items[::2], node.items[1::2], strict=True):
            if not isinstance(key, Scalar):
                self.problems.add(key, path, f"expected a key, got {nodes.describe_node(key)}")
            elif key.text == "<<" and key.is_plain:
                self.problems.add(
                    key,
                    path,
                    'merge keys are not supported: put what mounts share under "defaults:"',
                )
            elif first := found.get(key.text):
                again = f"duplicate key: first in line {first.key.line}, column {first.key.column}"
                self.problems.add(key, join(path, key.text), again)
            else:
                found[key.text] = Entry(key, value)
        return found

    def settings(self, pairs: Entries, path: str, known: Settings) -> dict[str, Any]:
        """The values in ``pairs``, by field name. Keys that are not ``known`` are problems."""
        values: dict[str, Any] = {}
        for name, pair in pairs.items():
            setting = known.get(name)
            if setting is None:
                self.unknown_key(pair.key, path, known)
                continue
            value = self.setting(pair.value, join(path, name), setting)
            if value is not None:
                values[setting.field] = value
        return values

    def unknown_key(self, key: Scalar, path: str, known: ReadOnlyMapping[str, object]) -> None:
        """Record an unknown or misplaced key as a problem."""
        if places := places_of(key.text):
            message = f"not a key here: it belongs {' or '.join(places)}"
        else:
            stem = key.text.removesuffix("_seconds").removesuffix("_bytes")
            near = did_you_mean(stem, known)
            message = f"unknown key: {near}" if near else f"unknown key, none of {', '.join(known)}"
        self.problems.add(key, join(path, key.text), message)

    def setting(self, node: Node, path: str, setting: Setting) -> Any | None:
        """The value of one setting; None for one that cannot be read, with a problem recorded."""
        kind = setting.kind
        if kind.shape == "list":
            return self._list(node, path, kind)
        if kind.shape == "one or more":
            return self._one_or_more(node, path, kind)
        if kind.shape == "mapping":
            return self._environment(node, path, kind)
        if kind.owner is not None:
            return self._section(node, path, setting, kind.owner)
        return self.single(node, path, kind)

    def _section(self, node: Node, path: str, setting: Setting, owner: type) -> Any | None:
        within = setting.within
        if setting.kind.short and isinstance(node, Scalar):
            own = within[setting.kind.short]
            value = self.single(node, path, own.kind)
            return None if value is None else owner(**{own.field: value})
        pairs = self.pairs(node, path, setting.kind.expected)
        if pairs is None:
            return None
        values = self.settings(pairs, path, within)
        missing = [own for own in within.values() if own.is_required and own.key not in pairs]
        for own in missing:
            self.problems.add(node, join(path, own.key), f"missing: expected {own.kind.expected}")
        if any(own.is_required and own.field not in values for own in within.values()):
            return None
        return owner(**values)

    def single(self, node: Node, path: str, kind: Kind) -> Any | None:
        """A scalar's value; None for one that cannot be read, with a problem recorded."""
        if not isinstance(node, Scalar) or nodes.describe_node(node) == "nothing":
            self.problems.add(node, path, f"expected {kind.expected}, got {_got(node)}")
            return None
        if kind.is_free_text and (surprise := nodes.yaml_surprise(node)):
            got = f"{shorten(node.text)}, which YAML takes for {surprise}"
            message = f"expected text, got {got}: write {quote(node.text)}, with the quotes"
            self.problems.add(node, path, message)
            return None
        try:
            with self.touching(node, path):
                text = self.interpolator.expand(node.text)
                return self._checked(text.value, kind)
        except InterpolationError as exc:
            self.problems.add(node, path, str(exc))
        except BadValueError as bad:
            self.problems.add(node, path, _describe_bad_value(bad, kind, node, text))
        return None

    def touching(self, place: Positioned, path: str) -> touching:
        """``with reader.touching(…):`` around access to a file that the value at ``place`` is."""
        return touching(partial(self.problems.locate, place, path))

    def complain(self, node: Scalar, path: str, kind: Kind, bad: BadValueError) -> None:
        """Record a problem with a value that was read before."""
        text = self.interpolator.expand(node.text)
        self.problems.add(node, path, _describe_bad_value(bad, kind, node, text))

    def _checked(self, text: str, kind: Kind) -> Any:
        if "\0" in text:
            raise BadValueError(expected="text without NUL characters")
        value = kind.parse(text, self.interpolator.directory)
        if isinstance(value, int | float):
            if value < kind.least:
                raise BadValueError(expected=f"at least {kind.show(kind.least)}")
            if value > kind.most:
                raise BadValueError(expected=f"at most {kind.show(kind.most)}")
        return value

    def _list(self, node: Node, path: str, kind: Kind) -> tuple[Any, ...] | None:
        if not isinstance(node, Sequence):
            hint = ""
            if isinstance(node, Scalar) and nodes.describe_node(node) != "nothing":
                hint = f': write "[{node.text}]"'
            self.problems.add(node, path, f"expected a list, got {_got(node)}{hint}")
            return None
        return tuple(self.single(n, f"{path}[{i}]", kind) for i, n in enumerate(node.items))

    def _one_or_more(self, node: Node, path: str, kind: Kind) -> tuple[Any, ...] | None:
        if isinstance(node, Sequence):
            if not node.items:
                self.problems.add(node, path, f"expected {kind.expected}, got an empty list")
            return self._list(node, path, kind)
        value = self.single(node, path, kind)
        return None if value is None else (value,)

    def _environment(self, node: Node, path: str, kind: Kind) -> dict[str, str] | None:
        pairs = self.pairs(node, path, 'a mapping such as "NAME: value"')
        if pairs is None:
            return None
        values = {}
        for name, pair in pairs.items():
            if not re.fullmatch(ENVIRONMENT_NAME_PATTERN, name):
                message = f"expected a name of letters, digits and underscores, got {quote(name)}"
                self.problems.add(pair.key, join(path, name), message)
            value = self.single(pair.value, join(path, name), kind)
            if value is not None:
                values[name] = value
        return values


def _got(node: Node) -> str:
    if isinstance(node, Scalar) and nodes.describe_node(node) != "nothing":
        return quote(node.text)
    return nodes.describe_node(node)


def join(path: str, key: str) -> str:
    """A key's path."""
    return f"{path}.{key}" if path else key


def _describe_bad_value(bad: BadValueError, kind: Kind, node: Scalar, text: Text) -> str:
    """The message, without the value of a secret."""
    expected = f"expected {bad.expected or kind.expected}"
    if text.is_secret:
        return f"{expected}, got something else from {quote(node.text)}"
    origin = f" from {quote(node.text)}" if text.value != node.text else ""
    hint = f": {bad.hint}" if bad.hint else ""
    return f"{expected}, got {quote(text.value)}{origin}{hint}"
