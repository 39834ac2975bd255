"""Starts a worker whose apps see only their own environment: ``python boot.py RUNTIME ARGUMENT…``.

Owns what this Python can import: first all of its own packages, then those that a worker needs,
from the directory RUNTIME ("" for none), and the package ``gateway``, by its path. Other packages
of the gateway's environment cannot be imported; nor can apps import what only the worker needs.
RUNTIME is ``-`` in the gateway's own Python.
"""

import sys

if __name__ == "__main__" and not getattr(sys.flags, "safe_path", False):
    # this directory, which has modules with names of the standard library
    del sys.path[0]

import importlib.util
import os

OWN_PYTHON = "-"


def main() -> int:
    """Run the worker; returns its exit code."""
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
    # in a patched process, libraries that look for gevent must find it, to wait as gevent does
    own = OwnModules(names if has_threads else names - GEVENT)
    from gateway.worker.process import main as work

    if has_threads:
        load_hub()
    own.hide(runtime if has_threads else "")
    return work()


def load_gateway() -> None:
    """Import this package, and nothing else from its directory."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    spec = importlib.util.spec_from_file_location(
        "gateway", f"{package}/__init__.py", submodule_search_locations=[package]
    )
    if spec is None or spec.loader is None:
        raise ImportError(package)
    module = sys.modules["gateway"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def load_hub() -> None:
    """Import what gevent otherwise imports on first use, when it can no longer be found."""
    import gevent

    hub = gevent.get_hub()
    hub.resolver, hub.threadpool  # noqa: B018


if __name__ == "__main__":
    os._exit(main())  # as process.py does
