"""A WebSocket client, by wsproto, for tests of a worker, a whole gateway and the stack."""

import socket
from typing import Any

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Message, Request


class Peer:
    """On a connection of its own; the handshake is over, and ``accepted`` what came of it."""

    def __init__(self, connected: socket.socket, target: str, host: str = "a.example") -> None:
        self.socket = connected
        self._speaker = WSConnection(ConnectionType.CLIENT)
        self.send(Request(host=host, target=target))
        self.accepted = isinstance(self.next(), AcceptConnection)

    def send(self, event: Any) -> None:
        self.socket.sendall(self._speaker.send(event))

    def next(self) -> Any:
        """The next event."""
        while True:
            for event in self._speaker.events():
                return event
            self._speaker.receive_data(self.socket.recv(65536) or None)

    def message(self) -> Any:
        """The next whole one."""
        parts = [self.next()]
        while not parts[-1].message_finished:
            parts.append(self.next())
        return type(parts[0].data)().join(part.data for part in parts)

    def ask(self, message: "str | bytes") -> Any:
        """The message that comes back."""
        self.send(Message(message))
        return self.message()

    def close(self) -> None:
        """Both say so, then the server ends the connection (RFC 6455 §7.1.1)."""
        self.send(CloseConnection(1000))
        assert self.next().code == 1000
        self.expect_end()

    def expect_end(self) -> None:
        assert self.socket.recv(1) == b""
        self.socket.close()
