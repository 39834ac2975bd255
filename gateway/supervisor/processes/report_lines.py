"""The form of the reports that a worker writes on its control socket: JSON objects, one a line.

Checked here, so that other modules can rely on it: an app can write to the socket too.
"""

import json
from typing import Any

# the fields of each event, with their types; the report of a mount is a dictionary of texts
_FIELDS: dict[str, dict[str, type]] = {
    "loading": {"mount": str},
    "noted": {"mount": str, "text": str},
    "loaded": {"mounts": list},
    "prepared": {"mounts": list},
    "found": {"paths": list},
    "drained": {"cut": int},
    **{event: {} for event in ("applied", "ready", "settled", "paused", "retired")},
}
_TEXTS = ("mount", "error", "traceback")
SHOWN = 100


def read_report(line: bytes) -> dict[str, Any]:
    """The report of a line. Raises ValueError for anything else, with its beginning."""
    try:
        report = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {line[:SHOWN]!r}") from error
    if not _is_report(report):
        raise ValueError(f"no report: {line[:SHOWN]!r}")
    return report  # type: ignore[no-any-return]


def _is_report(report: Any) -> bool:
    if not isinstance(report, dict) or not isinstance(report.get("event"), str):
        return False
    fields = _FIELDS.get(report["event"])
    return (
        fields is not None
        and all(isinstance(report.get(name), kind) for name, kind in fields.items())
        and all(map(_is_mount, report.get("mounts", [])))
        and all(isinstance(path, str) for path in report.get("paths", []))
    )


def _is_mount(report: Any) -> bool:
    return isinstance(report, dict) and all(isinstance(report.get(key), str) for key in _TEXTS)
