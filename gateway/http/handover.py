"""Idle connections of a worker that no longer serves, handed over to one that does.

Owns what crosses between the two: the socket, and what has been learnt from its connection. Neither
knows the other. They share a pair of Unix sockets that is the supervisor's, so nothing is lost that
is on its way when a worker dies. Refuses to know when. Source: unix(7), SCM_RIGHTS.
"""

from __future__ import annotations

import _socket
import json
import os
from array import array
from collections.abc import Callable
from socket import CMSG_LEN, MSG_CMSG_CLOEXEC, SCM_RIGHTS, SOL_SOCKET
from typing import Any, NamedTuple

from gevent import get_hub

from gateway.http.wire.stream import READ

# at one wake-up; the other workers' turn comes in between
TAKEN_PER_TURN = 8
_DESCRIPTOR_BYTES = array("i").itemsize
# a whole message; a longer head stays where it is
_MOST_BYTES = 128 * 1024


class Known(NamedTuple):
    """What a worker has learnt of a connection: its peer; whether a PROXY header has been read, and
    was one that names nobody; the part of a head that has come.

    Whether the peer is trusted is not: the receiver's table may say otherwise."""

    peer: str
    peer_port: str
    has_header: bool
    is_nobody: bool
    data: bytes


class Handover:
    """One worker's side. ``giving`` and ``taking`` are descriptors of the two ends, which it closes
    with the process; ``take(descriptor, known)`` is called in the hub with what others give."""

    def __init__(self, giving: int, taking: int) -> None:
        self._giving = _open(giving)
        self._taking = _open(taking)
        self._watcher: Any = get_hub().loop.io(taking, READ)
        self.take: Callable[[int, Known], object] = _refuse

    def watch(self, wanted: bool) -> None:
        """Take what others give, or leave it to the others."""
        if wanted is not self._watcher.active:
            if wanted:
                self._watcher.start(self._on_given)
            else:
                self._watcher.stop()

    def _on_given(self) -> None:
        self.take_some()

    def take_some(self) -> bool:
        """One turn's worth; whether there may be more."""
        for _ in range(TAKEN_PER_TURN):
            try:
                message, rights, _, _ = self._taking.recvmsg(
                    _MOST_BYTES, CMSG_LEN(_DESCRIPTOR_BYTES), MSG_CMSG_CLOEXEC
                )
            except OSError:
                return False  # another was faster
            if not message:
                self.watch(False)  # nobody has the other end
                return False
            for _, _, raw in rights:
                head, _, data = message.partition(b"\n")
                [descriptor] = array("i", raw)
                peer, peer_port, has_header, is_nobody = json.loads(head)
                self.take(descriptor, Known(peer, peer_port, has_header, is_nobody, data))
        return True

    def give(self, descriptor: int, known: Known) -> bool:
        """Whether it is on its way. Raises BlockingIOError where there is no room just now."""
        *head, data = known
        message = json.dumps(head).encode() + b"\n" + data
        if len(message) > _MOST_BYTES:
            return False
        rights = [(SOL_SOCKET, SCM_RIGHTS, array("i", [descriptor]))]
        try:
            self._giving.sendmsg([message], rights)
        except BlockingIOError:
            raise
        except OSError:
            return False  # too many are on their way (unix(7): ETOOMANYREFS)
        return True


def _open(descriptor: int) -> Any:
    os.set_inheritable(descriptor, False)
    opened = _socket.socket(fileno=descriptor)
    opened.setblocking(False)
    return opened


def _refuse(descriptor: int, _: Known) -> None:
    os.close(descriptor)
