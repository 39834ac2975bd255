"""The user at the other end of a Unix socket, from the kernel, so it cannot be forged.

Source: unix(7), SO_PEERCRED.
"""

from __future__ import annotations

import socket
from struct import unpack
from typing import Any


def find_peer_user(connection: Any) -> int:
    """The id of the user who called connect(2) or, for a client's socket, listen(2)."""
    _, user, _ = unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(user)
