"""The address of a server behind a mount: connecting, idle connections, up or down.

Refuses to know HTTP and the other addresses. Source: RFC 9112 §9.3 and §9.5 (persistence), unix(7).
"""

import _socket
import errno
import os
from contextlib import suppress
from ipaddress import ip_address
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import gevent

from gateway.http.wire.wire import WRITE, wait_for
from gateway.upstream.link import Link

# idle connections to one address, per worker
MAX_IDLE = 128
# how many requests one connection is used for, as nginx does: where a server has several processes
# on one socket, a new one would get none while the others' connections are kept busy
MAX_USES = 1000
# how long an address to which connecting failed comes after the others
PASSIVE_DOWN_SECONDS = 5.0
# how long the addresses of a name are cached; those of containers change
RESOLVED_SECONDS = 1.0
# pause before another attempt, when the queue of a Unix socket is full
FULL_QUEUE_SECONDS = 0.01

Endpoint = tuple[int, Any]  # address family, and what connect() takes


class Address:
    """``http://HOST:PORT`` or ``unix:/path``. ``authority`` is the Host field for requests that
    have none.

    ``in_flight`` counts requests, ``down_until`` is a monotonic time, ``is_healthy`` the result of
    the health check. With ``is_own``, workers of a pool of this gateway listen there.
    """

    def __init__(self, text: str, *, max_idle: int = MAX_IDLE, is_own: bool = False) -> None:
        self.text = text
        self._is_own = is_own
        self._max_idle = max_idle
        self.in_flight = 0
        self.down_until = 0.0
        self.is_healthy = True
        self._idle: list[Link] = []
        self._resolved: list[Endpoint] = []
        self._resolved_until = 0.0
        self._name, self._port = "", 0
        if text.startswith("unix:"):
            self.authority = "localhost"
            self._use_for_ever((_socket.AF_UNIX, text.removeprefix("unix:")))
            return
        parts = urlsplit(text)
        self.authority = parts.netloc.removesuffix(":80")
        self._name, self._port = parts.hostname or "", parts.port or 80
        with suppress(ValueError):
            is_v6 = ip_address(self._name).version == 6
            family = _socket.AF_INET6 if is_v6 else _socket.AF_INET
            self._use_for_ever((family, (self._name, self._port)))

    def _use_for_ever(self, endpoint: Endpoint) -> None:
        self._resolved = [endpoint]
        self._resolved_until = float("inf")

    def take(self, must_live: bool) -> Link | None:
        """The idle connection that was used last, or None. Never one with unread input; with
        ``must_live`` also none that the server has closed, as far as the kernel knows. Connections
        to pools are not checked: nothing is sent there without a request, and if one is closed,
        sending fails."""
        while self._idle:
            link = self._idle.pop()
            if link.is_closed:
                continue
            if not self._is_own and (link.has_input() if must_live else link.has_bytes()):
                link.close()
                continue
            link.is_idle = False
            return link
        return None

    def give_back(self, link: Link) -> None:
        """Keep ``link``, whose last response is complete, for another request."""
        link.uses += 1
        is_worn = link.uses >= MAX_USES
        if is_worn or not link.is_reusable or len(self._idle) >= self._max_idle:
            link.close()
            return
        link.park()
        self._idle.append(link)

    def close_idle(self, parked_before: float) -> bool:
        """Close connections that have been idle since before then. Returns whether any are left."""
        kept = []
        for link in self._idle:
            if link.parked < parked_before:
                link.close()
            elif not link.is_closed:
                kept.append(link)
        self._idle = kept
        return bool(kept)

    def close(self) -> None:
        """Keep no idle connections from now on."""
        self._max_idle = 0
        self.close_idle(float("inf"))

    def connect(self, timeout_seconds: float) -> Link:
        """A new connection. Raises OSError, including TimeoutError. May switch greenlets.

        After a failure the address comes after the others for a while.
        """
        try:
            with gevent.Timeout(timeout_seconds, TimeoutError("no connection in time")):
                link = self._connect_any()
        except OSError:
            self.down_until = monotonic() + PASSIVE_DOWN_SECONDS
            raise
        self.down_until = 0.0
        return link

    def _connect_any(self) -> Link:
        failure: OSError | None = None
        for family, endpoint in self._resolve():
            try:
                return Link(_connect(family, endpoint))
            except TimeoutError:
                raise
            except OSError as error:
                failure = error
        raise failure or OSError(errno.EADDRNOTAVAIL, "the name has no address")

    def _resolve(self) -> list[Endpoint]:
        if monotonic() > self._resolved_until:
            pool: Any = gevent.get_hub().threadpool
            found = pool.apply(_look_up, (self._name, self._port))
            if isinstance(found, OSError):
                raise found
            self._resolved = found
            self._resolved_until = monotonic() + RESOLVED_SECONDS
        return self._resolved


def _look_up(name: str, port: int) -> list[Endpoint] | OSError:
    """Runs in a native thread; errors are returned, since the thread would report exceptions."""
    try:
        found = _socket.getaddrinfo(name, port, 0, _socket.SOCK_STREAM)
    except OSError as error:
        return error
    return [(family, endpoint) for family, _, _, _, endpoint in found]


def _connect(family: int, endpoint: Any) -> Any:
    connecting = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK)
    connecting.setblocking(False)
    try:
        if family != _socket.AF_UNIX:
            # head and content never wait for each other's ACK
            connecting.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        while (code := connecting.connect_ex(endpoint)) == errno.EAGAIN:
            gevent.sleep(FULL_QUEUE_SECONDS)
        if code == errno.EINPROGRESS:
            wait_for(connecting, WRITE)
            code = connecting.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
    except BaseException:
        connecting.close()
        raise
    return connecting
