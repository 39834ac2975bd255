"""Who runs this, and what it may read: a WSGI app, and by itself a server on a Unix socket."""

import grp
import json
import os
import pwd
import socketserver
import sys


def app(environ, start_response):
    """JSON; ``content`` is of the file that the query names, None where that may not be read."""
    start_response("200 OK", [("Content-Type", "application/json")])
    try:
        with open(environ["QUERY_STRING"]) as file:
            content = file.read()
    except OSError:
        content = None
    said = {
        "user": pwd.getpwuid(os.geteuid()).pw_name,
        "group": grp.getgrgid(os.getegid()).gr_name,
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "content": content,
    }
    return [json.dumps(said).encode()]


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        """One request of HTTP/1.1 without content; the connection ends with its answer."""
        target = self.rfile.readline().decode().split(" ")[1]
        while self.rfile.readline().strip():
            pass
        query = {"QUERY_STRING": target.partition("?")[2]}
        content = b"".join(app(query, lambda status, fields: None))
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        self.wfile.write(head.encode() + content)


if __name__ == "__main__":
    socketserver.ThreadingUnixStreamServer(sys.argv[1], Handler).serve_forever()
