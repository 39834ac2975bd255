"""What a front worker states of a request to the pool that runs its mount, written and read.

Between a front worker and a pool's worker, and nowhere else, a head has three lines: the request
line to the byte, ``Gateway-Statement`` with the mount and the names of what is stated, and
``Gateway-Request`` with the values. The names are keys of the environ; the front worker has checked
every value, so the pool's worker takes them as they are. Names come again with every request of a
browser, so both sides remember them. Plain heads are read beside these, such as those of probes.

Whoever can connect to a pool's socket is believed: it belongs to the user of the front workers, and
nobody else may open it (``supervisor/listeners/sockets.py``). From anybody else the parser drops
both fields. Refuses to know sockets and mounts.
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
from gateway.protocol.names import CACHE_ENTRIES
from gateway.protocol.request import HeadParser, RequestHead, decide_target
from gateway.wsgi import Environ

# what the front worker has found of the client, beside the fields
_FOUND = ("REMOTE_ADDR", "REMOTE_PORT", "SERVER_NAME", "SERVER_PORT", "wsgi.url_scheme")
_STATED = frozenset((*_FOUND, "gateway.request_id"))
_STATEMENT, _REQUEST = "Gateway-Statement: ", "Gateway-Request: "
# no value has it (RFC 9110 §5.5), and no key
_JOINT = "\0"
_LONGEST_NAMES = 1024


class _Layouts(Memory[tuple[str, Callable[[Environ], Any]]]):
    """The keys of an environ, joined, to those that are stated, and what gets their values."""

    def __missing__(self, joined: str) -> tuple[str, Callable[[Environ], Any]]:
        keys = [
            key
            for key in joined.split(_JOINT)
            if key in _STATED or (is_field(key) and key not in HOP_KEYS)
        ]
        layout = " ".join(keys), itemgetter(*keys)
        self.keep(joined, layout)
        return layout


_layouts = _Layouts(CACHE_ENTRIES, _LONGEST_NAMES)


def write_statement(environ: Environ, mount: str, prefix: str, added: dict[str, str]) -> str:
    """The lines behind the request line, with the empty one. ``mount`` is a name, quoted;
    ``prefix`` what a proxy has put before SCRIPT_NAME; ``added`` are fields of this hop."""
    names, get_values = _layouts[_JOINT.join(environ)]
    values = _JOINT.join((prefix, *get_values(environ), *added.values()))
    if added:
        names = " ".join((names, *added))
    return f"{_STATEMENT}{mount} SCRIPT_NAME {names}\r\n{_REQUEST}{values}\r\n\r\n"


class _Statements(Memory[tuple[str, list[str]]]):
    """Lines to the mount that they name, and the keys."""

    def __missing__(self, line: str) -> tuple[str, list[str]]:
        mount, *keys = line[len(_STATEMENT) :].split(" ")
        statement = unquote(mount), keys
        self.keep(line, statement)
        return statement


class StatementParser(HeadParser):
    """Reads what front workers state, and beside that plain heads."""

    _statements = _Statements(CACHE_ENTRIES, _LONGEST_NAMES)

    def parse(self, raw: bytes, trusts_peer: bool) -> RequestHead:
        """See ``HeadParser``."""
        lines = raw[:-4].decode("latin-1").split("\r\n")
        if len(lines) != 3 or not lines[1].startswith(_STATEMENT):
            return super().parse(raw, trusts_peer)
        line, statement, request = lines
        head = self._read_request_line(line)
        head.line = raw[: len(line)]
        if not head.path:
            head.fields = {}  # the Host that counts is stated
            decide_target(head)
        head.mount, keys = self._statements[statement]
        values = request[len(_REQUEST) :].split(_JOINT)
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
    """Who can connect is trusted, whoever it is."""

    def __missing__(self, peer: str) -> tuple[str, bool]:
        return "", True


class FrontWorkers:
    """To a pool's worker what ``TrustedProxies`` is to others: whose word counts. They add the
    Date field to what is answered."""

    peers = _Everybody()
    add_date = True

    def build_parser(self, limits: Limits) -> HeadParser:
        """One that reads what these peers send."""
        return StatementParser(limits)

    def apply(self, head: RequestHead, environ: Environ) -> str:
        """The name of the mount, "" where none is stated, as by a probe of the worker's own. What
        else is stated is in ``environ`` already, among the fields."""
        return head.mount
