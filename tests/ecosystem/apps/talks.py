"""WebSockets and Socket.IO: each waits once its client is there, and sends what comes of it."""

import os

import flask
import flask_sock
import flask_socketio
import simple_websocket
from site_ import wait_for

# --- flask-sock -------------------------------------------------------------------------------

flask_sock_app = flask.Flask(__name__)


@flask_sock.Sock(flask_sock_app).route("/wait")
def flask_sock_wait(websocket):
    address = flask.request.script_root + flask.request.path
    websocket.send(f"{wait_for(websocket.receive())} {address}")


# --- simple-websocket -------------------------------------------------------------------------


def simple_websocket_app(environ, start_response):
    websocket = simple_websocket.Server.accept(environ)
    websocket.send(wait_for(websocket.receive()))
    websocket.close()
    start_response("200 OK", [])
    return []


# --- gevent-websocket -------------------------------------------------------------------------


def gevent_websocket_app(environ, start_response):
    websocket = environ["wsgi.websocket"]
    websocket.send(wait_for(websocket.receive()))
    return []


# --- Flask-SocketIO ---------------------------------------------------------------------------

socketio_app = flask.Flask(__name__)
# a poll that finds nothing ends with the next ping
socketio = flask_socketio.SocketIO(socketio_app, ping_interval=1)


@socketio.on("wait")
def socketio_wait(path):
    return wait_for(path)


@socketio.on("where")
def socketio_where():
    return os.getpid()
