"""Mounts that run so many requests at a time, while further ones wait for their turn.

Owns who is next: the oldest that waits, but the newest while more than half of the queue is taken,
since the clients of the oldest are then the nearest to giving up. Refuses to know what is mounted.
Source: ``limits.Admission``; PEP 3333 (a response ends with ``close()``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

from gevent import get_hub
from greenlet import getcurrent

from gateway.config.model import Mount
from gateway.errors import ClientDisconnected
from gateway.http.dispatch import LoadedMount
from gateway.http.exchange import RequestEnded
from gateway.limits import Admission
from gateway.mounts.live import LivePages
from gateway.mounts.quarantine import Quarantined
from gateway.wsgi import Environ, FileWrapper, StartResponse, Takeover, WSGIApp

RETRY_AFTER = ("Retry-After", "5")
ANY = Admission()


class Fairness:
    """The places of one worker, of its mounts and of the pools that they lead to."""

    def __init__(self) -> None:
        self._places: dict[str, Places] = {}

    def fit(self, loaded: Iterable[LoadedMount], mounts: Iterable[Mount]) -> None:
        """Wrap the apps of those ``loaded`` that have a limit; ``mounts`` are what the table says
        of them, in the same order.

        Called again, for another table, it changes how many places there are, and leaves in them
        who has one.
        """
        places: dict[str, Places] = {}
        wanted: dict[str, Admission] = {}
        for mount, said in zip(loaded, mounts):
            for name, admission in (
                (f"pool {said.pool}", said.pool_admission),
                (f"mount {said.name}", said.limits),
            ):
                if admission.max_concurrency:
                    wanted[name] = admission
                    places[name] = places.get(name) or self._places.get(name) or Places(name)
                    mount.app = Limited(mount.app, places[name])
        for name, place in (self._places | places).items():
            place.adjust(wanted.get(name, ANY))
        self._places = places


class Limited:
    """``app``, called where there is a place; it is taken until the response has ended."""

    def __init__(self, app: WSGIApp, places: Places) -> None:
        self.app = app
        self._places = places

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        self._places.take(environ["gateway.client_disconnected"])
        try:
            return _with_end(self.app(environ, start_response), self._places.give_back)
        except BaseException:
            self._places.give_back()
            raise


def unwrap(app: WSGIApp) -> Any:
    """The app itself, of one that may be limited, live or in quarantine."""
    while isinstance(app, (Limited, LivePages, Quarantined)):
        app = app.app
    return app


class Places:
    """Those of ``name``, and the queue of requests that wait for one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._admission = ANY
        self._taken = 0
        self._waiting: deque[_Turn] = deque()

    def adjust(self, admission: Admission) -> None:
        """Have as many as this says from now on."""
        self._admission = admission
        self._admit()

    def take(self, has_left: Callable[[], bool]) -> None:
        """Until there is one; ``has_left`` tells whether the client does not wait any more.

        Raises RequestEnded where that takes too long, ClientDisconnected. May switch greenlets.
        """
        if self._has_room():
            self._taken += 1
        else:
            self._wait(has_left)

    def give_back(self) -> None:
        """A place is free."""
        self._taken -= 1
        self._admit()

    def _has_room(self) -> bool:
        most = self._admission.max_concurrency
        return self._taken < most or not most

    def _admit(self) -> None:
        waiting = self._waiting
        while waiting and self._has_room():
            is_overloaded = 2 * len(waiting) > self._admission.queue
            turn = waiting.pop() if is_overloaded else waiting.popleft()
            if not turn.end_if_left():
                turn.is_admitted = True
                self._taken += 1
                turn.wake()

    def _wait(self, has_left: Callable[[], bool]) -> None:
        waiting, admission = self._waiting, self._admission
        if len(waiting) >= admission.queue:
            self._waiting = waiting = deque(turn for turn in waiting if not turn.end_if_left())
            if len(waiting) >= admission.queue:
                raise self._refuse(f"its queue of {admission.queue} is full")
        turn = _Turn(has_left)
        waiting.append(turn)
        try:
            turn.wait(admission.queue_timeout_seconds)
        except BaseException:
            # ended from outside, by the mount's timeout or with the gateway
            self._withdraw(turn)
            raise
        if turn.is_over:
            raise ClientDisconnected("the client left while it waited for its turn")
        if not turn.is_admitted:
            self._withdraw(turn)
            seconds = admission.queue_timeout_seconds
            raise self._refuse(f"its queue_timeout of {seconds:g} s has passed")

    def _withdraw(self, turn: _Turn) -> None:
        if turn.is_admitted:
            self.give_back()
        elif turn in self._waiting:
            self._waiting.remove(turn)

    def _refuse(self, why: str) -> RequestEnded:
        most = self._admission.max_concurrency
        return RequestEnded(
            f"{self._name} is at its max_concurrency of {most}, and {why}",
            "503 Service Unavailable",
            "Too many requests wait here. Try again in a few seconds.",
            RETRY_AFTER,
        )


class _Turn:
    """A request that waits, in its greenlet, until it ``is_admitted``, or ``is_over`` since its
    client has left."""

    def __init__(self, has_left: Callable[[], bool]) -> None:
        self.is_admitted = self.is_over = False
        self._has_left = has_left
        self._greenlet: Any = getcurrent()
        self._timer: Any = None

    def wait(self, seconds: float) -> None:
        """Until it is woken, or ``seconds`` have passed."""
        self._start_timer(seconds)
        try:
            get_hub().switch()
        finally:
            self._timer.close()

    def wake(self) -> None:
        """Go on at the next turn of the event loop."""
        self._timer.close()
        self._start_timer(0)

    def end_if_left(self) -> bool:
        """Whether its client has left; it is woken to end then."""
        if self._has_left():
            self.is_over = True
            self.wake()
        return self.is_over

    def _start_timer(self, seconds: float) -> None:
        # never a callback: a request that one of those runs cannot have another submitted
        self._timer = get_hub().loop.timer(seconds)
        self._timer.start(self._greenlet.switch)


class _Held:
    """What an app returned, ``held``; ``close`` as PEP 3333 has it."""

    def __init__(self, result: Iterable[bytes], close: Callable[[], None]) -> None:
        self.held = result
        self.close = close

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.held)


class _HeldSized(_Held):
    """One that tells how many pieces there are: the length of a single one is the content's."""

    def __len__(self) -> int:
        return len(self.held)  # type: ignore[arg-type]


def _with_end(result: Any, on_end: Callable[[], None]) -> Iterable[bytes]:
    """``result``, with ``on_end`` called behind its ``close``."""
    close = getattr(result, "close", None)
    is_known = isinstance(result, (FileWrapper, Takeover))

    def end() -> None:
        if is_known:
            vars(result).pop("close", None)  # it refers to the result
        try:
            if close is not None:
                close()
        finally:
            on_end()

    if is_known:
        result.close = end  # the server asks for its type
        return result  # type: ignore[no-any-return]
    held = _HeldSized if isinstance(result, Sized) else _Held
    return held(result, end)
