"""Passes idle connections of a worker that no longer serves to one that does.

Owns the messages between the two: the socket, and the state of its connection. The workers share a
pair of Unix sockets that the supervisor owns, so messages in transit are not lost when a worker
crashes. Source: unix(7), SCM_RIGHTS.
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

from gateway.http.wire.wire import READ

# messages read in one iteration of the loop; other workers read in between
TAKEN_PER_TURN = 8
_DESCRIPTOR_BYTES = array("i").itemsize
# of a message; connections with a longer partial head are not passed on
_MAX_BYTES = 128 * 1024


class HandedConnection(NamedTuple):
    """The state of a connection: its peer; whether a PROXY header has been read, and whether it
    names no client; the received part of a head.

    Not whether the peer is trusted, since the receiver's table may differ."""

    peer: str
    peer_port: str
    has_header: bool
    is_nobody: bool
    data: bytes


class Handover:
    """A worker's side. ``giving`` and ``taking`` are descriptors of the two ends, which stay open
    until the process exits; ``take(descriptor, handed)`` is called in the hub for each one."""

    def __init__(self, giving: int, taking: int) -> None:
        self._giving = _open(giving)
        self._taking = _open(taking)
        self._watcher: Any = get_hub().loop.io(taking, READ)
        self.take: Callable[[int, HandedConnection], object] = _refuse

    def watch(self, wanted: bool) -> None:
        """Start or stop receiving connections."""
        if wanted is not self._watcher.active:
            if wanted:
                self._watcher.start(self._on_given)
            else:
                self._watcher.stop()

    def _on_given(self) -> None:
        self.take_some()

    def take_some(self) -> bool:
        """Receive up to TAKEN_PER_TURN connections; whether there may be more."""
        for _ in range(TAKEN_PER_TURN):
            try:
                message, rights, _, _ = self._taking.recvmsg(
                    _MAX_BYTES, CMSG_LEN(_DESCRIPTOR_BYTES), MSG_CMSG_CLOEXEC
                )
            except OSError:
                return False  # another worker was faster
            if not message:
                self.watch(False)  # the other end is closed
                return False
            for _, _, raw in rights:
                head, _, data = message.partition(b"\n")
                [descriptor] = array("i", raw)
                peer, peer_port, has_header, is_nobody = json.loads(head)
                self.take(
                    descriptor, HandedConnection(peer, peer_port, has_header, is_nobody, data)
                )
        return True

    def give(self, descriptor: int, handed: HandedConnection) -> bool:
        """Whether it was sent. Raises BlockingIOError if the socket's buffer is full."""
        *head, data = handed
        message = json.dumps(head).encode() + b"\n" + data
        if len(message) > _MAX_BYTES:
            return False
        rights = [(SOL_SOCKET, SCM_RIGHTS, array("i", [descriptor]))]
        try:
            self._giving.sendmsg([message], rights)
        except BlockingIOError:
            raise
        except OSError:
            return False  # too many in transit (unix(7): ETOOMANYREFS)
        return True


def _open(descriptor: int) -> Any:
    os.set_inheritable(descriptor, False)
    opened = _socket.socket(fileno=descriptor)
    opened.setblocking(False)
    return opened


def _refuse(descriptor: int, _: HandedConnection) -> None:
    os.close(descriptor)
