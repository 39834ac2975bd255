"""Reads its content, and answers ``/long`` with as many bytes as the query says, piece by piece. As
a program it is a server of its own, at the port that it is given."""

import socketserver
import sys
import wsgiref.simple_server

PIECE = b"x" * 65536


def app(environ, start_response):
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    if environ["PATH_INFO"] == "/long":
        return (PIECE for _ in range(int(environ["QUERY_STRING"]) // len(PIECE)))
    return [b"short"]


class Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    wsgiref.simple_server.make_server("127.0.0.1", int(sys.argv[1]), app, Server).serve_forever()
