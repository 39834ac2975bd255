"""Starts a worker whose apps see their own environment alone: ``python boot.py RUNTIME ARGUMENT…``.

Owns what such a Python can import: all of its own first, then what a worker needs beside it, which
is in the directory RUNTIME ("" for none), and the package ``gateway`` by its place alone. What else
is installed beside the gateway stays out of reach; so does, for apps, what only the worker needs.
RUNTIME is ``-`` in the gateway's own Python. Refuses to know what a worker does.
"""

import sys

if __name__ == "__main__" and not getattr(sys.flags, "safe_path", False):
    # this directory, which holds modules with names of the standard library's
    del sys.path[0]

import importlib.util
import os

OWN_PYTHON = "-"


def main() -> int:
    """The worker's exit code."""
    runtime = sys.argv.pop(1)
    has_threads = sys.argv[1:2] == ["--threads"]
    load_gateway()
    from gateway.worker.own_modules import GATEWAY, GEVENT, OwnModules, find_needed

    names = set(GATEWAY.values())
    if runtime == OWN_PYTHON:
        sys.path.insert(0, os.getcwd())  # noqa: PTH109  as with python -m
        names -= find_needed()
    else:
        names = {name for name in names if importlib.util.find_spec(name) is None}
        sys.path.extend([runtime] if runtime else ())
    # where all is patched, a library that asks for gevent has to find it, to wait as gevent does
    own = OwnModules(names if has_threads else names - GEVENT)
    from gateway.worker.process import main as work

    if has_threads:
        load_hub()
    own.hide(runtime if has_threads else "")
    return work()


def load_gateway() -> None:
    """Have the package as it lies here, and nothing else of its directory."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    spec = importlib.util.spec_from_file_location(
        "gateway", f"{package}/__init__.py", submodule_search_locations=[package]
    )
    if spec is None or spec.loader is None:
        raise ImportError(package)
    module = sys.modules["gateway"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def load_hub() -> None:
    """What gevent otherwise imports when it is first needed, by names that cannot be found then."""
    import gevent

    hub = gevent.get_hub()
    hub.resolver, hub.threadpool  # noqa: B018


if __name__ == "__main__":
    os._exit(main())  # as worker.py does
