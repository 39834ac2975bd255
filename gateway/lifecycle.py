"""What an app may know of its worker outside of requests: whether it serves. Made for apps.

Owns the states, and who is told of them. Apps import ``on_change`` and ``state``; all else is the
worker's. Refuses to know why a state changes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gateway.logs import faults
from gateway.uncaught import report_apps

LOADING, STANDBY, SERVING, LEAVING = "loading", "standby", "serving", "leaving"
# what may follow; "" is a process that is not a worker
NEXT = {
    "": (LOADING,),
    LOADING: (STANDBY, LEAVING),
    STANDBY: (SERVING, LEAVING),
    SERVING: (STANDBY, LEAVING),
    LEAVING: (),
}
# how long callbacks are waited for, before others may begin to serve in their place
CALLBACK_SECONDS = 5.0

Callback = Callable[[str], object]


class _Listener:
    """``told`` is the last state that ``callback`` was called with, ``is_busy`` whether it runs."""

    def __init__(self, callback: Callback, mount: str) -> None:
        self.callback = callback
        self.mount = mount
        self.told = STANDBY
        self.is_busy = False

    @property
    def name(self) -> str:
        called = self.callback
        name = f"{getattr(called, '__module__', '?')}.{getattr(called, '__qualname__', called)}"
        return f"mounts.{self.mount}: {name}" if self.mount else name


class Lifecycle:
    """That of this process. Callbacks run in threads, which are greenlets where apps run in
    greenlets: each of them one call at a time, with the state of that moment."""

    def __init__(self) -> None:
        self.state = ""
        self._mount = ""
        self._since = 0.0
        self._lock = threading.Lock()
        self._listeners: list[_Listener] = []

    def add(self, callback: Callback) -> None:
        """Call it with each state from now on, and at once where that is not the first."""
        listener = _Listener(callback, self._mount)
        self._listeners.append(listener)
        self._tell(listener)

    @contextmanager
    def loading(self, mount: str) -> Iterator[None]:
        """While an app is imported; where that fails, nothing of it is called later."""
        self._mount, before = mount, len(self._listeners)
        try:
            yield
        except BaseException:
            del self._listeners[before:]
            raise
        finally:
            self._mount = ""

    def move(self, state: str) -> None:
        """Change to ``state``, where it may follow, and begin to tell."""
        with self._lock:
            if state not in NEXT[self.state]:
                return
            self.state, self._since = state, time.monotonic()
        for listener in tuple(self._listeners):
            self._tell(listener)

    def is_settled(self) -> bool:
        """Whether all have come back from what they were told, or have had their time."""
        late = [each for each in self._listeners if each.is_busy]
        if not late or time.monotonic() - self._since < CALLBACK_SECONDS:
            return not late
        for each in late:
            text = '%s has not come back from "%s" after %g s: it is not waited for'
            faults.warning(text, each.name, each.told, CALLBACK_SECONDS)
        return True

    def _tell(self, listener: _Listener) -> None:
        with self._lock:
            if listener.is_busy or self._find_news(listener) is None:
                return
            listener.is_busy = True
        name = f"lifecycle {listener.mount}".strip()
        threading.Thread(target=self._run, args=(listener,), name=name, daemon=True).start()

    def _find_news(self, listener: _Listener) -> str | None:
        is_known = self.state == listener.told or self.state in ("", LOADING)
        return None if is_known else self.state

    def _run(self, listener: _Listener) -> None:
        while True:
            with self._lock:
                state = self._find_news(listener)
                if state is None:
                    listener.is_busy = False
                    return
                listener.told = state
            try:
                listener.callback(state)
            except BaseException as error:  # noqa: BLE001  an app's own
                extra = {"mount": listener.mount} if listener.mount else {}
                report_apps(f'{listener.name} has failed at "{state}"', error, **extra)


own = Lifecycle()


def on_change(callback: Callback) -> Callback:
    """Have ``callback`` called with each new state of this worker: "serving", then "standby" (kept
    for a rollback, loaded) or "leaving". Where it serves already, that is now. A decorator.

    It is called in a thread, or greenlet, of its own, and has 5 s before another worker begins to
    serve in the place of this one. Outside of a worker it is never called.
    """
    own.add(callback)
    return callback


def state() -> str:
    """One of "loading", "standby", "serving" or "leaving"; "" in a process that is not a worker."""
    return own.state
