"""The state that all connections of a worker share, set up before the first is accepted.

The server sets ``is_draining`` and the time; connections add and remove themselves.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from copy import copy
from itertools import chain, count, repeat
from operator import add
from typing import Any

from gateway.access_log import AccessLog
from gateway.http.dispatch import MountTable
from gateway.http.environ import MountInfo
from gateway.http.forwarded import TrustedProxies
from gateway.http.head_reader import HeadReader
from gateway.http.spool import Spool
from gateway.http.statement import FrontWorkers
from gateway.http.wire.greenlets import GreenletPool
from gateway.http.wire.push import Pusher
from gateway.inflight import InFlight
from gateway.limits import Limits
from gateway.wsgi import Environ


def _number_requests() -> Callable[[], str]:
    """A function for unique request ids, built from C functions and prepared strings, which is
    faster than formatting a number for each request."""
    prefix = os.urandom(8).hex()
    ends = [f"{number:03x}" for number in range(4096)]
    blocks = (map(add, repeat(f"{prefix}-{block:x}"), ends) for block in count())
    return chain.from_iterable(blocks).__next__


def end_no_page(_: str) -> bytes:
    """The default end of error pages: nothing."""
    return b""


def hide_fault(_: BaseException) -> str:
    """The default for exceptions of apps on error pages: nothing."""
    return ""


class Service:
    """``connections`` are the open ones; ``on_close`` is called after each close.

    ``date_line`` ends a response head: the Date field, formatted once a second, and the empty line;
    only the latter if the peers add the field.
    ``next_request_id`` returns an id that is unique among workers and restarts.
    ``show_fault`` returns the text for an app's exception on an error page, and ``end_page`` the
    end of the page, by the mount's prefix. Without ``keeps_connections``, each is closed after one
    response.
    """

    def __init__(
        self,
        *,
        table: MountTable,
        base_environ: Environ,
        limits: Limits,
        proxies: TrustedProxies | FrontWorkers,
        access_log: AccessLog,
        in_flight: InFlight | None = None,
        show_fault: Callable[[BaseException], str] = hide_fault,
        keeps_connections: bool = True,
    ) -> None:
        self.table = table
        self.base_environ = base_environ
        self.limits = limits
        self.proxies = proxies
        self.access_log = access_log
        self.in_flight = in_flight or InFlight()
        self.show_fault = show_fault
        self.keeps_connections = keeps_connections
        self.end_page: Callable[[str], bytes] = end_no_page
        self.reader = HeadReader(limits, self.proxies.build_parser(limits).parse)
        self.greenlets = GreenletPool()
        self.submit = self.greenlets.submit
        self.spool = Spool(limits.max_spooled_bytes)
        self.connections: set[Any] = set()
        self.update_date()
        self.is_draining = False
        self.on_close: Callable[[], None] | None = None
        self.pusher: Pusher | None = None  # a server on TCP brings one
        self.next_request_id = _number_requests()
        base_environ["gateway.is_draining"] = lambda: self.is_draining

    def update_date(self) -> None:
        """Update the Date field; call it once a second."""
        line = time.strftime("Date: %a, %d %b %Y %H:%M:%S GMT\r\n\r\n", time.gmtime())
        self.date_line = b"\r\n" if self.proxies.add_date else line.encode()

    def adjust(self, table: MountTable, limits: Limits, mounts: MountInfo) -> None:
        """Use another table and other limits from the next request on."""
        self.table = table
        self.limits = limits
        self.spool.max_bytes = limits.max_spooled_bytes
        self.reader = HeadReader(limits, self.proxies.build_parser(limits).parse)
        self.base_environ = self.base_environ | {"gateway.mounts": mounts}

    def adjusted(self, table: MountTable, limits: Limits, mounts: MountInfo) -> Service:
        """A copy with another table and limits that shares the rest, for probes."""
        other = copy(self)
        other.spool = copy(self.spool)
        other.adjust(table, limits, mounts)
        return other
