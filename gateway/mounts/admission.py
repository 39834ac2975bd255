"""Mounts and pools with a maximum number of requests at a time; further ones wait for their turn.

Owns which is next: the oldest that waits, but the newest while more than half of the queue is
taken, since the clients of the oldest are then the likeliest to give up. Does not know apps.
Source: ``limits.Admission``; PEP 3333 (a response ends with ``close()``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

from gevent import get_hub
from greenlet import getcurrent

from gateway.config.model import Mount
from gateway.errors import ClientDisconnected, RequestEnded
from gateway.limits import Admission
from gateway.wsgi import Environ, FileWrapper, StartResponse, Takeover, WSGIApp

RETRY_AFTER = ("Retry-After", "5")
UNLIMITED = Admission()


class Semaphores:
    """Those of one worker: one for each mount that has a limit, and for each pool that has one.

    They outlive an edit of the table: requests that run stay counted, and those that wait keep
    their place in the queue.
    """

    def __init__(self) -> None:
        self._by_name: dict[str, Semaphore] = {}

    def adjust(self, mounts: Iterable[Mount]) -> None:
        """Have the limits of these mounts from now on."""
        wanted = {name: admission for mount in mounts for name, admission in _limits_of(mount)}
        for name in wanted.keys() - self._by_name.keys():
            self._by_name[name] = Semaphore(name)
        for name, semaphore in self._by_name.items():
            semaphore.adjust(wanted.get(name, UNLIMITED))
        self._by_name = {name: self._by_name[name] for name in wanted}

    def limit(self, app: WSGIApp, mount: Mount) -> WSGIApp:
        """``app`` within the limits that this mount has; the same object if it has none."""
        for name, _ in _limits_of(mount):
            app = Limited(app, self._by_name[name])
        return app


def _limits_of(mount: Mount) -> list[tuple[str, Admission]]:
    """The names and limits of the semaphores that its requests pass, the innermost first."""
    limits = (f"pool {mount.pool}", mount.pool_admission), (f"mount {mount.name}", mount.limits)
    return [(name, admission) for name, admission in limits if admission.max_concurrency]


class Limited:
    """``app``, called once ``semaphore`` is acquired, which is released when the response has
    ended."""

    def __init__(self, app: WSGIApp, semaphore: Semaphore) -> None:
        self._app = app
        self._semaphore = semaphore

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        self._semaphore.acquire(environ["gateway.client_disconnected"])
        try:
            return _with_end(self._app(environ, start_response), self._semaphore.release)
        except BaseException:
            self._semaphore.release()
            raise


class Semaphore:
    """How many requests of ``name`` run, and the queue of those that wait. May be acquired as often
    as ``Admission.max_concurrency`` says."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._admission = UNLIMITED
        self._running = 0
        self._waiting: deque[_Waiter] = deque()

    def adjust(self, admission: Admission) -> None:
        """Have this limit from now on."""
        self._admission = admission
        self._admit()

    def acquire(self, has_left: Callable[[], bool]) -> None:
        """Wait until a request may run. ``has_left`` returns whether its client has left.

        Raises RequestEnded if the queue is full or the wait too long, and ClientDisconnected. May
        switch greenlets.
        """
        if self._has_room():
            self._running += 1
        else:
            self._wait(has_left)

    def release(self) -> None:
        """A request has ended, and the next may run."""
        self._running -= 1
        self._admit()

    def _has_room(self) -> bool:
        most = self._admission.max_concurrency
        return self._running < most or not most

    def _admit(self) -> None:
        waiting = self._waiting
        while waiting and self._has_room():
            is_overloaded = 2 * len(waiting) > self._admission.queue
            waiter = waiting.pop() if is_overloaded else waiting.popleft()
            if not waiter.end_if_left():
                waiter.is_admitted = True
                self._running += 1
                waiter.wake()

    def _wait(self, has_left: Callable[[], bool]) -> None:
        waiting, admission = self._waiting, self._admission
        if len(waiting) >= admission.queue:
            self._waiting = waiting = deque(each for each in waiting if not each.end_if_left())
            if len(waiting) >= admission.queue:
                raise self._refuse(f"its queue of {admission.queue} is full")
        waiter = _Waiter(has_left)
        waiting.append(waiter)
        try:
            waiter.wait(admission.queue_timeout_seconds)
        except BaseException:
            # ended from outside, by the mount's timeout or a stop
            self._withdraw(waiter)
            raise
        if waiter.is_over:
            raise ClientDisconnected("the client left while it waited for its turn")
        if not waiter.is_admitted:
            self._withdraw(waiter)
            seconds = admission.queue_timeout_seconds
            raise self._refuse(f"its queue_timeout of {seconds:g} s has passed")

    def _withdraw(self, waiter: _Waiter) -> None:
        if waiter.is_admitted:
            self.release()
        elif waiter in self._waiting:
            self._waiting.remove(waiter)

    def _refuse(self, why: str) -> RequestEnded:
        most = self._admission.max_concurrency
        return RequestEnded(
            f"{self._name} is at its max_concurrency of {most}, and {why}",
            "503 Service Unavailable",
            "Too many requests wait here. Try again in a few seconds.",
            RETRY_AFTER,
        )


class _Waiter:
    """A request that waits in its greenlet until it ``is_admitted``, or ``is_over`` because its
    client has left."""

    def __init__(self, has_left: Callable[[], bool]) -> None:
        self.is_admitted = self.is_over = False
        self._has_left = has_left
        self._greenlet: Any = getcurrent()
        self._timer: Any = None

    def wait(self, seconds: float) -> None:
        """Return when it is woken, or after ``seconds``."""
        self._start_timer(seconds)
        try:
            get_hub().switch()
        finally:
            self._timer.close()

    def wake(self) -> None:
        """Have it go on at the next turn of the event loop."""
        self._timer.close()
        self._start_timer(0)

    def end_if_left(self) -> bool:
        """Whether its client has left; if so, wake it so that it ends."""
        if self._has_left():
            self.is_over = True
            self.wake()
        return self.is_over

    def _start_timer(self, seconds: float) -> None:
        # not a callback: a request that a callback runs cannot have another one submitted
        self._timer = get_hub().loop.timer(seconds)
        self._timer.start(self._greenlet.switch)


class _Held:
    """What an app returned, ``held``, with another ``close`` (PEP 3333)."""

    def __init__(self, result: Iterable[bytes], close: Callable[[], None]) -> None:
        self.held = result
        self.close = close

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.held)


class _HeldSized(_Held):
    """With a length: if there is a single piece, the server sends its length as Content-Length."""

    def __len__(self) -> int:
        return len(self.held)  # type: ignore[arg-type]


def _with_end(result: Any, on_end: Callable[[], None]) -> Iterable[bytes]:
    """``result``, with ``on_end`` called after its ``close``."""
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
