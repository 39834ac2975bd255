"""Whether the object of an import string can be a WSGI app, and what to write if it cannot.

Rejects only what would certainly fail (PEP 3333 "The Application/Framework Side"): whatever may
take ``environ`` and ``start_response`` is accepted. So only plain functions are inspected; the
parameters of C code, proxies and signatures set by hand are unknown. Does not know how apps are
imported.
"""

from __future__ import annotations

import inspect
import re
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

# what apps are usually called
APP_NAMES = ("app", "application")
_FACTORY = re.compile(r"(create|make|build|get|new)(_.*)?|.*_?factory", re.IGNORECASE)
_ASGI_NAMES = ["scope", "receive", "send"]


def find_app_fault(import_string: str, found: object) -> str:
    """Why ``found`` is not a WSGI app and what to write instead; "" if it may be one."""
    if not callable(found):
        return _explain_uncallable(import_string, found)
    if isinstance(found, type):
        return _explain_class(import_string, found)
    plain = _find_plain(found)
    if plain is None:
        return ""
    if _is_asgi(plain):
        return _explain_asgi(import_string)
    if _is_coroutine(plain.function):
        return 'it is a coroutine function, which WSGI cannot call: write "def", not "async def"'
    if _takes(plain, 2) and (import_string.endswith("()") or not _looks_like_factory(plain)):
        return ""
    return _explain_parameters(import_string, plain)


def find_call_fault(import_string: str, found: object) -> str:
    """Why ``found`` cannot be called as the factory that ``import_string`` says it is, and what to
    write instead; "" if it may be callable so."""
    plain = _find_plain(found)
    if plain is None or _takes(plain, 0):
        return ""
    bare = import_string.removesuffix("()")
    fault = find_app_fault(bare, found)
    if not fault:
        return f"it is the app itself, not a factory{_hint(bare)}"
    if fault != _explain_parameters(bare, plain):
        return fault
    name = plain.function.__name__
    return f"{_show(plain)} cannot be called without arguments: {_in_module(name)}"


def guess_in(module: object) -> str:
    """The import string of the app in ``module``, or of the one that it names as Django's settings
    do; "" for none."""
    own = getattr(module, "__dict__", {})
    for name in APP_NAMES:
        if callable(own.get(name)):
            return f"{own['__name__']}:{name}"
    named = own.get("WSGI_APPLICATION")
    return ":".join(named.rsplit(".", 1)) if isinstance(named, str) else ""


class _Plain(NamedTuple):
    """A plain function that a call runs, and the arguments that are bound already."""

    function: FunctionType
    arguments: tuple[object, ...]
    keywords: dict[str, object]


def _find_plain(found: Any) -> _Plain | None:
    """The function that a call of ``found`` runs; None if that is not certain."""
    arguments: tuple[object, ...] = ()
    keywords: dict[str, object] = {}
    while isinstance(found, partial):
        arguments = found.args + arguments
        keywords = found.keywords | keywords
        found = found.func
    if isinstance(found, MethodType):
        arguments = (found.__self__, *arguments)
        found = found.__func__
    elif not isinstance(found, (FunctionType, type)):
        arguments = (found, *arguments)
        found = inspect.getattr_static(type(found), "__call__", None)
    if not isinstance(found, FunctionType) or "__signature__" in vars(found):
        return None
    return _Plain(found, arguments, keywords)


def _takes(plain: _Plain, count: int) -> bool:
    signature = inspect.signature(plain.function, follow_wrapped=False)
    try:
        signature.bind(*plain.arguments, *range(count), **plain.keywords)
    except TypeError:
        return False
    return True


def _names(plain: _Plain) -> list[str]:
    """The names of the positional parameters that a call fills."""
    code = plain.function.__code__
    return list(code.co_varnames[len(plain.arguments) : code.co_argcount])


def _keywords(plain: _Plain) -> list[str]:
    """The names of required keyword-only parameters."""
    function: Any = plain.function
    code, defaults = function.__code__, function.__kwdefaults__ or {}
    names = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    return [name for name in names if name not in defaults and name not in plain.keywords]


def _is_coroutine(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _is_asgi(plain: _Plain) -> bool:
    """ASGI 3 has three arguments, whatever a coroutine function calls them; ASGI 2 the scope."""
    names = _names(plain)
    is_three = _is_coroutine(plain.function) and len(names) == 3
    return is_three or names in (_ASGI_NAMES, _ASGI_NAMES[:1])


def _looks_like_factory(plain: _Plain) -> bool:
    names, function = _names(plain), plain.function
    is_open = bool(function.__code__.co_flags & inspect.CO_VARARGS)  # often a decorator's
    is_named = bool(_FACTORY.fullmatch(function.__name__))
    return is_named and not is_open and not names[0].startswith("env") and _takes(plain, 0)


def _explain_uncallable(import_string: str, found: object) -> str:
    if isinstance(found, ModuleType):
        return f"it is a module, not a WSGI app{_hint(guess_in(found))}"
    if inspect.iscoroutine(found):
        found.close()
        return 'its factory is a coroutine function: write "def", not "async def"'
    if any(kind.__name__ == "Blueprint" for kind in type(found).__mro__):
        return "it is a Blueprint, a part of an app: mount the Flask app that registers it"
    is_forgotten = found is None and import_string.endswith("()")
    hint = ': end the factory with "return app"' if is_forgotten else ""
    return f"it is not a WSGI callable ({type(found).__name__}){hint}"


def _explain_class(import_string: str, found: Any) -> str:
    """PEP 3333 allows a class whose instances are the responses. A class is rejected if it makes
    its instances in the usual way and they cannot be responses."""
    is_usual = type(found).__call__ is type.__call__ and found.__new__ is object.__new__
    if not is_usual or hasattr(found, "__iter__") or hasattr(found, "__getitem__"):
        return ""
    if not any("__call__" in vars(kind) for kind in found.__mro__):
        return "it is a class whose instances can be neither apps nor responses"
    init = found.__init__
    if not isinstance(init, FunctionType) or _takes(_Plain(init, (None,), {}), 0):
        return f"it is a class, and its instances are the apps{_hint(f'{import_string}()')}"
    return f"it is a class, and its instances are the apps: {_in_module(found.__name__)}"


def _explain_asgi(import_string: str) -> str:
    return (
        f'it is an ASGI app, which workers do not run: write asgi: "{import_string}" in the place '
        "of app, and Uvicorn runs it"
    )


def _show(plain: _Plain) -> str:
    keywords = _keywords(plain)
    parameters = _names(plain) + (["*", *keywords] if keywords else [])
    return f"{plain.function.__name__}({', '.join(parameters)})"


def _explain_parameters(import_string: str, plain: _Plain) -> str:
    name, keywords, shown = plain.function.__name__, _keywords(plain), _show(plain)
    if keywords and _takes(plain._replace(keywords=plain.keywords | dict.fromkeys(keywords)), 2):
        return f"{shown} cannot be called with environ and start_response alone: {_give(keywords)}"
    text = f"{shown} does not take environ and start_response"
    if import_string.endswith("()"):
        return f"what it makes is not a WSGI app: {text}"
    if _takes(plain, 0):
        return f"it looks like a factory{_hint(f'{import_string}()')}"
    if keywords or _takes(plain, 1):
        return f"{text}; if it makes the app, {_in_module(name)}"
    return text


def _give(keywords: list[str]) -> str:
    wanted = "defaults" if keywords[1:] else "a default"
    return f"give {' and '.join(keywords)} {wanted}"


def _in_module(maker: str) -> str:
    return f'write "app = {maker}(...)" in its module, and mount that'


def _hint(meant: str) -> str:
    return f' (did you mean "{meant}"?)' if meant else ""
