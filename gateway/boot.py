"""Starts a worker in a Python that is not the gateway's own: ``python boot.py RUNTIME ARGUMENT…``.

Owns what such a Python can import: all of its own first, then what a worker needs beside it, which
is in the directory RUNTIME ("" for none), and the package ``gateway`` by its place alone. What else
is installed beside the gateway stays out of reach. Refuses to know what a worker does.
"""

import sys

if __name__ == "__main__" and not getattr(sys.flags, "safe_path", False):
    # this directory, which holds modules with names of the standard library's
    del sys.path[0]

import importlib.util
import os


def main() -> int:
    """The worker's exit code."""
    runtime = sys.argv.pop(1)
    if runtime:
        sys.path.append(runtime)
    package = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120  pathlib is slow
    spec = importlib.util.spec_from_file_location(
        "gateway", f"{package}/__init__.py", submodule_search_locations=[package]
    )
    if spec is None or spec.loader is None:
        raise ImportError(package)
    module = sys.modules["gateway"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from gateway.worker import main as work

    return work()


if __name__ == "__main__":
    sys.exit(main())
