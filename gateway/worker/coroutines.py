"""Coroutines in greenlets: each greenlet has an event loop of its own, like a native thread.

asyncio keeps its state in the native thread, which all greenlets of a patched worker share: the
running loop, the current task (from Python 3.14 on), and two interpreter settings that a running
loop changes (PEP 525, and its debug mode). This module saves that state when a greenlet starts to
wait, and restores it when the greenlet continues; asyncio's own classes stay in use. Source:
Lib/asyncio/base_events.py and Modules/_asynciomodule.c of CPython.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from gevent import get_hub

ADVICE = "give the mount a pool with `concurrency: threads`"


class UnfitLoopError(RuntimeError):
    """An event loop that would block the worker's other requests while it waits."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} cannot share a thread with other requests: {ADVICE}")


def isolate_event_loops() -> None:
    """Hide the event loops of greenlets from each other. For a patched process; costs nothing until
    something imports asyncio."""
    acts: dict[str, Callable[[Any], None]] = {
        "asyncio.events": partial(_follow_greenlets, get_hub()),
        "asyncio.unix_events": _wait_for_children_in_greenlets,
        "trio": _refuse_trio,
        "nest_asyncio": _refuse_nest_asyncio,
    }
    sys.meta_path.insert(0, _Finder(acts))
    for name in acts.keys() & sys.modules.keys():
        acts[name](sys.modules[name])


class _Finder:
    """Calls each of ``acts`` with the module of that name directly after its execution, before
    other code can import names from it. uvloop is not found at all: for most of its users it is
    optional."""

    def __init__(self, acts: dict[str, Callable[[Any], None]]) -> None:
        self._acts = acts

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See importlib.abc.MetaPathFinder."""
        if name == "uvloop":
            raise ImportError(f"uvloop cannot share a thread with other requests: {ADVICE}")
        if (act := self._acts.get(name)) is None:
            return None
        spec = PathFinder.find_spec(name, path, target)
        loader: Any = spec and spec.loader
        if loader is not None:
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                act(module)

            loader.exec_module = exec_module
        return spec


def _follow_greenlets(hub: Any, events: Any) -> None:
    """``events`` is asyncio.events. A greenlet that waits calls the hub's ``switch``."""
    wait, find_loop, set_loop = hub.switch, events._get_running_loop, events._set_running_loop
    swap_task = _find_swap_task()

    def wait_without_loop() -> Any:
        loop = find_loop()
        if loop is None:
            return wait()
        hooks, depth = sys.get_asyncgen_hooks(), sys.get_coroutine_origin_tracking_depth()
        task = swap_task(loop, None)  # only possible while the loop is the running one
        set_loop(None)
        sys.set_asyncgen_hooks(None, None)
        sys.set_coroutine_origin_tracking_depth(0)
        try:
            return wait()
        finally:
            sys.set_coroutine_origin_tracking_depth(depth)
            sys.set_asyncgen_hooks(*hooks)
            set_loop(loop)
            swap_task(loop, task)

    def set_running_loop(loop: object) -> None:
        if loop is not None and not isinstance(loop, sys.modules["asyncio"].BaseEventLoop):
            raise UnfitLoopError(f"{type(loop).__module__}.{type(loop).__qualname__}")
        set_loop(loop)

    hub.switch = wait_without_loop
    events._set_running_loop = set_running_loop


def _find_swap_task() -> Callable[[Any, Any], Any]:
    """A function that sets the running loop's current task and returns the previous one. Up to
    Python 3.13 the current task belongs to the loop, not to the thread."""
    if sys.version_info < (3, 14):
        return lambda loop, task: None
    import _asyncio

    swap: Callable[[Any, Any], Any] = _asyncio._swap_current_task
    return swap


def _wait_for_children_in_greenlets(unix_events: Any) -> None:
    """From Python 3.12 on, asyncio opens a pidfd of a child process, which fails if gevent has
    reaped the child already. The alternative is a thread in ``waitpid``, which gevent patches."""
    unix_events.can_use_pidfd = lambda: False


def _refuse_trio(trio: Any) -> None:
    """It waits in epoll, which gevent removes."""

    def run(*_: object, **__: object) -> None:
        raise UnfitLoopError("trio")

    trio.run = run


def _refuse_nest_asyncio(nest_asyncio: Any) -> None:
    """It patches asyncio for all apps of the process, and makes asgiref deadlock."""

    def apply(*_: object, **__: object) -> None:
        raise RuntimeError(
            "nest_asyncio changes asyncio for all apps of a process: give the mount its own pool "
            "with `concurrency: threads`"
        )

    nest_asyncio.apply = apply
