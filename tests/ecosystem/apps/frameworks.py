"""Frameworks: each waits in a view of its own, and names the view's address below its prefix."""

import asyncio

import bottle
import cherrypy
import falcon
import flask
from a2wsgi import ASGIMiddleware
from pyramid.config import Configurator
from pyramid.response import Response
from site_ import parameters, wait_for

# --- Flask ------------------------------------------------------------------------------------

flask_app = flask.Flask(__name__)


@flask_app.get("/wait")
def flask_wait():
    return wait_for(flask.request.args["path"]) + " " + flask.url_for("flask_wait")


@flask_app.get("/async")
async def flask_async():
    told = await asyncio.to_thread(wait_for, flask.request.args["path"])
    return told + " " + flask.url_for("flask_async")


@flask_app.get("/stream")
def flask_stream():
    def pieces(path):
        yield wait_for(path)
        yield " "
        yield flask.url_for("flask_stream")

    return flask.stream_with_context(pieces(flask.request.args["path"]))


# --- Bottle -----------------------------------------------------------------------------------

bottle_app = bottle.Bottle()


@bottle_app.get("/wait", name="wait")
def bottle_wait():
    return wait_for(bottle.request.query.path) + " " + bottle.request.script_name + "wait"


# --- Falcon -----------------------------------------------------------------------------------


class FalconWait:
    def on_get(self, request, response):
        response.text = wait_for(request.get_param("path")) + " " + request.app + "/wait"


falcon_app = falcon.App()
falcon_app.add_route("/wait", FalconWait())

# --- Pyramid ----------------------------------------------------------------------------------


def pyramid_wait(request):
    return Response(wait_for(request.params["path"]) + " " + request.route_path("wait"))


with Configurator() as config:
    config.add_route("wait", "/wait")
    config.add_view(pyramid_wait, route_name="wait")
    pyramid_app = config.make_wsgi_app()

# --- CherryPy ---------------------------------------------------------------------------------


class CherryWait:
    @cherrypy.expose
    def wait(self, path):
        return wait_for(path) + " " + cherrypy.request.script_name + "/wait"


cherrypy.config.update({"environment": "embedded"})
# no script name of its own: the request's
cherrypy_app = cherrypy.Application(CherryWait(), script_name=None)

# --- ASGI by way of a2wsgi --------------------------------------------------------------------


async def asgi(scope, receive, send):
    environ = {"QUERY_STRING": scope["query_string"].decode()}
    told = await asyncio.to_thread(wait_for, parameters(environ)["path"])
    content = f"{told} {scope['root_path']}/wait".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": content})


a2wsgi_app = ASGIMiddleware(asgi)
