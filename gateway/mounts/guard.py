"""Process-wide changes that apps make while they serve: undone, or reported with the mount.

Owns the time: once the requests that were in flight when the change was seen have ended, since one
of them may revert it, but not much later. Checks once a second, so that requests do not pay for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import NamedTuple

from gateway.inflight import InFlight
from gateway.mounts.footprint import GlobalState

LOOK_SECONDS = 1.0
# while it is not known which app it was: few requests are served between two checks, so that only
# one mount may remain
CLOSE_LOOK_SECONDS = 0.05
CLOSE_LOOKS_SECONDS = 30.0
# time for a request to restore what it has changed; a stream may never end
MAX_SECONDS = 5.0
MAX_NAMES = 5


class _Change(NamedTuple):
    """A change that was noticed and is not settled. ``running`` are the requests in flight at that
    time, ``suspects`` the mounts with requests since the check before."""

    seen: float
    running: dict[int, float]
    suspects: frozenset[str]


class Guard:
    """Keeps ``states`` as they are now. ``find_mounts`` returns the names of the apps' mounts.
    ``report`` is called with one of them, "" if it may have been several, and a text."""

    def __init__(
        self,
        states: Sequence[GlobalState],
        in_flight: InFlight,
        find_mounts: Callable[[], Collection[str]],
        report: Callable[[str, str], object],
    ) -> None:
        self._states = states
        self._in_flight = in_flight
        self._find_mounts = find_mounts
        self._report = report
        self._kept = [state.read() for state in states]
        self._changes: dict[int, _Change] = {}
        self._suspects: dict[int, frozenset[str]] = {}
        self._reported: set[tuple[int, str]] = set()
        self._looked = time.monotonic()
        self._running = in_flight.running()
        self._requests = in_flight.requests
        self._is_close_until = 0.0

    def look(self) -> float:
        """Undo or report what has changed for good. Returns the seconds until the next check."""
        now, changed = time.monotonic(), {}
        running = self._in_flight.running()
        for index, state in enumerate(self._states):
            value = state.read()
            if text := state.find(self._kept[index], value):
                changed[index] = text
            else:
                self._kept[index] = value
                self._changes.pop(index, None)
        if changed:
            self._consider(changed, running, now)
        self._looked, self._running, self._requests = now, running, self._in_flight.requests
        return CLOSE_LOOK_SECONDS if now < self._is_close_until else LOOK_SECONDS

    def _consider(self, changed: dict[int, str], running: dict[int, float], now: float) -> None:
        recent = self._in_flight.recall(self._looked, now, self._running)
        mounts = frozenset(self._find_mounts())
        is_complete = recent.ended == self._in_flight.requests - self._requests
        suspects = (mounts & recent.mounts if is_complete else frozenset()) or mounts
        for index, text in changed.items():
            new = _Change(now, running, suspects)
            change = self._changes.setdefault(index, new)
            is_running = bool(change.running.items() & running.items())
            if not is_running or now - change.seen >= MAX_SECONDS:
                del self._changes[index]
                self._settle(index, text, change.suspects, now)

    def _settle(self, index: int, text: str, suspects: frozenset[str], now: float) -> None:
        state, kept = self._states[index], self._kept[index]
        if state.undo:
            with suppress(Exception):  # what cannot be undone is reported all the same
                state.undo(kept)
        value = state.read()
        if state.find(kept, value):
            self._kept[index] = value  # so that it is reported once, and not at each check
        # the app that has done it again is among the suspects of last time, unless there are two
        suspects = self._suspects.get(index, suspects) & suspects or suspects
        self._suspects[index] = suspects
        if len(suspects) > 1:
            self._is_close_until = now + CLOSE_LOOKS_SECONDS
        self._tell(index, text, sorted(suspects), is_undone=state.undo is not None)

    def _tell(self, index: int, text: str, suspects: list[str], *, is_undone: bool) -> None:
        """Report once for each mount; for several mounts, once, if none is known yet."""
        mount = suspects[0] if len(suspects) == 1 else ""
        if (index, mount) in self._reported:
            return
        self._reported |= {(index, mount), (index, "")}
        names = ", ".join(suspects[:MAX_NAMES]) + (", …" if len(suspects) > MAX_NAMES else "")
        who = "it" if mount else f"one of {names}"
        end = ", which was undone" if is_undone else ""
        is_shared = len(self._find_mounts()) > 1
        advice = ' (with "pool: own" it keeps such changes to itself)' if is_shared else ""
        what = f"while serving, {who} changed {text} for its whole process{end}"
        self._report(mount, what + advice)
