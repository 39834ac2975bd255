"""Messages for violations of PEP 3333 by apps, each with advice on what to write instead."""

from __future__ import annotations

import inspect
from http import HTTPStatus
from typing import Any

NO_START = (
    "the app gave a body or ended without calling start_response: call "
    'start_response("200 OK", [("Content-Type", "text/plain")]) first'
)
SECOND_START = (
    "start_response was called a second time without exc_info: call it once, or pass "
    "sys.exc_info() to replace the response"
)
WHOLE_LENGTH = "count bytes, as len(body) does, or leave Content-Length out: the server sets it"


def describe_piece(piece: object) -> str:
    """For a part of the body that is not bytes."""
    name = type(piece).__name__
    text = f"the app gave {name} instead of bytes"
    if isinstance(piece, str):
        return f"{text}: return [text.encode()]"
    if isinstance(piece, (bytearray, memoryview)):
        return f"{text}: return [bytes(data)]"
    return f"{text}: return a list of bytes"


def describe_result(result: Any, piece: object) -> str:
    """For a result of an app whose first part is ``piece``."""
    result = getattr(result, "held", result)
    if isinstance(result, str):
        return "the app returned str, not a list of bytes: return [text.encode()]"
    if isinstance(result, (bytes, bytearray, memoryview)):
        return f"the app returned {type(result).__name__}, not a list of bytes: return [data]"
    if isinstance(result, dict):
        return "the app returned a dict: return [json.dumps(data).encode()]"
    return describe_piece(piece)


def describe_no_result(result: Any) -> str:
    """For a result of an app that is not iterable."""
    result = getattr(result, "held", result)
    if result is None:
        return 'the app returned None: end it with "return [body]", where body is bytes'
    if inspect.iscoroutine(result):
        result.close()
        return 'the app returned a coroutine: run it with asyncio.run(), or write "def"'
    if hasattr(type(result), "__aiter__"):
        return 'the app returned an async generator: write "def", not "async def"'
    return (
        f"the app returned {type(result).__name__}, which is not iterable: return a list of bytes"
    )


def describe_status(status: object) -> str:
    """For an invalid status."""
    if isinstance(status, int):
        return f"the status is a number, {int(status)}: write {_quote_status(int(status))}"
    if isinstance(status, (bytes, bytearray)):
        return f"the status is {type(status).__name__}, {status!r:.80}: write it as str"
    text = f"status is not a code, a space and a reason: {status!r:.80}"
    return f'{text}; write for example "200 OK"'


def _quote_status(code: int) -> str:
    try:
        return f'"{code} {HTTPStatus(code).phrase}"'
    except ValueError:
        return f'"{code} " and a reason'


def describe_headers(headers: object) -> str:
    """For headers that are not pairs."""
    if isinstance(headers, dict):
        return "headers are a dict, not a list of (str, str): write list(headers.items())"
    text = f"headers are not a list of (str, str): {headers!r:.200}"
    return f'{text}; write [("Content-Type", "text/plain")]'


def describe_name(name: object) -> str:
    """For an invalid field name (RFC 9110 §5.1)."""
    if not isinstance(name, str):
        return f"header name is {type(name).__name__}, {name!r:.80}: write it as str"
    return f"header name is not a token: {name!r:.80}; use letters, digits and hyphens"


def describe_value(name: str, value: object) -> str:
    """For an invalid field value."""
    if isinstance(value, int):
        return f'{name} has the number {value!r:.80} as its value: write "{value!s:.80}"'
    if isinstance(value, (bytes, bytearray)):
        return f"{name} has bytes as its value: write value.decode()"
    if not isinstance(value, str):
        return f"{name} has {type(value).__name__} as its value: write it as str"
    text = f"the value of {name} is not a latin-1 string without line breaks and NUL: {value!r:.80}"
    if any(character in value for character in "\r\n\0"):
        return f"{text}; remove them"
    return f"{text}; percent-encode it with urllib.parse.quote()"
