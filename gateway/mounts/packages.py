"""How to add a package that an app lacks. It depends on where its pool's packages come from.

Owns that advice.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import gateway
from gateway.config.model import PoolSettings

# packages whose name is not the module's
_DISTRIBUTIONS = {
    "bs4": "beautifulsoup4",
    "corsheaders": "django-cors-headers",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "decouple": "python-decouple",
    "dotenv": "python-dotenv",
    "environ": "django-environ",
    "jose": "python-jose",
    "jwt": "PyJWT",
    "multipart": "python-multipart",
    "MySQLdb": "mysqlclient",
    "PIL": "Pillow",
    "psycopg2": "psycopg2-binary",
    "rest_framework": "djangorestframework",
    "sklearn": "scikit-learn",
    "socketio": "python-socketio",
    "yaml": "PyYAML",
}


def advise_package(module: str, pool: PoolSettings) -> str:
    """What to do about a missing ``module``; "" if it does not belong to a package."""
    is_standard = module in getattr(sys, "stdlib_module_names", ())  # from Python 3.10 on
    if "." in module or is_standard or _is_there(module):
        return ""
    package = _DISTRIBUTIONS.get(module, module.replace("_", "-"))
    if pool.requirements:
        return f'add {package} to {pool.requirements} and run "gateway reload"'
    install = f'run "{sys.executable} -m pip install {package}" and "gateway reload"'
    if pool.venv or pool.python:
        return install
    root = Path(gateway.__file__).parent.parent
    if not (root / "apps/requirements.txt").is_file():
        return install
    if (Path(sys.prefix) / "run.stamp").is_file():  # the Makefile's environment
        return f'add {package} to apps/requirements.txt and run "make run" again'
    if not (root / "Makefile").is_file():  # the image
        return f'add {package} to apps/requirements.txt and run "make up"'
    return install


def advise_mode(module: str) -> str:
    """What to do about a package's directory on ``sys.path`` that this user may not read, in which
    importlib finds nothing; "" if there is none."""
    parts = module.split(".")
    for entry in sys.path:
        for depth in range(1, len(parts) + 1):
            # not pathlib, which raises for paths in such a directory
            folder = os.path.join(entry, *parts[:depth])  # noqa: PTH118
            if os.path.isdir(folder) and not os.access(folder, os.R_OK | os.X_OK):  # noqa: PTH112
                return f': user {os.geteuid()} may not read {folder}: try "chmod -R a+rX {folder}"'
    return ""


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return True
