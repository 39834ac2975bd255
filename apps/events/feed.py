"""One producer, any number of readers: a stream costs a waiting reader and no timer of its own.

Knows neither HTTP nor the time, nor what a message says. Written against ``threading`` alone:
under gevent's monkey patching it runs on greenlets, under a threaded server on threads.
"""

from threading import Event, Lock, Thread


class Tick:
    """A message to come; readers wait for ``published``."""

    def __init__(self):
        self.published = Event()
        self.message = b""


class Feed:
    """Calls ``produce()``, which returns a message once it is due, while somebody reads."""

    def __init__(self, produce):
        self.readers = 0
        self._produce = produce
        self._lock = Lock()
        self._is_producing = False
        self._next = Tick()

    def read(self):
        """Yield messages as they come. A slow reader misses some; nothing is queued for it."""
        self._enter()
        try:
            while True:
                tick = self._next
                tick.published.wait()
                yield tick.message
        finally:  # reached by close(), which the server calls when the client has gone
            with self._lock:
                self.readers -= 1

    def _enter(self):
        with self._lock:
            self.readers += 1
            if not self._is_producing:
                self._is_producing = True
                Thread(target=self._run, name="events", daemon=True).start()

    def _run(self):
        while self._is_wanted():
            message = self._produce()
            tick, self._next = self._next, Tick()
            tick.message = message
            tick.published.set()

    def _is_wanted(self):
        with self._lock:
            self._is_producing = self.readers > 0
            return self._is_producing
