"""A server of its own, not a WSGI app: tells what it was asked, and echoes where it is upgraded.

Upgraded to ``session`` it answers whatever comes in the form of HTTP, and never ends by itself.
"""

import json
import socketserver

EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while lines := self.read_head():
            fields = dict(line.lower().split(": ", 1) for line in lines[1:])
            protocol = fields.get("upgrade", "")
            if protocol in ("echo", "session"):
                self.wfile.write(
                    b"HTTP/1.1 101 Switching Protocols\r\n"
                    b"Connection: Upgrade\r\nUpgrade: " + protocol.encode() + b"\r\n\r\n"
                )
                while data := self.connection.recv(65536):
                    self.wfile.write(data if protocol == "echo" else EVIL)
                return
            content = json.dumps({"line": lines[0], "fields": fields}).encode()
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content))
            self.wfile.write(content)

    def read_head(self) -> list[str]:
        lines = []
        while line := self.rfile.readline().decode("latin-1").rstrip("\r\n"):
            lines.append(line)
        return lines


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


if __name__ == "__main__":
    Server(("", 3000), Handler).serve_forever()
