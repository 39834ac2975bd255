"""What a worker may write on its control socket: JSON objects, one a line.

Owns their shape, so that whoever takes a report need not doubt it: an app has the socket's
descriptor, too. Refuses to know what they mean.
"""

import json
from typing import Any

# what each event has beside its name, and of which type; a mount's report is a dictionary of texts
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
    """Raises ValueError for what is no report, with the beginning of it."""
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
