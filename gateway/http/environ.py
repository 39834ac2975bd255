"""Builds the WSGI environ from a request head (PEP 3333 "environ Variables").

Knows neither sockets nor mounts.
"""

import sys
from typing import Any

from gateway import __version__
from gateway.protocol.request import RequestHead
from gateway.wsgi import RAW_PATH_INFO, Environ, FileWrapper

MountInfo = tuple[tuple[str, str, bool], ...]


class EmptyContent:
    """``wsgi.input`` of a request without content: one object for all requests of a worker, so apps
    can neither change nor close it."""

    __slots__ = ()

    def close(self) -> None:
        """Does nothing."""

    def read(self, size: int = -1, /) -> bytes:
        return b""

    def readline(self, size: int = -1, /) -> bytes:
        return b""

    def readlines(self, hint: int = -1, /) -> list[bytes]:
        return []

    def __iter__(self) -> "EmptyContent":
        return self

    def __next__(self) -> bytes:
        raise StopIteration


def name_server(address: Any, machine: str) -> tuple[str, str]:
    """SERVER_NAME and SERVER_PORT of a listener's ``address``; the name of the ``machine`` for a
    wildcard address. Neither may be empty (PEP 3333 "environ Variables")."""
    if not isinstance(address, tuple):
        return "localhost", "80"  # a Unix socket
    host, port = address[:2]
    return machine if host in ("0.0.0.0", "::") else host, str(port)


def build_base_environ(
    server_name: str, server_port: str, mounts: MountInfo, generation: str = ""
) -> Environ:
    """The part of the environ that all requests of a listener share; each request copies it.

    ``mounts`` becomes ``gateway.mounts``: (name, kind, whether it has loaded) of each mount.
    ``gateway.is_draining()`` is true when streams should end; ``gateway.generation`` is the name of
    the worker's generation.
    """
    return {
        # required by PEP 3333; empty values are set for each request
        "REQUEST_METHOD": "",
        "SCRIPT_NAME": "",
        "PATH_INFO": "",
        "QUERY_STRING": "",
        "SERVER_NAME": server_name,
        "SERVER_PORT": server_port,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": EmptyContent(),
        "wsgi.errors": sys.stderr,
        # requests run as greenlets: another one may run whenever this one waits
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        # optional in PEP 3333, or common among servers
        "wsgi.file_wrapper": FileWrapper,
        "wsgi.input_terminated": True,
        "wsgi.early_hints": None,
        "REMOTE_ADDR": "",
        "REMOTE_PORT": "",
        "REQUEST_URI": "",
        "SERVER_SOFTWARE": f"gateway/{__version__}",
        "gateway.client_disconnected": None,
        "gateway.generation": generation,
        "gateway.is_draining": None,
        "gateway.mounts": mounts,
        RAW_PATH_INFO: "",
        "gateway.request_id": "",
    }


def build_environ(base: Environ, head: RequestHead, peer_host: str, peer_port: str) -> Environ:
    """The environ of one request, without SCRIPT_NAME, PATH_INFO and content."""
    environ = base.copy()
    environ["REQUEST_METHOD"] = head.method
    environ["QUERY_STRING"] = head.query
    environ["REQUEST_URI"] = head.target
    environ["REMOTE_ADDR"] = peer_host
    environ["REMOTE_PORT"] = peer_port
    if not head.is_http11:
        environ["SERVER_PROTOCOL"] = "HTTP/1.0"
    environ.update(head.fields)
    return environ
