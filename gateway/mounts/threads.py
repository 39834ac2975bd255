"""An app that runs in native threads, while its request stays with the event loop.

Owns the way between the two: the app is called, iterated and closed in one thread, and what it does
with its request there (``start_response``, ``write``, reading) is passed to the request's greenlet,
which alone touches the connection. Does not know apps and sockets. For a process whose modules are
not monkey-patched. Source: PEP 3333.

A thread cannot be ended from outside. One whose request has timed out continues until the app
returns or uses its request again, and counts until then. In one whose stream has ended, because its
client has left or it has timed out, GeneratorExit is raised where it next runs Python code, and
another thread takes its place.

A thread that waits for its greenlet, that is, for a slow client, does not count while other
requests wait for a thread.
"""

from __future__ import annotations

import io
import os
import socket
from _thread import allocate_lock
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextvars import Context
from ctypes import c_ulong, py_object, pythonapi
from enum import Enum
from functools import partial
from threading import get_ident
from typing import Any

from gevent import get_hub
from gevent.hub import Waiter

from gateway.errors import ClientDisconnected
from gateway.http.body import READ_BYTES
from gateway.http.gevent_websocket import OfferedWebSocket, open_websocket
from gateway.http.upgrade import SOCKET_KEYS, OfferedSocket
from gateway.logs import faults
from gateway.mounts.threadpool import ThreadPool
from gateway.wsgi import Environ, ExcInfo, FileWrapper, StartResponse, Write, WSGIApp

# the only way to interrupt code in another thread (CPython's C API)
_raise_in_thread = pythonapi.PyThreadState_SetAsyncExc


class InThreads:
    """``app``, called in one of ``threads``, which several apps may share. If all are busy, the
    request waits."""

    def __init__(self, app: WSGIApp, threads: ThreadPool) -> None:
        self._app = app
        self._threads = threads

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        call = _Call(self._app, environ, start_response, self._threads)
        self._threads.spawn(call.work)
        return call.begin()


def end_in_child() -> None:
    """Make this process exit when its only thread uses its request: the process that forked it
    answers the request."""
    _Call._loop = property(lambda _: os._exit(0))


class _Message(Enum):
    """Messages of the thread to the greenlet, which replies to the first three."""

    CALL = "call this function"
    PIECE = "the app yielded this"
    END = "the app's iterable has ended"
    RETURNED = "the app is done"
    RAISED = "the app raised this"


class _Stop(GeneratorExit):
    """Ends the iteration of an app's result, in its thread."""


class _Call:
    """One request that a thread runs; also what ``InThreads`` returns if the app's result must be
    iterated there."""

    def __init__(
        self, app: WSGIApp, environ: Environ, start_response: StartResponse, threads: ThreadPool
    ) -> None:
        self._app = app
        self._threads = threads
        self._environ = environ
        self._start = start_response
        self._loop: Any = get_hub().loop
        self._waiter: Any = Waiter()
        self._answered = allocate_lock()
        self._answered.acquire()
        self._answer: Any = None
        self._fault: BaseException | None = None
        self._pending: tuple[_Message, Any] | None = None  # and not yet passed on
        self._is_stream = False
        self._has_ended = False  # nobody replies to the thread any more
        self._leaving = allocate_lock()  # for the two that follow
        self._thread_id = 0  # while the app may be interrupted
        self._is_lost = False  # its thread no longer counts: another has taken its place
        self._websocket: OfferedWebSocket | None = None
        environ["wsgi.multithread"] = True
        content = environ["wsgi.input"]
        if isinstance(content, io.BufferedReader) and not content.raw.is_complete:
            # detached: it would close its source when it is collected
            handed = _HandedContent(partial(self._call, content.detach().readinto))
            environ["wsgi.input"] = io.BufferedReader(handed, READ_BYTES)
        offered = environ.get(SOCKET_KEYS[0])
        if offered is not None:
            take = partial(self._take, offered.take)
            native = OfferedSocket(take, _make_socket, offered.peer)
            environ.update(dict.fromkeys(SOCKET_KEYS, native))
            if "wsgi.websocket" in environ:
                self._websocket = open_websocket(environ, native)
        early_hints = environ.get("wsgi.early_hints")
        if early_hints is not None:
            environ["wsgi.early_hints"] = partial(self._call, early_hints)

    # --- in the thread ------------------------------------------------------------------------

    def work(self) -> bool:
        """Run the app, from the call to ``close``. Returns whether the thread no longer counts."""
        message = _Message.RETURNED
        value: Any = ()
        try:
            self._thread_id = get_ident()
            try:
                value = Context().run(self._run_to_its_end)
            except _Stop:
                pass
            except BaseException as error:  # noqa: BLE001  an app may raise anything, SystemExit too
                message, value = _Message.RAISED, error
            self._leave()
        except _Stop:  # meant for the app, which had finished already
            self._leave()
        self._loop.run_callback_threadsafe(self._receive, message, value)
        return self._is_lost

    def _leave(self) -> None:
        with self._leaving:
            self._thread_id = 0

    def _run_to_its_end(self) -> Any:
        try:
            return self._run()
        finally:
            if self._websocket is not None:
                self._websocket.say_goodbye()

    def _run(self) -> Any:
        result: Any = self._app(self._environ, self._start_response)
        if type(result) in (list, tuple) or _is_file(result) or _is_mistaken(result):
            return result  # no code of the app runs while this is sent, or refused
        try:
            for piece in result:
                self._ask(_Message.PIECE, piece)
            self._ask(_Message.END, None)
        finally:
            if hasattr(result, "close"):
                result.close()
        return ()

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None, /
    ) -> Write:
        return partial(self._call, self._call(self._start, status, headers, exc_info))

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return self._ask(_Message.CALL, partial(function, *arguments))

    def _take(self, take: Callable[[], int]) -> int:
        """See ``OfferedSocket``; in whichever thread uses the connection first."""
        taken: Future[int] = Future()
        self._loop.run_callback_threadsafe(_fulfil, taken, take)
        return taken.result()

    def _ask(self, message: _Message, value: Any) -> Any:
        self._loop.run_callback_threadsafe(self._receive, message, value)
        self._answered.acquire()
        answer, fault = self._answer, self._fault
        self._answer = self._fault = None
        if fault is not None:
            try:
                raise fault
            finally:
                fault = None  # no reference cycle through the traceback
        return answer

    # --- in the hub ---------------------------------------------------------------------------

    def _receive(self, message: _Message, value: Any) -> None:
        if message not in (_Message.RETURNED, _Message.RAISED):
            self._threads.pause(self)
        if not self._has_ended:
            self._waiter.switch((message, value))
        elif message is _Message.CALL:
            self._reply(fault=ClientDisconnected("the request has ended"))
        elif message in (_Message.PIECE, _Message.END):
            self._reply(fault=_Stop())
        else:
            self._note_late_end(message, value)

    def _note_late_end(self, message: _Message, value: Any) -> None:
        """The app has finished, or failed, after its request had ended."""
        if self._is_lost:
            self._threads.regain()
        if message is _Message.RETURNED:
            if isinstance(value, FileWrapper):
                value.close()
        elif not isinstance(value, (ClientDisconnected, ConnectionError, StopIteration)):
            request_id = self._environ.get("gateway.request_id", "")
            faults.error("an app failed after request %s had ended", request_id, exc_info=value)

    def _reply(self, answer: Any = None, fault: BaseException | None = None) -> None:
        self._answer, self._fault = answer, fault
        self._threads.resume(self, self._answered.release)

    # --- in the request's greenlet ------------------------------------------------------------

    def begin(self) -> Iterable[bytes]:
        """What the app returned, or this object in its place."""
        received = self._listen()
        if received[0] is _Message.RETURNED:
            self._has_ended = True
            return received[1]  # type: ignore[no-any-return]
        self._pending = received
        self._is_stream = True
        return self

    def __iter__(self) -> _Call:
        return self

    def __next__(self) -> bytes:
        if self._pending is None:
            self._reply()
            self._pending = self._listen()
        message, piece = self._pending
        if message is _Message.END:
            raise StopIteration
        self._pending = None
        return piece  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the app's iterable, in its thread, and wait for that."""
        if not self._has_ended:
            self._reply(fault=_Stop())
            self._listen()
            self._has_ended = True

    def _listen(self) -> tuple[_Message, Any]:
        """The thread's next message, after all calls that it requests. Raises what the app did."""
        try:
            while True:
                message, value = self._wait()
                self._waiter.clear()
                if message is _Message.RAISED:
                    try:
                        raise value
                    finally:
                        del value  # no reference cycle through the traceback
                if message is not _Message.CALL:
                    return message, value
                self._serve(value)
        except BaseException:
            self._has_ended = True
            raise

    def _wait(self) -> tuple[_Message, Any]:
        try:
            return self._waiter.get()  # type: ignore[no-any-return]
        except BaseException:
            if self._is_stream:
                self._interrupt()
            raise

    def _interrupt(self) -> None:
        """Nobody waits for this stream: end it when its thread next runs Python code, if ever, and
        let another thread take its place."""
        with self._leaving:
            if self._thread_id:
                self._is_lost = self._threads.lose(self)
                _raise_in_thread(c_ulong(self._thread_id), py_object(_Stop))

    def _serve(self, function: Callable[[], Any]) -> None:
        try:
            answer = function()
        except Exception as error:  # noqa: BLE001  any error is raised in the app
            self._reply(fault=error)
        except BaseException:
            # the request ends here; to the app it looks like a client that has left
            self._reply(fault=ClientDisconnected("the request has ended"))
            raise
        else:
            self._reply(answer)


class _HandedContent(io.RawIOBase):
    """The request's content, read by the greenlet of the connection."""

    def __init__(self, readinto: Callable[[Any], int]) -> None:
        self._readinto = readinto

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        """See ``http.body.Content``."""
        return self._readinto(buffer)


def _fulfil(future: Future[int], function: Callable[[], int]) -> None:
    try:
        future.set_result(function())
    except Exception as error:  # noqa: BLE001  raised where the result is used
        future.set_exception(error)


def _make_socket(descriptor: int) -> socket.socket:
    made = socket.socket(fileno=descriptor)
    made.settimeout(None)  # regardless of the process's default
    return made


def _is_file(result: object) -> bool:
    """Whether the server sends it by itself: a regular file, by sendfile."""
    if not isinstance(result, FileWrapper):
        return False
    file = result.file
    return isinstance(getattr(file, "raw", file), io.FileIO)


def _is_mistaken(result: object) -> bool:
    """Whether it is certainly not a response; the greenlet reports that."""
    can_iterate = hasattr(result, "__iter__") or hasattr(result, "__getitem__")
    return isinstance(result, (str, bytes, dict)) or not can_iterate
