"""The mistakes of a first app: the log, the record and the page of dev mode say what to write."""

from functools import partial
from typing import Any

import pytest
from harness import GET
from running import Running, wait_until

from gateway.limits import Admission
from gateway.tracebacks import describe_fault

START = "def app(environ, start_response):\n start_response('200 OK', [])\n "
HEADERS = "def app(environ, start_response):\n start_response('200 OK', %s)\n return [b'x']"
STATUS = "def app(environ, start_response):\n start_response(%s, [])\n return [b'x']"
LENGTH = "count bytes, as len(body) does, or leave Content-Length out: the server sets it"

MISTAKES = {
    START + "return ['text']": "the app gave str instead of bytes: return [text.encode()]",
    START + "yield 'text'": "the app gave str instead of bytes: return [text.encode()]",
    START + "return [bytearray(b'x')]": (
        "the app gave bytearray instead of bytes: return [bytes(data)]"
    ),
    START + "return [5]": "the app gave int instead of bytes: return a list of bytes",
    START + "return 'text'": ("the app returned str, not a list of bytes: return [text.encode()]"),
    START + "return b'text'": "the app returned bytes, not a list of bytes: return [data]",
    START + "return {'a': 1}": "the app returned a dict: return [json.dumps(data).encode()]",
    START + "return None": (
        'the app returned None: end it with "return [body]", where body is bytes'
    ),
    START + "return 5": ("the app returned int, which is not iterable: return a list of bytes"),
    "async def f(): ...\n" + START + "return f()": (
        'the app returned a coroutine: run it with asyncio.run(), or write "def"'
    ),
    "async def f():\n yield b''\n" + START + "return f()": (
        'the app returned an async generator: write "def", not "async def"'
    ),
    "def app(environ, start_response):\n return [b'x']": (
        "the app gave a body or ended without calling start_response: call "
        'start_response("200 OK", [("Content-Type", "text/plain")]) first'
    ),
    "def app(environ, start_response):\n yield b'x'": (
        "the app gave a body or ended without calling start_response: call "
        'start_response("200 OK", [("Content-Type", "text/plain")]) first'
    ),
    START + "start_response('200 OK', [])": (
        "start_response was called a second time without exc_info: call it once, or pass "
        "sys.exc_info() to replace the response"
    ),
    STATUS % "200": 'the status is a number, 200: write "200 OK"',
    STATUS % "404": 'the status is a number, 404: write "404 Not Found"',
    STATUS % "299": 'the status is a number, 299: write "299 " and a reason',
    STATUS % "'OK'": (
        "status is not a code, a space and a reason: 'OK'; write for example \"200 OK\""
    ),
    STATUS % "b'200 OK'": "the status is bytes, b'200 OK': write it as str",
    STATUS % "'100 Continue'": "100 is not a final status: write for example 200",
    HEADERS % "{'Content-Type': 'text/plain'}": (
        "headers are a dict, not a list of (str, str): write list(headers.items())"
    ),
    HEADERS % "[['A', 'b']]": (
        "headers are not a list of (str, str): [['A', 'b']]; "
        'write [("Content-Type", "text/plain")]'
    ),
    HEADERS % "None": (
        'headers are not a list of (str, str): None; write [("Content-Type", "text/plain")]'
    ),
    HEADERS % "['Content-Type: text/plain']": (
        "headers are not a list of (str, str): ['Content-Type: text/plain']; "
        'write [("Content-Type", "text/plain")]'
    ),
    HEADERS % "[('Content-Length', 1)]": (
        'Content-Length has the number 1 as its value: write "1"'
    ),
    HEADERS % "[('A', b'b')]": "A has bytes as its value: write value.decode()",
    HEADERS % "[('A', None)]": "A has NoneType as its value: write it as str",
    HEADERS % "[('A', 'b\\n')]": (
        "the value of A is not a latin-1 string without line breaks and NUL: 'b\\n'; remove them"
    ),
    HEADERS % "[('A', '\\u20ac')]": (
        "the value of A is not a latin-1 string without line breaks and NUL: '\u20ac'; "
        "percent-encode it with urllib.parse.quote()"
    ),
    HEADERS % "[(b'A', 'b')]": "header name is bytes, b'A': write it as str",
    HEADERS % "[('Content Type', 'b')]": (
        "header name is not a token: 'Content Type'; use letters, digits and hyphens"
    ),
    HEADERS % "[('Connection', 'close')]": (
        "Connection must be sent by the server, not by an app (PEP 3333): remove it"
    ),
    HEADERS % "[('Content-Length', '2')]": (
        f"the body has 1 bytes, its Content-Length says 2: {LENGTH}"
    ),
}


def make(text: str) -> Any:
    module: dict[str, Any] = {}
    exec(text, module)
    return module["app"]


@pytest.mark.parametrize("text", MISTAKES)
def test_the_log_and_the_page_say_what_to_write(
    serve: Any, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    gateway = serve(make(text))
    gateway.service.show_fault = describe_fault  # as dev mode does
    answer = gateway.connect().ask(GET)
    assert answer.status == 500
    [record] = caplog.records
    assert record.getMessage().startswith(f"/: AppError: {MISTAKES[text]} (request ")
    shown = answer.content.decode().replace("&quot;", '"').replace("&#x27;", "'")
    assert MISTAKES[text] in shown
    assert gateway.records[0]["error"] == f"AppError: {MISTAKES[text]}"[:150]


@pytest.mark.parametrize("text", [START + f"return {it}" for it in ("None", "'text'", "5", "[5]")])
def test_a_mount_with_a_limit_says_the_same(
    serve: Any, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    from gateway.mounts.admission import Limited, Semaphore

    semaphore = Semaphore("mount /")
    semaphore.adjust(Admission(max_concurrency=1))
    gateway = serve(Limited(make(text), semaphore))
    for _ in range(3):  # and its place is given back
        assert gateway.connect().ask(GET).status == 500
    assert {MISTAKES[text] in record.getMessage() for record in caplog.records} == {True}


def test_an_iterable_s_own_error_is_its_own(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Failing:
        def __iter__(self) -> Any:
            raise TypeError("of its own")

    gateway = serve(lambda environ, start_response: Failing())
    assert gateway.connect().ask(GET).status == 500
    assert "TypeError: of its own" in caplog.records[0].getMessage()


def test_native_threads_say_the_same(start: Any) -> None:
    texts = [text for text in MISTAKES if text.startswith(START) or "yield" in text]
    table = "".join(
        f'  /a{number}: {{app: "m{number}:app", pool: threads}}\n' for number in range(len(texts))
    )
    modules = {f"m{number}": text for number, text in enumerate(texts)}
    gateway: Running = start(
        f"  /: good:app\n{table}pools:\n  threads: {{concurrency: threads}}\n", **modules
    )
    for number, text in enumerate(texts):
        answer = wait_until(partial(fetch, gateway, f"/a{number}"), "the pool serves")
        assert b" 500 " in answer[:20]
        said = f"/a{number}: AppError: {MISTAKES[text]}".replace('"', '\\"')
        wait_until(partial(is_logged, gateway, said), said)


def fetch(gateway: Running, target: str) -> bytes:
    """The answer of the pool, once it serves."""
    answer = gateway.ask(target)
    return b"" if b" 503 " in answer[:20] else answer


def is_logged(gateway: Running, said: str) -> bool:
    return said in gateway.log_text
