"""Hides modules that only the gateway needs from the apps in its process.

A library that checks for gevent then does not find it in a worker of native threads, although the
event loop in the main thread is gevent's. After ``hide``, these modules are neither in
``sys.modules`` nor found, except by their own code and the gateway's, which import through
``builtins`` of their own. Source: the import system (``importlib``), ``importlib.metadata``.
"""

from __future__ import annotations

import builtins
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader, SourcelessFileLoader
from importlib.util import resolve_name
from threading import RLock
from types import ModuleType
from typing import Any

# distributions and the modules that they install
GATEWAY = {
    "gevent": "gevent",
    "greenlet": "greenlet",
    "zope-event": "zope",
    "zope-interface": "zope",
    "pyyaml": "yaml",
    "uv": "uv",
    "watchfiles": "watchfiles",
    "anyio": "anyio",
}
# those of them that other code may look for in a patched process
GEVENT = frozenset(("gevent", "greenlet", "zope"))
_REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+")
_EXTRA = re.compile(r"\bextra\s*==")


def find_needed() -> set[str]:
    """The modules of ``GATEWAY`` that other distributions need, too; never gevent, since libraries
    would conclude that the process runs on it."""
    from importlib.metadata import distributions  # slow, and not needed in other Pythons

    requires = {_normal(each.metadata["Name"]): each.requires or [] for each in distributions()}
    others = requires.keys() - GATEWAY.keys() - {"gateway"}
    # a type checker's stubs need what they describe
    waiting = [name for name in others if not name.startswith("types-")]
    needed: set[str] = set()
    for name in waiting:
        for requirement in requires.get(name, ()):
            found = _REQUIREMENT.match(requirement)
            wanted = _normal(found[0]) if found else ""
            # SQLAlchemy's asyncio support has it as an extra; it does not imply a patched process
            if wanted != "greenlet" and _EXTRA.search(requirement):
                continue
            if wanted in GATEWAY and wanted != "gevent" and wanted not in needed:
                needed.add(wanted)
                waiting.append(wanted)
    return {GATEWAY[name] for name in needed}


class OwnModules:
    """The modules to hide, by their top-level ``names``; ``package`` can import them, too.

    Create it before any of them is imported.
    """

    def __init__(self, names: Iterable[str], package: str = "gateway") -> None:
        self._names = frozenset(names)
        self._users = self._names | {package}
        self._modules: dict[str, ModuleType] = {}
        self._places: list[object] = []
        self._is_open = True
        self._lock = RLock()
        self._builtins = {**vars(builtins), "__import__": self._import}
        sys.meta_path[sys.meta_path.index(PathFinder)] = self

    def hide(self, *directories: str) -> None:
        """Hide them from apps; ``directories`` contain nothing else and leave ``sys.path``."""
        self._places = [_place(PathFinder.find_spec(name)) for name in self._names]
        sys.path[:] = [each for each in sys.path if each not in directories]
        self._close()

    # --- as a finder of sys.meta_path ---------------------------------------------------------

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As ``PathFinder``, but does not find hidden modules."""
        spec = PathFinder.find_spec(name, path, target)
        top = name.partition(".")[0]
        if spec is None or top not in self._users:
            return spec
        if not self._is_open and name in self._names and _place(spec) in self._places:
            return None
        if type(spec.loader) in (SourceFileLoader, SourcelessFileLoader):
            _exec_with(spec.loader, self._builtins)
        return spec

    def find_distributions(self, *context: Any) -> Iterable[Any]:
        """As ``PathFinder``, but without hidden distributions."""
        found: Iterable[Any] = PathFinder.find_distributions(*context)
        if self._is_open:
            return found
        return (each for each in found if not self._is_hidden(_normal(each.metadata["Name"])))

    def invalidate_caches(self) -> None:
        """As ``PathFinder`` does."""
        PathFinder.invalidate_caches()

    def _is_hidden(self, distribution: str) -> bool:
        return GATEWAY.get(distribution, "") in self._names

    # --- as the ``__import__`` of their own code ----------------------------------------------

    def _import(
        self,
        name: str,
        globals: Any = None,
        locals: Any = None,
        fromlist: Any = (),
        level: int = 0,
    ) -> Any:
        full = resolve_name("." * level + name, globals["__package__"]) if level else name
        top = full.partition(".")[0]
        if top not in self._names:
            return builtins.__import__(name, globals, locals, fromlist, level)
        module = self._modules.get(full)
        if module is not None and not fromlist and not level:
            return self._modules[top]
        if module is not None and fromlist and all(hasattr(module, each) for each in fromlist):
            return module
        with self._opened():
            return builtins.__import__(name, globals, locals, fromlist, level)

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Show the modules while one is imported for the first time; apps that import at the same
        time see them, too."""
        with self._lock:
            if self._is_open:
                yield
                return
            apps = {name: sys.modules[name] for name in self._modules if name in sys.modules}
            sys.modules.update(self._modules)
            self._is_open = True
            try:
                yield
            finally:
                self._close()
                sys.modules.update(apps)

    def _close(self) -> None:
        self._is_open = False
        for name in [name for name in sys.modules if name.partition(".")[0] in self._names]:
            self._modules[name] = sys.modules.pop(name)


def _exec_with(loader: Any, own_builtins: dict[str, Any]) -> None:
    """Make ``loader`` execute its module with these ``builtins`` (see ``exec``)."""

    def exec_module(module: ModuleType) -> None:
        vars(module)["__builtins__"] = own_builtins
        type(loader).exec_module(loader, module)

    loader.exec_module = exec_module


def _place(spec: ModuleSpec | None) -> object:
    """The file of a module, or the directories of a namespace package."""
    if spec is None:
        return None
    return spec.origin or list(spec.submodule_search_locations or ())


def _normal(name: str) -> str:
    # as packaging's canonical names
    return re.sub(r"[-_.]+", "-", name or "").lower()
