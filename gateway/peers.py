"""Who is at the other end of a Unix socket: only the kernel can say, and no process can forge it.

Refuses to know what may be done with it. Source: unix(7), SO_PEERCRED.
"""

from __future__ import annotations

import socket
from struct import unpack
from typing import Any


def find_peer_user(connection: Any) -> int:
    """The number of the user as whom the peer has connected or, for one that has been connected to,
    has begun to listen."""
    _, user, _ = unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(user)
