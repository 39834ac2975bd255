"""The table's mounts to WSGI callables; the only place that imports apps.

Refuses to know requests. A mount whose app cannot be had answers 503 on its own prefix, and the
others never notice.
"""

import importlib
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from gateway.config.model import AppTarget, Mount, RedirectTarget, StaticTarget
from gateway.dispatch import Mount as LoadedMount
from gateway.errors import AppLoadError
from gateway.http.error_page import build_error_page
from gateway.mounts.redirect import Redirect
from gateway.mounts.static import StaticDirectory
from gateway.wsgi import Environ, StartResponse, WSGIApp


class Unavailable:
    """Stands for an app that did not load: 503, without saying why to strangers."""

    def __call__(self, environ: Environ, start_response: StartResponse) -> list[bytes]:
        status = "503 Service Unavailable"
        page = build_error_page(
            status,
            "The app mounted here did not load. The gateway's log has the cause.",
            environ.get("gateway.request_id", ""),
        )
        start_response(
            status,
            [
                ("Content-Type", "text/html; charset=utf-8"),
                ("Cache-Control", "no-store"),
                ("Retry-After", "10"),
            ],
        )
        return [page]


def load_mounts(
    mounts: Iterable[Mount], announce: Callable[[str], object] = str
) -> tuple[list[LoadedMount], dict[str, AppLoadError]]:
    """Every mount, and the errors of those that did not load, by mount name.

    ``announce`` is called with a mount's name before it is loaded. Apps are imported here, with the
    environment and ``sys.path`` as they are.
    """
    loaded: list[LoadedMount] = []
    errors: dict[str, AppLoadError] = {}
    for mount in mounts:
        announce(mount.name)
        app: WSGIApp
        try:
            app, kind = load_target(mount.target)
        except AppLoadError as error:
            errors[mount.name] = error
            app, kind = Unavailable(), "app"
        loaded.append(
            LoadedMount(
                name=mount.name,
                host=mount.host,
                prefix=mount.prefix,
                app=app,
                limits=mount.limits,
                kind=kind,
            )
        )
    return loaded, errors


def load_target(target: AppTarget | StaticTarget | RedirectTarget) -> tuple[WSGIApp, str]:
    """The WSGI callable and the kind of a target. Raises AppLoadError."""
    if isinstance(target, StaticTarget):
        static = StaticDirectory(
            target.directory, index=target.index, cache_seconds=target.cache_seconds
        )
        return static, "static"
    if isinstance(target, RedirectTarget):
        try:
            return Redirect(target.location, target.status), "redirect"
        except ValueError as error:
            # not from it: a traceback is shown for an app's own fault alone
            raise AppLoadError(f"the redirect: {error}") from None
    return load_app(target.import_string), "app"


def load_app(import_string: str) -> WSGIApp:
    """``module:callable`` or ``module:factory()``; raises AppLoadError, from the app's own error
    where the app has one, which then carries its traceback."""
    module_name, _, attribute_path = import_string.partition(":")
    is_factory = attribute_path.endswith("()")
    try:
        found: Any = importlib.import_module(module_name)
        for name in attribute_path.removesuffix("()").split("."):
            found = getattr(found, name)
        if is_factory:
            found = found()
    except BaseException as error:  # a module may raise anything, SystemExit too
        raise AppLoadError(_explain(import_string, module_name, error)) from error
    if not callable(found):
        raise AppLoadError(f"{import_string} is a {type(found).__name__}, not a WSGI callable")
    return found  # type: ignore[no-any-return]


def _explain(import_string: str, module_name: str, error: BaseException) -> str:
    """Tell "no such module" from "the module failed"."""
    if (
        isinstance(error, ModuleNotFoundError)
        and error.name
        and f"{module_name}.".startswith(f"{error.name}.")
    ):
        if "is not a package" in error.msg:  # another module of that name comes first
            return f"{import_string}: {error.msg}"
        return f"{import_string}: there is no module {error.name} on sys.path"
    if isinstance(error, SystemExit):
        return f"{import_string}: the app called sys.exit({error.code!r}) while it was loaded"
    try:
        told = str(error).strip().partition("\n")[0]
    except Exception:  # noqa: BLE001  what an exception tells of itself is the app's own code
        told = "it does not tell why"
    return f"{import_string}: {type(error).__name__}: {told}"


def describe_cause(error: AppLoadError) -> str:
    """The traceback of the app's own error and of what led to it, without the lines that are the
    gateway's or the import system's; "" where that leaves nothing to show."""
    cause = error.__cause__
    if cause is None:
        return ""
    report: traceback.TracebackException | None
    report = whole = traceback.TracebackException.from_exception(cause)
    while report is not None:
        report.stack[:] = [frame for frame in report.stack if _is_own(frame.filename)]
        report = report.__cause__ or (None if report.__suppress_context__ else report.__context__)
    if not whole.stack and not isinstance(cause, SyntaxError):
        return ""
    return "".join(whole.format()).rstrip()


def _is_own(file_name: str) -> bool:
    return file_name not in (__file__, importlib.__file__) and not file_name.startswith("<frozen ")
