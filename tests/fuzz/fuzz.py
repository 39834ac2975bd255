"""Coverage-guided fuzzing: ``python tests/fuzz/fuzz.py TARGET [FOLDER] [libFuzzer options]``.

TARGET is ``head``, ``answer`` or ``content``. Begins with the raw requests of ``tests/requests``
and keeps what it finds in FOLDER, which is ``.cache/fuzz/TARGET``. An input that fails is written
beside it as ``crash-…``: mend the fault, and add the request to ``tests/requests``, or the answer
to ``tests/unit/test_answer.py``.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "requests")]

# what inputs are made of; two of them in a row are rarely found by flipping bits
WORDS = [
    *("GET /", "POST /", "OPTIONS *", " HTTP/1.1\r\n", " HTTP/1.0\r\n", "\r\n\r\n", "\r\n"),
    *("http://", "https://[::1]:80/", "/../", "/./", "%2e%2e", "%2F", "%00", "/a/b", "?", "#"),
    *("Host: b.example\r\n", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"),
    *("Connection: close\r\n", "Connection: keep-alive\r\n", "Upgrade: h2c\r\n", ", chunked"),
    *("Expect: 100-continue\r\n", "Content-Type: ", "Cookie: a=b\r\n", "Proxy: ", "_", "b.example"),
    *("X-Forwarded-For: 10.0.0.1, ", "X-Forwarded-Host: ", "X-Forwarded-Proto: https\r\n"),
    *("X-Forwarded-Prefix: /a", "Forwarded: for=10.0.0.1"),
    *("HTTP/1.1 200 OK\r\n", "HTTP/1.0 204", "HTTP/1.1 101 ", "Set-Cookie: ", " : ", "Close: "),
    *("0\r\n\r\n", "5\r\nhello\r\n", ";a=b", "fffffffffffffff"),
]


def seeds(target: str) -> list[bytes]:
    """The raw requests as inputs of ``target``."""
    from raw_requests import load_invalid, load_valid

    raws = [case.raw for case in (*load_valid().values(), *load_invalid().values())]
    if target == "head":
        return [flag + raw for raw in raws for flag in (b"\0", b"\1")]
    if target == "answer":
        status_lines = (b"\0HTTP/1.1 200 OK", b"\0HTTP/1.0 103", b"\1HTTP/1.1 304 Not Modified")
        heads = [raw.partition(b"\r\n") for raw in raws]
        return [line + end + rest for line in status_lines for _, end, rest in heads]
    chunked = [raw.partition(b"\r\n\r\n")[2] for raw in raws if b"chunked\r\n" in raw]
    return [sizes + raw for raw in chunked for sizes in (b"\xff\xff\xff\xff", b"\0\0\0\0")]


def main() -> None:
    """Fuzz until the options say to stop, or for ever."""
    import atheris

    with atheris.instrument_imports(include=["gateway", "reference", "targets"]):
        from targets import TARGETS

    target, options = sys.argv[1], sys.argv[2:]
    folder = Path(
        next((o for o in options if not o.startswith("-")), ROOT / ".cache/fuzz" / target)
    )
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(target)):
        (folder / f"seed-{number:03}").write_bytes(seed)
    dictionary = folder.parent / f"{target}.dict"
    escaped = ("".join(f"\\x{byte:02x}" for byte in word.encode()) for word in WORDS)
    dictionary.write_text("".join(f'"{word}"\n' for word in escaped))
    atheris.Setup(
        [
            sys.argv[0],
            f"-dict={dictionary}",
            f"-artifact_prefix={folder.parent}/",
            "-max_len=2000",
            "-timeout=5",
            *options,
            str(folder),
        ],
        TARGETS[target],
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
