"""What all connections of a worker process share, decided before the first is accepted.

Refuses to know sockets. The server keeps ``is_draining`` and the time; connections add and
remove themselves.
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
    """Made of C throughout, without a Python frame for each request, and of texts that are there,
    since to print a number takes longer."""
    prefix = os.urandom(8).hex()
    ends = [f"{number:03x}" for number in range(4096)]
    blocks = (map(add, repeat(f"{prefix}-{block:x}"), ends) for block in count())
    return chain.from_iterable(blocks).__next__


def end_no_page(_: str) -> bytes:
    """What the pages of errors end with."""
    return b""


def tell_nothing(_: BaseException) -> str:
    """What strangers are told of an app's exception."""
    return ""


class Service:
    """``connections`` are the open ones; ``on_close`` is called after each close.

    ``date_line`` ends a response head: the Date field, made once a second, and the empty line;
    without the field where those who have asked add it.
    ``next_request_id`` gives one that is unique among workers and restarts.
    ``tell_fault`` gives what an error page shows of an app's exception, and ``end_page`` what it
    ends with, below a mount's prefix. Where it does not keep connections, each is closed after one
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
        tell_fault: Callable[[BaseException], str] = tell_nothing,
        keeps_connections: bool = True,
    ) -> None:
        self.table = table
        self.base_environ = base_environ
        self.limits = limits
        self.proxies = proxies
        self.access_log = access_log
        self.in_flight = in_flight or InFlight()
        self.tell_fault = tell_fault
        self.keeps_connections = keeps_connections
        self.end_page: Callable[[str], bytes] = end_no_page
        self.reader = HeadReader(limits, self.proxies.build_parser(limits).parse)
        self.greenlets = GreenletPool()
        self.submit = self.greenlets.submit
        self.spool = Spool(limits.max_spooled_bytes)
        self.connections: set[Any] = set()
        self.tell_time()
        self.is_draining = False
        self.on_close: Callable[[], None] | None = None
        self.pusher: Pusher | None = None  # a server on TCP brings one
        self.next_request_id = _number_requests()
        base_environ["gateway.is_draining"] = lambda: self.is_draining

    def tell_time(self) -> None:
        """To be called once a second."""
        line = time.strftime("Date: %a, %d %b %Y %H:%M:%S GMT\r\n\r\n", time.gmtime())
        self.date_line = b"\r\n" if self.proxies.add_date else line.encode()

    def adjust(self, table: MountTable, limits: Limits, mounts: MountInfo) -> None:
        """Serve other mounts within other limits from the next request on."""
        self.table = table
        self.limits = limits
        self.spool.max_bytes = limits.max_spooled_bytes
        self.reader = HeadReader(limits, self.proxies.build_parser(limits).parse)
        self.base_environ = self.base_environ | {"gateway.mounts": mounts}

    def adjusted(self, table: MountTable, limits: Limits, mounts: MountInfo) -> Service:
        """Another one that shares all else with this one, to ask how it would serve."""
        other = copy(self)
        other.spool = copy(self.spool)
        other.adjust(table, limits, mounts)
        return other
