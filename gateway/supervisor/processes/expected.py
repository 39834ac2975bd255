"""Which reports a worker may send when. That depends on its reports and orders so far, and not on
its state here, which may have changed while a report was on its way.

An app can write to the worker's control socket too: a report that the worker would not send now is
refused.

================================  ================================================================
``loading``, ``loaded``           until it has loaded, and ``loaded`` once; also by a worker that
                                  was asked to end meanwhile, or that only tries a mount
``noted``                         always
``settled``, ``drained``          once it has loaded, even without an order: anybody may have sent
                                  it SIGTERM
the answer to an order            once for each order, whatever was ordered since
================================  ================================================================

A report may name only mounts that the worker has had in one of its configurations.
"""

from collections import Counter
from collections.abc import Iterable
from enum import Enum
from typing import Any

from gateway.config.model import Config
from gateway.supervisor.processes.report_lines import SHOWN

# the order that each event answers
ANSWERS = {
    "ready": "accept",
    "paused": "pause",
    "retired": "retire",
    "prepared": "prepare",
    "applied": "apply",
    "found": "find",
}


class When(Enum):
    """When a report that answers no order may be sent."""

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
    """The reports that one worker may send next; its first configuration is ``config``."""

    def __init__(self, config: Config) -> None:
        self._when = When.LOADING
        self._unanswered: Counter[str] = Counter()
        self._mounts = {mount.name for mount in config.mounts}

    def note_order(self, word: str, value: object) -> None:
        """The worker gets this order."""
        self._unanswered[word] += 1
        if isinstance(value, Config):
            self._mounts.update(mount.name for mount in value.mounts)

    def take(self, report: dict[str, Any]) -> None:
        """The worker has sent this report. Raises ValueError for one that it may not send now."""
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
    """The mounts that a report names."""
    if "mount" in report:
        yield report["mount"]
    for each in report.get("mounts", ()):
        yield each["mount"]
