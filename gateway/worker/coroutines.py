"""Coroutines in greenlets: each greenlet runs an event loop of its own, as a native thread does.

asyncio keeps what runs in the state of the native thread, which all greenlets of a patched worker
share: the running loop, from Python 3.14 on the current task too, and two settings of the
interpreter that a loop changes while it runs (PEP 525, and its debug mode). Here all of it leaves
the thread with the greenlet that waits, and comes back with it; asyncio's own classes stay in use.
Refuses to know requests and apps. Sources: Lib/asyncio/base_events.py and
Modules/_asynciomodule.c of CPython.
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
    """A loop that waits past gevent: no other request of the worker would be answered meanwhile."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} cannot share a thread with other requests: {ADVICE}")


def isolate_event_loops() -> None:
    """Have the greenlets of this thread not see each other's loops. For a patched process; costs
    nothing until something imports asyncio."""
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
    """Has each of ``acts`` called with the module that it is named after, as soon as that is
    executed: before anybody can have taken a name from it. uvloop is not found at all: it is
    optional for most who import it."""

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
    """``events`` is asyncio.events. Whoever waits calls the hub's ``switch``."""
    wait, find_loop, set_loop = hub.switch, events._get_running_loop, events._set_running_loop
    swap_task = _find_swap_task()

    def wait_without_loop() -> Any:
        loop = find_loop()
        if loop is None:
            return wait()
        hooks, depth = sys.get_asyncgen_hooks(), sys.get_coroutine_origin_tracking_depth()
        task = swap_task(loop, None)  # possible while it is the running loop
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
    """What sets the running loop's current task and returns the one before. Until Python 3.13 each
    loop has its own, whichever thread it runs in."""
    if sys.version_info < (3, 14):
        return lambda loop, task: None
    import _asyncio

    swap: Callable[[Any, Any], Any] = _asyncio._swap_current_task
    return swap


def _wait_for_children_in_greenlets(unix_events: Any) -> None:
    """From Python 3.12 on asyncio opens a descriptor of a child process (``pidfd_open``), which
    fails where gevent has collected the child before. Its other way is a thread in ``waitpid``,
    which gevent knows."""
    unix_events.can_use_pidfd = lambda: False


def _refuse_trio(trio: Any) -> None:
    """It waits in epoll, which gevent takes away."""

    def run(*_: object, **__: object) -> None:
        raise UnfitLoopError("trio")

    trio.run = run


def _refuse_nest_asyncio(nest_asyncio: Any) -> None:
    """It replaces much of asyncio, for all apps; asgiref then waits for itself."""

    def apply(*_: object, **__: object) -> None:
        raise RuntimeError(
            "nest_asyncio changes asyncio for all apps of a process: give the mount a pool of its "
            "own with `concurrency: threads`"
        )

    nest_asyncio.apply = apply
