"""Paths of files, and where redirects point.

Reads no file. Source: RFC 3986 §2.1 (percent-encoding) and §3, RFC 9110
§10.2.2 (Location).
"""

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from gateway.config.text.problems import BadValueError, did_you_mean
from gateway.config.values.addresses import is_address, is_host_name

LOCATION_PATTERN = r"(/|https?://[^/])[^\s?#]*"
PROBE_PATTERN = r"/[!-~]*"
PYTHON_PATTERN = r"3\.[0-9]{1,2}|.*/.*"
FILE_NAME_PATTERN = r"[^/]+"

# RFC 3986 §3.2: an address with colons stands in brackets, and a user in a Location deceives
_AUTHORITY = re.compile(
    r"https?://(\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(:(?P<port>[0-9]{1,5}))?"
    r"(?=/|\Z)"
)


def parse_file_name(text: str) -> str:
    """A name without a folder. Raises BadValueError."""
    if not text or "/" in text or text in (".", ".."):
        raise BadValueError
    return text


def parse_probe(text: str) -> str:
    """A path, with or without a query, as in a request. Raises BadValueError."""
    if re.search(r"[^\x21-\x7e]|#|%(?![0-9A-Fa-f]{2})", text):
        raise BadValueError("percent-encode the characters that a URL cannot contain")
    if not text.startswith("/"):
        raise BadValueError(f'write "/{text}"' if text and ":" not in text else "")
    return text


def parse_place(text: str, _directory: Path) -> str:
    """A path that need not exist yet. Raises BadValueError."""
    if not text:
        raise BadValueError
    return text


def parse_directory(text: str, table_directory: Path) -> Path:
    """Absolute. Raises BadValueError unless it can be entered and is safe to publish."""
    found = Path(os.path.normpath(table_directory / text))
    if not text:
        raise BadValueError
    try:
        is_directory = stat.S_ISDIR(found.stat().st_mode)
    except OSError as exc:
        near = did_you_mean(found.name, _names_in(found.parent, Path.is_dir))
        raise BadValueError(near or (exc.strerror or "").lower()) from exc
    if not is_directory:
        raise BadValueError("it is a file: name the directory that holds it")
    if not os.access(found, os.X_OK):
        raise BadValueError("the gateway's user may not enter it: chmod a+rx")
    real, table = found.resolve(), table_directory.resolve()
    if real == table or real in table.parents:
        raise BadValueError("it would publish the table itself and the apps' code")
    return found


def parse_folder(text: str, table_directory: Path) -> Path:
    """Absolute. Raises BadValueError unless it is an existing directory."""
    found = _absolute(text, table_directory)
    if not found.is_dir():
        near = did_you_mean(found.name, _names_in(found.parent, Path.is_dir))
        raise BadValueError(near or "there is none")
    return found


def parse_file(text: str, table_directory: Path) -> Path:
    """Absolute. Raises BadValueError unless it is an existing file."""
    found = _absolute(text, table_directory)
    if not found.is_file():
        near = did_you_mean(found.name, _names_in(found.parent, Path.is_file))
        raise BadValueError(near or "there is none")
    return found


def parse_venv(text: str, table_directory: Path) -> Path:
    """Absolute. Raises BadValueError unless it has an interpreter."""
    found = _absolute(text, table_directory)
    if not (found / "bin" / "python").exists():
        raise BadValueError("there is no bin/python in it: make it with python -m venv")
    return found


def parse_python(text: str, table_directory: Path) -> str:
    """A version as it is, a path absolute. Raises BadValueError, also for one before 3.9."""
    if version := re.fullmatch(r"3\.([0-9]{1,2})(\.[0-9]{1,2})?", text):
        if int(version[1]) < 9:
            raise BadValueError("3.9 is the oldest that workers run on")
        return text
    if "/" not in text:
        raise BadValueError
    found = _absolute(text, table_directory)
    if not os.access(found, os.X_OK) or found.is_dir():
        raise BadValueError("there is no such program")
    return str(found)


def _absolute(text: str, table_directory: Path) -> Path:
    if not text:
        raise BadValueError
    return Path(os.path.normpath(table_directory / text))


def _names_in(folder: Path, accept: Callable[[Path], bool]) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if accept(entry))
    except OSError:
        return []


def parse_location(text: str) -> str:
    """A path or an absolute URL that the rest of a path can be added to. Raises BadValueError."""
    if "?" in text or "#" in text:
        raise BadValueError("leave out the query: the request's own is kept")
    if re.search(r"[\x00-\x20\x7f\"<>\\^`{|}]|%(?![0-9A-Fa-f]{2})", text):
        raise BadValueError("percent-encode the characters that a URL cannot contain")
    if re.search(r"/\.\.?(/|$)", text):
        raise BadValueError('leave out "." and ".." segments')
    if re.fullmatch(r"/(?!/).*", text) or (re.match("https?://", text) and _has_host(text)):
        return text
    raise BadValueError(_location_hint(text))


def _has_host(url: str) -> bool:
    """Whether what precedes the path is a host, with or without a port, and nothing else."""
    found = _AUTHORITY.match(url)
    if found is None or int(found["port"] or 0) > 65_535:
        return False
    if found["address"]:
        return ":" in found["address"] and is_address(found["address"])
    return is_host_name(found["name"].lower())


def _location_hint(text: str) -> str:
    if text.startswith("//"):
        return f'write "https:{text}"'
    if re.match(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+(/|$)", text):
        return f'write "https://{text}"'
    if re.fullmatch(r"[A-Za-z0-9_./-]+", text) and not text.startswith("."):
        return f'write "/{text}"'
    return ""
