"""A WebSocket that sends messages back, by hand (RFC 6455), on the connection that it takes."""

import struct
from base64 import b64encode
from hashlib import sha1

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CLOSE = 8


def app(environ, start_response):
    if "werkzeug.socket" not in environ:
        start_response("400 Bad Request", [])
        return [b"for WebSockets"]
    connection = environ["werkzeug.socket"]
    accept = b64encode(sha1(environ["HTTP_SEC_WEBSOCKET_KEY"].encode() + GUID).digest())
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept
    )
    with connection.makefile("rb") as frames:
        while send_back(connection, frames) not in (None, CLOSE):
            pass
    start_response("200 OK", [])
    return []


def send_back(connection, frames):
    """The opcode of the frame; None at the end."""
    head = frames.read(2)
    if len(head) < 2:
        return None
    size = head[1] & 127
    if size == 126:
        [size] = struct.unpack(">H", frames.read(2))
    elif size == 127:
        [size] = struct.unpack(">Q", frames.read(8))
    mask, masked = frames.read(4), frames.read(size)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    content = (int.from_bytes(masked, "big") ^ key).to_bytes(size, "big")
    if size > 65535:
        length = struct.pack(">BQ", 127, size)
    else:
        length = struct.pack(">BH", 126, size) if size > 125 else bytes([size])
    connection.sendall(head[:1] + length + content)
    return head[0] & 15
