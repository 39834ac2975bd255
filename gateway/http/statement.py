"""Statements: how a front worker forwards a request to the pool that runs its mount.

Between a front worker and a pool's worker, and nowhere else, a head has three lines: the request
line as received, ``Gateway-Statement`` with the mount and the names of the values, and
``Gateway-Request`` with the values. The names are keys of the environ; the front worker has checked
the values, so the pool's worker uses them unchanged. The names of a browser's requests repeat, so
both sides cache them. Plain heads, such as those of probes, are accepted, too.

All who can connect to a pool's socket are trusted: it belongs to the user of the front workers, and
only that user may open it (``supervisor/listeners/sockets.py``). From other peers the parser drops
both fields.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any
from urllib.parse import unquote

from gateway.errors import MalformedMessage, MalformedRequest
from gateway.limits import Limits
from gateway.protocol.fields import HOP_KEYS, is_field
from gateway.protocol.framing import read_length
from gateway.protocol.memory import Memory
from gateway.protocol.request import HeadParser, RequestHead, decide_target
from gateway.wsgi import Environ

# what the front worker has found out about the client, in addition to the fields
_FOUND = ("REMOTE_ADDR", "REMOTE_PORT", "SERVER_NAME", "SERVER_PORT", "wsgi.url_scheme")
_STATED = frozenset((*_FOUND, "gateway.request_id"))
_STATEMENT, _REQUEST = "Gateway-Statement: ", "Gateway-Request: "
# occurs in no value (RFC 9110 §5.5), and in no key
_SEPARATOR = "\0"
# room for 60 usual names; at most some 5 MiB
_MAX_LAYOUTS, _LONGEST_NAMES = 512, 2048


class _Layouts(Memory[tuple[str, Callable[[Environ], Any]]]):
    """The joined keys of an environ to those that are forwarded, and a function that gets their
    values."""

    def __missing__(self, joined: str) -> tuple[str, Callable[[Environ], Any]]:
        keys = [
            key
            for key in joined.split(_SEPARATOR)
            if key in _STATED or (is_field(key) and key not in HOP_KEYS)
        ]
        layout = " ".join(keys), itemgetter(*keys)
        self.keep(joined, layout)
        return layout


_layouts = _Layouts(_MAX_LAYOUTS, _LONGEST_NAMES)


def write_statement(environ: Environ, mount: str, prefix: str, added: dict[str, str]) -> str:
    """The lines after the request line, with the empty one. ``mount`` is a percent-encoded name;
    ``prefix`` that of a proxy before SCRIPT_NAME; ``added`` are fields of this hop."""
    names, get_values = _layouts[_SEPARATOR.join(environ)]
    values = _SEPARATOR.join((prefix, *get_values(environ), *added.values()))
    if added:
        names = " ".join((names, *added))
    return f"{_STATEMENT}{mount} SCRIPT_NAME {names}\r\n{_REQUEST}{values}\r\n\r\n"


class _Statements(Memory[tuple[str, list[str]]]):
    """Lines, each with its CR, to their mount and keys."""

    def __missing__(self, line: str) -> tuple[str, list[str]]:
        mount, *keys = line[len(_STATEMENT) : -1].split(" ")
        statement = unquote(mount), keys
        self.keep(line, statement)
        return statement


class StatementParser(HeadParser):
    """Parses statements of front workers, and plain heads."""

    _statements = _Statements(_MAX_LAYOUTS, _LONGEST_NAMES)

    def parse(self, raw: bytes, trusts_peer: bool) -> RequestHead:
        """See ``HeadParser``."""
        # one character is found much faster than two
        lines = raw.decode("latin-1").split("\n")
        if len(lines) != 5 or not lines[1].startswith(_STATEMENT):
            return super().parse(raw, trusts_peer)
        line = lines[0][:-1]
        head = self._read_request_line(line)
        head.line = raw[: len(line)]
        if not head.path:
            head.fields = {}  # the statement has the Host
            decide_target(head)
        head.mount, keys = self._statements[lines[1]]
        values = lines[2][len(_REQUEST) : -1].split(_SEPARATOR)
        fields = head.fields = dict(zip(keys, values))
        if len(values) != len(keys) or len(fields) != len(keys):
            raise MalformedRequest("a statement whose names and values do not match")
        if "CONTENT_LENGTH" in fields or "HTTP_TRANSFER_ENCODING" in fields:
            length, coding = fields.get("CONTENT_LENGTH"), fields.get("HTTP_TRANSFER_ENCODING")
            try:
                head.content_length = read_length(length, coding, is_http11=head.is_http11)
            except MalformedMessage as error:
                raise MalformedRequest(error.args[0]) from None
        return head


class _Everybody(dict[str, tuple[str, bool]]):
    """Trusts every peer."""

    def __missing__(self, peer: str) -> tuple[str, bool]:
        return "", True


class FrontWorkers:
    """The trusted peers of a pool's worker, as ``TrustedProxies`` of front workers. They add the
    Date field to responses."""

    peers = _Everybody()
    add_date = True

    def build_parser(self, limits: Limits) -> HeadParser:
        """A parser for requests of front workers."""
        return StatementParser(limits)

    def apply(self, head: RequestHead, environ: Environ) -> str:
        """The name of the mount, "" without a statement, as for the worker's own probes. The values
        are in ``environ`` already, as fields of the head."""
        return head.mount
