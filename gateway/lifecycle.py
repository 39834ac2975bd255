"""The state of this worker, for apps that work outside of requests, such as schedulers.

Owns the states and the callbacks. Apps import ``on_change`` and ``state``; the rest is for the
worker.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gateway.logs import faults
from gateway.uncaught import report_apps

LOADING, STANDBY, SERVING, LEAVING = "loading", "standby", "serving", "leaving"
# the legal transitions; "" is a process that is not a worker
NEXT = {
    "": (LOADING,),
    LOADING: (STANDBY, LEAVING),
    STANDBY: (SERVING, LEAVING),
    SERVING: (STANDBY, LEAVING),
    LEAVING: (),
}
# how long to wait for callbacks before another worker may serve instead
CALLBACK_SECONDS = 5.0

Callback = Callable[[str], object]


class _Listener:
    """``notified`` is the last state passed to ``callback``, ``is_busy`` whether it is running."""

    def __init__(self, callback: Callback, mount: str) -> None:
        self.callback = callback
        self.mount = mount
        self.notified = STANDBY
        self.is_busy = False

    @property
    def name(self) -> str:
        called = self.callback
        name = f"{getattr(called, '__module__', '?')}.{getattr(called, '__qualname__', called)}"
        return f"mounts.{self.mount}: {name}" if self.mount else name


class Lifecycle:
    """The state of this process and its callbacks, which run in threads (greenlets where apps run
    in greenlets): one call at a time for each callback, with the latest state."""

    def __init__(self) -> None:
        self.state = ""
        self._mount = ""
        self._since = 0.0
        self._lock = threading.Lock()
        self._listeners: list[_Listener] = []

    def add(self, callback: Callback) -> None:
        """Call it with each new state, and at once if the worker is past its first."""
        listener = _Listener(callback, self._mount)
        self._listeners.append(listener)
        self._notify(listener)

    @contextmanager
    def loading(self, mount: str) -> Iterator[None]:
        """The app of ``mount`` is being imported; if that fails, its callbacks are dropped."""
        self._mount, before = mount, len(self._listeners)
        try:
            yield
        except BaseException:
            del self._listeners[before:]
            raise
        finally:
            self._mount = ""

    def move(self, state: str) -> None:
        """Change to ``state``, if that is legal now, and start the callbacks."""
        with self._lock:
            if state not in NEXT[self.state]:
                return
            self.state, self._since = state, time.monotonic()
        for listener in tuple(self._listeners):
            self._notify(listener)

    def is_settled(self) -> bool:
        """Whether all callbacks have returned, or have had CALLBACK_SECONDS."""
        late = [each for each in self._listeners if each.is_busy]
        if not late or time.monotonic() - self._since < CALLBACK_SECONDS:
            return not late
        for each in late:
            text = '%s has not returned from "%s" after %g s: not waiting any longer'
            faults.warning(text, each.name, each.notified, CALLBACK_SECONDS)
        return True

    def _notify(self, listener: _Listener) -> None:
        with self._lock:
            if listener.is_busy or self._find_new_state(listener) is None:
                return
            listener.is_busy = True
        name = f"lifecycle {listener.mount}".strip()
        threading.Thread(target=self._run, args=(listener,), name=name, daemon=True).start()

    def _find_new_state(self, listener: _Listener) -> str | None:
        is_known = self.state == listener.notified or self.state in ("", LOADING)
        return None if is_known else self.state

    def _run(self, listener: _Listener) -> None:
        while True:
            with self._lock:
                state = self._find_new_state(listener)
                if state is None:
                    listener.is_busy = False
                    return
                listener.notified = state
            try:
                listener.callback(state)
            except BaseException as error:  # noqa: BLE001  an app's own
                extra = {"mount": listener.mount} if listener.mount else {}
                report_apps(f'{listener.name} failed on "{state}"', error, **extra)


own = Lifecycle()


def on_change(callback: Callback) -> Callback:
    """Call ``callback`` with each new state of this worker: "serving", then "standby" (loaded, kept
    for a rollback) or "leaving". If the worker is already serving, at once. Usable as a decorator.

    It runs in a thread, or greenlet, of its own, and has 5 s before another worker starts to serve
    instead of this one. It is never called outside of a worker.
    """
    own.add(callback)
    return callback


def state() -> str:
    """One of "loading", "standby", "serving" or "leaving"; "" in a process that is not a worker."""
    return own.state
