"""Durations, sizes, counts, percentages and booleans: text to values and back.

Does not know tables. Source: durations as Go and Docker Compose write them, sizes as
IEC 80000-13 does (KiB is 1024, kB is 1000).
"""

import re

from gateway.config.text.problems import BadValueError

DURATION_PATTERN = (
    r"(?=.)([0-9]{1,9}(\.[0-9]{1,9})?d)?([0-9]{1,9}(\.[0-9]{1,9})?h)?([0-9]{1,9}(\.[0-9]{1,9})?m)?"
    r"([0-9]{1,9}(\.[0-9]{1,9})?s)?([0-9]{1,9}(\.[0-9]{1,9})?ms)?"
)
SIZE_PATTERN = r"[0-9]{1,12}(B|KiB|MiB|GiB|TiB|kB|MB|GB|TB)"
COUNT_PATTERN = r"0|[1-9][0-9]{0,8}"
PERCENTAGE_PATTERN = r"[0-9]{1,3}(\.[0-9]{1,3})?%"
BOOLEAN_PATTERN = "true|false"

_SECONDS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_BYTES = {
    "B": 1,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
_NEAR_UNITS = {
    **dict.fromkeys(("sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), "m"),
    **dict.fromkeys(("hr", "hrs", "hour", "hours"), "h"),
    **dict.fromkeys(("day", "days"), "d"),
    **dict.fromkeys(("msec", "millis", "milliseconds"), "ms"),
}


# other words for true and false: YAML 1.1's, and usual ones
_NEAR_TRUE = ("true", "yes", "y", "on", "1", "enabled")
_NEAR_FALSE = ("false", "no", "n", "off", "0", "disabled")


def parse_duration(text: str) -> float:
    """Seconds. Raises BadValueError."""
    if text == "0":
        return 0.0
    if re.fullmatch(DURATION_PATTERN, text):
        parts = re.findall(r"([0-9.]+)(ms|[dhms])", text)
        return sum(float(number) * _SECONDS[unit] for number, unit in parts)
    raise BadValueError(_duration_hint(text))


def _duration_hint(text: str) -> str:
    parts = re.fullmatch(r"([0-9]{1,9})\s*([A-Za-z]*)", text)
    if not parts:
        return ""
    number, word = parts[1], parts[2].lower()
    unit = _NEAR_UNITS.get(word, word or "s")
    return f'write "{number}{unit}"' if unit in _SECONDS else ""


def parse_size(text: str) -> int:
    """Bytes. Raises BadValueError."""
    if text == "0":
        return 0
    if re.fullmatch(SIZE_PATTERN, text):
        number = text.rstrip("BKMGTik")
        return int(number) * _BYTES[text[len(number) :]]
    raise BadValueError(_size_hint(text))


def _size_hint(text: str) -> str:
    parts = re.fullmatch(r"([0-9]{1,12})\s*([kKmMgGtT]?)(i?[bB]?)", text)
    if not parts:
        return ""
    number, letter, rest = parts.groups()
    if not letter:
        return f'write "{number}B"' if rest in ("b", "B") else f'write a unit: "{number}B"'
    binary, decimal = (
        letter.upper() + "iB",
        (letter.lower() if letter in "kK" else letter.upper()) + "B",
    )
    if rest.startswith("i"):
        return f'write "{number}{binary}"'
    return f'write "{number}{binary}" (powers of 1024) or "{number}{decimal}" (of 1000)'


def parse_count(text: str) -> int:
    """A whole number. Raises BadValueError."""
    if re.fullmatch(COUNT_PATTERN, text):
        return int(text)
    raise BadValueError(_count_hint(text))


def _count_hint(text: str) -> str:
    digits = text.replace("_", "").replace(",", "")
    if re.fullmatch(r"[0-9]{1,9}", digits):
        return f"write {int(digits)}"
    return ""


def parse_percentage(text: str) -> float:
    """A share, 0.05 for ``5%``. Raises BadValueError."""
    if re.fullmatch(PERCENTAGE_PATTERN, text):
        return float(text[:-1]) / 100
    raise BadValueError(f'write "{text}%"' if re.fullmatch(r"[0-9]{1,3}", text) else "")


def format_percentage(share: float) -> str:
    """As the table would say it."""
    return f"{share * 100:g}%"


def parse_boolean(text: str) -> bool:
    """Raises BadValueError."""
    if re.fullmatch(BOOLEAN_PATTERN, text):
        return text == "true"
    word = text.lower()
    if word in _NEAR_TRUE:
        raise BadValueError("write true")
    raise BadValueError("write false" if word in _NEAR_FALSE else "")


def format_boolean(value: bool) -> str:
    """As the table would say it."""
    return "true" if value else "false"


def format_duration(seconds: float) -> str:
    """As the table would say it, in the largest unit that is exact: 75.0 is ``75s``."""
    if seconds == 0:
        return "0"
    for unit, size in _SECONDS.items():
        if seconds >= size and (seconds / size).is_integer():
            return f"{int(seconds / size)}{unit}"
    return f"{seconds:g}s"


def format_size(size: int) -> str:
    """As the table would say it, in the largest unit that is exact: 8192 is ``8KiB``."""
    if size == 0:
        return "0"
    unit = next(unit for unit in ("TiB", "GiB", "MiB", "KiB", "B") if size % _BYTES[unit] == 0)
    return f"{size // _BYTES[unit]}{unit}"
