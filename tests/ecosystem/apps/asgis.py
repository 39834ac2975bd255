"""FastAPI and Starlette, with a lifespan that is noted in the file LIFE."""

import os
from contextlib import asynccontextmanager
from pathlib import Path

import fastapi
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute


@asynccontextmanager
async def note_life(app):
    life = Path(os.environ["LIFE"])
    life.write_text("begun")
    yield
    life.write_text("begun, ended")


async def talk(websocket):
    await websocket.accept()
    while (event := await websocket.receive())["type"] == "websocket.receive":
        if event.get("text") is not None:
            await websocket.send_text(f"{websocket.scope['root_path']} {event['text']}")
        else:
            await websocket.send_bytes(event["bytes"])


def describe(request, name):
    url = str(request.url_for("hello"))
    return {"name": name, "url": url, "root_path": request.scope["root_path"]}


# --- FastAPI ----------------------------------------------------------------------------------

fastapi_app = fastapi.FastAPI(lifespan=note_life)


@fastapi_app.get("/hello")
async def hello(name: str, request: fastapi.Request):
    return describe(request, name)


@fastapi_app.websocket("/talk")
async def fastapi_talk(websocket: fastapi.WebSocket):
    await talk(websocket)


# --- Starlette --------------------------------------------------------------------------------


async def starlette_hello(request):
    return JSONResponse(describe(request, request.query_params["name"]))


def make_starlette_app():
    routes = [
        Route("/hello", starlette_hello, name="hello"),
        WebSocketRoute("/talk", talk),
    ]
    return Starlette(routes=routes, lifespan=note_life)
