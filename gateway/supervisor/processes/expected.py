"""Which reports a worker may send when: what it has done so far and has been ordered decides, not
the state in which its supervisor has it, which may have changed while a report was on its way.

Owns the table. An app has the socket's descriptor, too: what its worker would never say is not
believed. Refuses to know what reports mean.

================================  ================================================================
``loading``, ``loaded``           until it has loaded, and ``loaded`` once: also by one that was
                                  told to end meanwhile, or that only tries a mount
``noted``                         always
``settled``, ``drained``          once it has loaded: somebody else may have sent it SIGTERM, and
                                  a worker without orders ends, too
the answer to an order            once for each order, whatever has become of the worker since: one
                                  that is to drain, or was paused again, has still obeyed before
================================  ================================================================

A report may name only mounts that the worker has been given by then, those included that the table
does not have any more.
"""

from collections import Counter
from collections.abc import Iterable
from enum import Enum
from typing import Any

from gateway.config.model import Config
from gateway.supervisor.processes.report_lines import SHOWN

# the order that each answers, by event
ANSWERS = {
    "ready": "accept",
    "paused": "pause",
    "retired": "retire",
    "prepared": "prepare",
    "applied": "apply",
    "found": "find",
}


class When(Enum):
    """When it may send what no order asks for."""

    LOADING = "until it has loaded"
    LOADED = "once it has loaded"
    ALWAYS = "always"


UNASKED = {
    "loading": When.LOADING,
    "loaded": When.LOADING,
    "noted": When.ALWAYS,
    "settled": When.LOADED,
    "drained": When.LOADED,
}


class Expected:
    """What one worker may report next, which begins with ``config``."""

    def __init__(self, config: Config) -> None:
        self._when = When.LOADING
        self._unanswered: Counter[str] = Counter()
        self._mounts = {mount.name for mount in config.mounts}

    def note_order(self, word: str, value: object) -> None:
        """It is given this order."""
        self._unanswered[word] += 1
        if isinstance(value, Config):
            self._mounts.update(mount.name for mount in value.mounts)

    def take(self, report: dict[str, Any]) -> None:
        """It has sent this report. Raises ValueError for one that it would not send by itself."""
        event = report["event"]
        if event in ANSWERS:
            if not self._unanswered[ANSWERS[event]]:
                raise ValueError(f"{event}, which nobody has asked for")
            self._unanswered[ANSWERS[event]] -= 1
        elif UNASKED[event] not in (self._when, When.ALWAYS):
            raise ValueError(f"{event}, which it may send {UNASKED[event].value} only")
        if event == "loaded":
            self._when = When.LOADED
        for name in find_names(report):
            if name and name not in self._mounts:
                raise ValueError(f"{event}, of a mount that it does not have: {name[:SHOWN]!r}")


def find_names(report: dict[str, Any]) -> Iterable[str]:
    """The mounts that it names."""
    if "mount" in report:
        yield report["mount"]
    for each in report.get("mounts", ()):
        yield each["mount"]
