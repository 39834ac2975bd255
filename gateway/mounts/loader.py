"""The table's mounts to WSGI callables; the only place that imports apps.

Does not know requests. A mount whose app does not load answers 503 below its own prefix, and does
not affect the others.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from math import ceil
from time import monotonic
from types import MappingProxyType
from typing import Any

from gateway import lifecycle
from gateway.config.model import (
    AppTarget,
    Mount,
    PoolSettings,
    RedirectTarget,
    StaticTarget,
    UpstreamTarget,
)
from gateway.errors import AppLoadError
from gateway.http.dispatch import LoadedMount
from gateway.mounts.callables import APP_NAMES, find_app_fault, find_call_fault, guess_in
from gateway.mounts.footprint import Footprint
from gateway.mounts.packages import advise_mode, advise_package
from gateway.mounts.pass_env import advise_variable
from gateway.mounts.projects import VARIABLE, DjangoProject
from gateway.mounts.redirect import Redirect
from gateway.mounts.static import StaticDirectory
from gateway.protocol.error_page import build_error_page
from gateway.tracebacks import cut_middle, describe_error
from gateway.wsgi import Environ, StartResponse, WSGIApp

# of an exception's message; its traceback follows
MAX_CHARACTERS = 1000
RETRY_SECONDS = 5
# what functions that make an app are usually called
FACTORY_NAMES = ("create_app", "make_app")


class Unavailable:
    """Replaces an app that has not loaded: 503. ``cause`` is shown on the page, "" for none."""

    def __init__(self, cause: str = "") -> None:
        self._cause = cause
        self._until = 0.0

    def put_off(self, cause: str, until: float) -> None:
        """Note that the app is not loaded again before ``until``, a monotonic time."""
        self._until = until
        if self._cause:
            self._cause = cause

    def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        status = "503 Service Unavailable"
        page = build_error_page(
            status,
            "The app mounted here has not loaded. The gateway's log has the cause.",
            environ.get("gateway.request_id", ""),
            self._cause,
        )
        start_response(
            status,
            [
                ("Content-Type", "text/html; charset=utf-8"),
                ("Cache-Control", "no-store"),
                ("Retry-After", str(self._find_seconds())),
            ],
        )
        return [page]

    def _find_seconds(self) -> int:
        """Until it is loaded again, as far as that is known."""
        return max(1, ceil(self._until - monotonic())) if self._until else RETRY_SECONDS


def load_mounts(
    mounts: Iterable[Mount],
    announce: Callable[[str], object] = str,
    loaded_apps: Mapping[str, WSGIApp] = MappingProxyType({}),
    shows_cause: bool = False,
    pool: PoolSettings = PoolSettings(name="main"),  # noqa: B008  frozen
    note: Callable[[str, str], object] = lambda mount, text: None,
    left_out: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[LoadedMount], dict[str, AppLoadError]]:
    """Every mount, and the errors of those that did not load, by mount name.

    ``announce`` is called with a mount's name before it is loaded. Apps are imported here, with the
    environment and ``sys.path`` as they are, but for those that ``loaded_apps`` has by mount name.
    ``shows_cause``: the page of an app that has not loaded shows why. ``pool`` is this worker's.
    ``note`` is called with a mount's name and what its import has changed for other apps.
    ``left_out`` are mounts that must not be loaded, each with the reason.
    """
    loaded: list[LoadedMount] = []
    errors: dict[str, AppLoadError] = {}
    mounts = list(mounts)
    imports = _Imports(mounts, pool, note)
    for mount in mounts:
        try:
            if mount.name in left_out:
                raise AppLoadError(left_out[mount.name])
            announce(mount.name)
            app, kind = _find_app(mount, imports, loaded_apps)
        except AppLoadError as error:
            errors[mount.name] = error
            cause = f"{error}\n{describe_cause(error)}".rstrip() if shows_cause else ""
            app, kind = Unavailable(cause), "app"
        loaded.append(
            LoadedMount(
                name=mount.name,
                host=mount.host,
                prefix=mount.prefix,
                app=app,
                limits=mount.limits,
                kind=kind,
                scopes_cookies=getattr(mount.target, "scopes_cookies", False),
                takes_in_all=mount.takes_in_all,
            )
        )
    return loaded, errors


def _find_app(
    mount: Mount, imports: _Imports, loaded_apps: Mapping[str, WSGIApp]
) -> tuple[WSGIApp, str]:
    """The WSGI callable and the kind of a mount. Raises AppLoadError."""
    target = mount.target
    if mount.name in loaded_apps:
        return loaded_apps[mount.name], "app" if isinstance(target, AppTarget) else "upstream"
    if isinstance(target, AppTarget):
        return imports.load(mount.name, target), "app"
    if isinstance(target, UpstreamTarget):
        # imported here, since most workers of pools have no upstream mount
        from gateway.mounts.upstreams import load_upstream

        return load_upstream(mount, target), "upstream"
    return load_target(target)


class _Imports:
    """Imports the apps of one process, and keeps each from disturbing the others."""

    def __init__(
        self, mounts: list[Mount], pool: PoolSettings, note: Callable[[str, str], object]
    ) -> None:
        self._pool = pool
        self._note = note
        self._project = DjangoProject()
        self._footprint = build_footprint(mounts)
        self._loaded: dict[tuple[Any, ...], WSGIApp] = {}  # callables, by ``load_key``

    def load(self, name: str, target: AppTarget) -> WSGIApp:
        """Raises AppLoadError."""
        module = target.import_string.partition(":")[0]
        setting = target.env.get(VARIABLE, "")
        known = self._loaded.get(target.load_key)
        # an app that another mount has loaded runs no code here, so it changes nothing
        watched = self._footprint.watched(lambda text: self._note(name, text))
        footprint = watched if known is None else nullcontext()
        lives = lifecycle.own.loading(name)
        with lives, footprint, self._project.loading(name, module, setting):
            app = load_app(target.import_string, self._pool) if known is None else known
        if not target.import_string.endswith("()"):
            self._loaded[target.load_key] = app
        return app


def build_footprint(mounts: Iterable[Mount]) -> Footprint:
    """What the apps of a process with these mounts must not change for each other."""
    targets = [mount.target for mount in mounts if isinstance(mount.target, AppTarget)]
    modules = {re.split("[.:]", target.import_string)[0] for target in targets}
    return Footprint(modules, is_shared=len(targets) > 1)


def load_target(target: StaticTarget | RedirectTarget) -> tuple[WSGIApp, str]:
    """The WSGI callable and the kind of a target. Raises AppLoadError."""
    if isinstance(target, StaticTarget):
        static = StaticDirectory(
            target.directory, index=target.index, cache_seconds=target.cache_seconds
        )
        return static, "static"
    try:
        return Redirect(target.location, target.status), "redirect"
    except ValueError as error:
        # not chained: a traceback is shown for faults of apps only
        raise AppLoadError(f"the redirect: {error}") from None


def load_app(
    import_string: str,
    pool: PoolSettings = PoolSettings(name="main"),  # noqa: B008  frozen
) -> WSGIApp:
    """``module:callable`` or ``module:factory()``, in a worker of ``pool``; raises AppLoadError,
    from the app's own error if there is one, which has the traceback."""
    module_name, _, attribute_path = import_string.partition(":")
    is_factory = attribute_path.endswith("()")
    try:
        found: Any = importlib.import_module(module_name)
        for name in attribute_path.removesuffix("()").split("."):
            found = getattr(found, name)
        fault = find_call_fault(import_string, found) if is_factory else ""
        if is_factory and not fault:
            found = found()
    except BaseException as error:  # a module may raise anything, even SystemExit
        raise AppLoadError(_explain(import_string, module_name, error, pool)) from error
    if fault := fault or find_app_fault(import_string, found):
        raise AppLoadError(f"{import_string}: {fault}")
    return found  # type: ignore[no-any-return]


def _explain(import_string: str, module_name: str, error: BaseException, pool: PoolSettings) -> str:
    """The message, which distinguishes "no such module" from "the module failed"."""
    if (
        isinstance(error, ModuleNotFoundError)
        and error.name
        and f"{module_name}.".startswith(f"{error.name}.")
    ):
        if "is not a package" in error.msg:  # another module of that name comes first
            return f"{import_string}: {error.msg}"
        hint = advise_mode(error.name)
        return f"{import_string}: there is no module {error.name} on sys.path{hint}"
    if isinstance(error, SystemExit):
        return f"{import_string}: the app called sys.exit({error.code!r}) while it was loaded"
    try:
        message = cut_middle(str(error).strip().partition("\n")[0], MAX_CHARACTERS)
    except Exception:  # noqa: BLE001  its __str__ is the app's own code
        message = "the exception has no message"
    name = type(error).__name__
    explained = f"{import_string}: {name}: {message}" if message else f"{import_string}: {name}"
    hint = _guess_meant(import_string, module_name, error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        hint = advise_package(error.name, pool)
    hint = hint or advise_variable(error, pool)
    if isinstance(error, PermissionError) and str(error.filename).endswith(".py"):
        hint = hint or f'try "chmod a+r {error.filename}"'
    return f"{explained} ({hint})" if hint else explained


def _guess_meant(import_string: str, module_name: str, error: BaseException) -> str:
    """``did you mean "…"?`` if the module lacks the name, but has a similar or a usual one."""
    from difflib import get_close_matches  # imported only for a misspelt name

    path, is_factory, _ = import_string.partition(":")[2].partition("()")
    wanted, goes_on, _ = path.partition(".")
    module = sys.modules.get(module_name)
    if not isinstance(error, AttributeError) or hasattr(module, wanted):
        return ""
    had = getattr(module, "__dict__", {}).items()
    names = [name for name, value in had if isinstance(name, str) and callable(value)]
    usual = [name for name in APP_NAMES + FACTORY_NAMES if name in names]
    found = get_close_matches(wanted, names, n=1) or usual
    if not found:
        named = guess_in(module)
        return f'did you mean "{named}"?' if named else ""
    is_called = found[0] in FACTORY_NAMES or (is_factory and found[0] not in APP_NAMES)
    is_called = is_called and not goes_on
    return f'did you mean "{found[0]}{"()" if is_called else ""}"?'


def describe_cause(error: AppLoadError) -> str:
    """The traceback of the app's own error; "" if there is none."""
    return describe_error(error.__cause__) if error.__cause__ else ""
