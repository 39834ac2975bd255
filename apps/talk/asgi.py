"""A WebSocket that echoes messages, and a page to try it: plain ASGI.

Uvicorn runs it, as a pool's command. Knows the gateway only by ``X-Forwarded-Prefix``, which tells
where it is mounted. Source: the ASGI specification, version 3, "HTTP & WebSocket".
"""

from html import escape
from pathlib import Path

HERE = Path(__file__).parent
PAGE = (HERE / "page.html").read_text("utf-8")
FILES = {
    "/talk.js": (b"text/javascript; charset=utf-8", (HERE / "talk.js").read_bytes()),
    "/style.css": (b"text/css", (HERE / "style.css").read_bytes()),
}


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await live(receive, send)
    elif scope["type"] == "websocket" and scope["path"] == "/ws":
        await talk(receive, send)
    elif scope["type"] == "websocket":
        await send({"type": "websocket.close"})  # before it is accepted: 403
    else:
        await answer(scope, send)


async def live(receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def talk(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        said = {key: message[key] for key in ("text", "bytes") if message.get(key) is not None}
        await send({"type": "websocket.send", **said})


async def answer(scope, send):
    status, kind, body = 404, b"text/plain; charset=utf-8", b"Not found.\n"
    if scope["method"] not in ("GET", "HEAD"):
        status, body = 405, b"Only to be read.\n"
    elif scope["path"] == "/":
        prefix = dict(scope["headers"]).get(b"x-forwarded-prefix", b"").decode("latin-1")
        status, kind = 200, b"text/html; charset=utf-8"
        body = PAGE.replace("$prefix", escape(prefix)).encode()
    elif scope["path"] in FILES:
        status, (kind, body) = 200, FILES[scope["path"]]
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    if status == 405:
        headers.append((b"allow", b"GET, HEAD"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
