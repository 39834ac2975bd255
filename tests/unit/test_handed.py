"""What an app is handed belongs to its request: nothing leads to the client's connection."""

from collections.abc import Iterator
from types import FrameType, ModuleType
from typing import Any

import pytest
from greenlet import greenlet
from harness import GET

from gateway.http.connection import Connection
from gateway.http.wire.wire import Wire
from gateway.mounts.threadpool import ThreadPool
from gateway.mounts.threads import InThreads

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
# what a bound method, a partial and a decorated function lead to, beside public names
LEADING = ("__self__", "__func__", "__wrapped__")
# what leads anywhere in any process
PLAIN = (str, bytes, int, float, type, ModuleType, FrameType, greenlet, type(None))


def find_reachable(*given: Any) -> list[Any]:
    """All that is reached from ``given`` by public names, where nothing is called."""
    found: dict[int, Any] = {}
    waiting = list(given)
    while waiting:
        thing = waiting.pop()
        if isinstance(thing, PLAIN) or id(thing) in found:
            continue
        found[id(thing)] = thing
        names = [name for name in dir(thing) if not name.startswith("_") or name in LEADING]
        waiting += [getattr(thing, name, None) for name in names]
        waiting += thing.values() if isinstance(thing, dict) else ()
        waiting += thing if isinstance(thing, (list, tuple, set)) else ()
    return list(found.values())


@pytest.fixture
def threads() -> Iterator[ThreadPool]:
    pool = ThreadPool(1)
    yield pool
    pool.spawn(lambda: True)  # which ends its thread


@pytest.mark.parametrize("in_threads", [False, True])
@pytest.mark.parametrize("sends", [[GET], [POST + b"12345"], [POST, b"12345"], [UPGRADE]])
def test_an_app_is_not_handed_the_connection_of_its_client(
    serve: Any, threads: ThreadPool, sends: list[bytes], in_threads: bool
) -> None:
    kinds: set[type] = set()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        assert environ["gateway.client_disconnected"]() is False
        kinds.update(map(type, find_reachable(environ, start_response, write)))
        environ["wsgi.input"].read()
        return []

    gateway = serve(InThreads(app, threads) if in_threads else app)
    assert gateway.connect().ask(*sends).status == 200
    assert len(kinds) > 5
    assert not {kind for kind in kinds if issubclass(kind, (Connection, Wire))}


def test_a_way_to_the_connection_would_be_found(serve: Any) -> None:
    gateway = serve(lambda *_: [])
    gateway.connect()
    [connection] = gateway.service.connections
    reached = find_reachable({"a": connection.close})
    assert Connection in map(type, reached)
