"""Takes its client's connection over where that is offered, and says "mine"; else "no offer"."""


def app(environ, start_response):
    connection = environ.get("gunicorn.socket")
    if connection is None:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"no offer: {environ.get('HTTP_UPGRADE', '')}".encode()]
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nmine"
    )
    return []
