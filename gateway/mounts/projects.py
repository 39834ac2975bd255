"""Django keeps one project in a process: a mount that wants another one is refused.

Finds out what a mount wants while it loads, in whichever way: by the table, by assigning
``DJANGO_SETTINGS_MODULE`` or setting its default, or by configuring the settings itself. Otherwise
requests for a second project would be answered by the first one, with its data. Does not know how
apps are loaded, and imports no Django: it inspects the one that an app has imported. Source:
Django's documentation, "Django settings", which also allows no second ``settings.configure()``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gateway.errors import AppLoadError

VARIABLE = "DJANGO_SETTINGS_MODULE"
ADVICE = 'two Django projects cannot share a process: give one of them "pool: own"'
# what Django says to a second settings.configure()
_CONFIGURED_TWICE = "Settings already configured."


class DjangoProject:
    """The project of this process: that of the first mount that wants one. ``_names`` are the
    settings modules that mean this project."""

    def __init__(self) -> None:
        self._holder = ""
        self._names: set[str] = set()

    @contextmanager
    def loading(self, mount: str, module: str, setting: str) -> Iterator[None]:
        """Around loading ``mount`` from ``module``. ``setting`` is its settings module in the
        table, "" for none. Raises AppLoadError if the mount wants another project than the
        process has."""
        before = os.environ.get(VARIABLE)
        asked: list[str] = []
        if setting:
            self._ask(asked, setting)
            os.environ[VARIABLE] = setting
        try:
            with _watching(lambda value: self._ask(asked, value)):
                yield
        except AppLoadError as error:
            if self._holder and str(error.__cause__) == _CONFIGURED_TWICE:
                asked.append("settings of its own")
            if not self._is_foreign(asked) and not _is_configured():
                _restore(before)
                raise
            self._end(mount, module, asked, before)
            raise
        self._end(mount, module, asked, before)

    def _ask(self, asked: list[str], value: str) -> None:
        asked.append(value)
        if self._is_foreign(asked):
            # immediately: what follows could migrate the first project's database
            raise self._refusal(asked)

    def _end(self, mount: str, module: str, asked: list[str], before: str | None) -> None:
        if self._holder and not asked and _has_own_urls(module):
            asked.append("URLs of its own")
        if self._is_foreign(asked):
            sys.modules.pop(module, None)  # so that another mount of it is checked again
            _restore(before)
            raise self._refusal(asked) from None
        if asked or _is_configured():
            self._holder = self._holder or mount
            self._names |= {*asked, _configured_module()} - {""}

    def _is_foreign(self, asked: list[str]) -> bool:
        return bool(self._holder) and not self._names.issuperset(asked)

    def _refusal(self, asked: list[str]) -> AppLoadError:
        held = " or ".join(sorted(self._names)) or "settings of its own"
        return AppLoadError(f'{ADVICE}; "{self._holder}" has {held}, this one {asked[-1]}')


@contextmanager
def _watching(take: Callable[[str], None]) -> Iterator[None]:
    """Call ``take`` with each value that is assigned to the variable, or set as its default."""
    environ: Any = os.environ
    usual: Any = type(environ)

    class Watched(usual):  # type: ignore[misc]
        def __setitem__(self, key: str, value: str) -> None:
            if key == VARIABLE:
                take(value)
            super().__setitem__(key, value)

        def setdefault(self, key: str, *value: str) -> Any:
            if key == VARIABLE and value:
                take(value[0])
            return super().setdefault(key, *value)

    environ.__class__ = Watched
    try:
        yield
    finally:
        environ.__class__ = usual


def _restore(before: str | None) -> None:
    if before is None:
        os.environ.pop(VARIABLE, None)
    else:
        os.environ[VARIABLE] = before


def _settings() -> Any:
    return getattr(sys.modules.get("django.conf"), "settings", None)


def _is_configured() -> bool:
    return bool(getattr(_settings(), "configured", False))


def _configured_module() -> str:
    """ "" if the settings do not come from a module, or there are none."""
    return str(getattr(_settings(), "SETTINGS_MODULE", "") or "") if _is_configured() else ""


def show_exceptions() -> None:
    """Make the project pass exceptions of its views on, to the gateway's page and log, if it would
    show nobody a traceback: ``DEBUG`` is off, and the project does not set this itself.
    Source: Django's documentation, "Settings", ``DEBUG_PROPAGATE_EXCEPTIONS``."""
    settings, setting = _settings(), "DEBUG_PROPAGATE_EXCEPTIONS"
    if _is_configured() and not settings.DEBUG and not settings.is_overridden(setting):
        setattr(settings, setting, True)


def _has_own_urls(module: str) -> bool:
    """Whether ``module`` is a Django project in one file, other than the one that is configured:
    such files check ``settings.configured`` first."""
    has_urls = hasattr(sys.modules.get(module), "urlpatterns")
    return has_urls and _is_configured() and getattr(_settings(), "ROOT_URLCONF", "") != module
