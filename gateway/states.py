"""A life as a table: its states, and which may follow which.

``State`` gives each state its name and its meaning; ``Machine`` has the table and refuses what is
not in it. A refusal raises where ``GATEWAY_STRICT_STATES`` is set, as all tests have it; elsewhere
it is a record in the error log, and the transition is made all the same: a gateway that serves goes
on serving. The pictures in docs/architecture.md are drawn from these tables.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import Enum
from traceback import extract_stack
from typing import Generic, TypeVar

from gateway.logs import lifecycle
from gateway.uncaught import report_own

VARIABLE = "GATEWAY_STRICT_STATES"
IS_STRICT = bool(os.environ.get(VARIABLE))
# of the functions that led to a refused transition, in its message
MAX_CALLERS = 4


class State(Enum):
    """One state of a life: its ``value`` is its name for a person, ``meaning`` one line on it."""

    _value_: str
    meaning: str

    def __new__(cls, value: str, meaning: str) -> State:
        state = object.__new__(cls)
        state._value_, state.meaning = value, meaning
        return state


S = TypeVar("S", bound=Enum)


class IllegalTransitionError(RuntimeError):
    """A transition that its table does not have: a fault of the gateway's own."""


class Machine(Generic[S]):
    """The life of one ``kind`` of object, which begins in ``first``; ``table`` gives the states
    that may follow each, none for one in which it ends."""

    def __init__(self, kind: str, first: S, table: Mapping[S, frozenset[S]]) -> None:
        self.kind = kind
        self.first = first
        self.table = table

    def step(self, old: S, new: S, name: str) -> S:
        """``new``, which the object called ``name`` enters from ``old``; the entry is in the log at
        the level ``debug``. To stay in a state is no transition. Raises IllegalTransitionError for
        one that is not in the table, where that is strict."""
        if new is not old:
            lifecycle.debug("%s %s: %s -> %s", self.kind, name, old.value, new.value)
            if new not in self.table[old]:
                self.refuse(old, new, name)
        return new

    def refuse(self, old: S, new: S, name: str) -> None:
        """Report a transition that is not in the table; for a caller that looks for itself, since
        that costs it less. Raises IllegalTransitionError, where that is strict."""
        callers = extract_stack()[-2 - MAX_CALLERS : -1]
        error = IllegalTransitionError(
            f"{self.kind} {name}: {old.value} -> {new.value} is not in the table of states (by "
            f"{', '.join(f'{each.name}:{each.lineno}' for each in callers)})"
        )
        if IS_STRICT:
            raise error
        report_own("an illegal transition", error)
