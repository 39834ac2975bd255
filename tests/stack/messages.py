"""Raw requests and what each means, for all who read them: clients, nginx and the gateway.

Owns the corpus of the differential tests and a generator of more. Knows no server.
Source: RFC 9112 (message syntax), RFC 9110 (fields, methods), RFC 3986 (targets).
"""

import random
from dataclasses import dataclass, field
from enum import Enum


class Kind(Enum):
    """What may become of a message."""

    ALIKE = "nginx and the gateway take it, and it means the same to both"
    MENDED = "nginx may take it and pass on what it means; the gateway may refuse it"
    REFUSED = "ambiguous: nobody takes it"


@dataclass(frozen=True, slots=True)
class Message:
    """A request. The rest is what an app must be told of it, where it is taken at all."""

    name: str
    raw: bytes
    kind: Kind = Kind.ALIKE
    method: str = "GET"
    path_info: str = "/x"
    query: str = ""
    host: str = "here"
    content: bytes = b""
    fields: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


# What a smuggler hopes to have answered; it stands where one reader sees content, another a request
SMUGGLED = b"GET /echo/smuggled HTTP/1.1\r\nHost: smuggled.example\r\n\r\n"
# Asked behind each message: answered if and only if the connection is still in step
END = b"GET /echo/end HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"


def get(target: bytes = b"/echo/x", *lines: bytes, host: bytes = b"Host: here") -> bytes:
    return b"\r\n".join([b"GET %b HTTP/1.1" % target, *([host] if host else []), *lines, b"", b""])


def post(*lines: bytes, body: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    head = [b"POST /echo/x " + version, b"Host: here", *lines, b"", b""]
    return b"\r\n".join(head) + body


def alike(name: str, raw: bytes, **meaning: object) -> Message:
    return Message(name, raw, Kind.ALIKE, **meaning)  # type: ignore[arg-type]


def mended(name: str, raw: bytes, **meaning: object) -> Message:
    return Message(name, raw, Kind.MENDED, **meaning)  # type: ignore[arg-type]


def refused(name: str, raw: bytes) -> Message:
    return Message(name, raw, Kind.REFUSED)


TARGETS = [
    alike("plain", get()),
    alike("query", get(b"/echo/x?a=%00&b=//..%2f&c=+?"), query="a=%00&b=//..%2f&c=+?"),
    alike("encoded slash", get(b"/echo/a%2Fb"), path_info="/a/b"),
    alike("dot segments", get(b"/nothing/../echo/%2e%2e/echo/./x")),
    alike("double slashes", get(b"/echo//a///b"), path_info="//a///b"),
    alike("marks", get(b'/echo/<a>"b"{}|^`'), path_info='/<a>"b"{}|^`'),
    alike("dots in a segment", get(b"/echo/...a/..b"), path_info="/...a/..b"),
    alike("absolute form", get(b"http://other.example/echo/x?q"), host="other.example", query="q"),
    alike("absolute form, port", get(b"HTTP://other.example:81/echo/x"), host="other.example:81"),
    mended("bytes beyond ASCII", get(b"/echo/\xc3\xa9"), path_info="/\xc3\xa9"),
    mended("above the root", get(b"/../echo/x")),
    refused("fragment", get(b"/echo/x#part")),
    refused("space in the target", get(b"/echo/x y")),
    refused("tab in the target", get(b"/echo/x\ty")),
    refused("NUL", get(b"/echo/x\0")),
    refused("encoded NUL", get(b"/echo/x%00")),
    refused("control character", get(b"/echo/x\x01")),
    refused("broken percent-encoding", get(b"/echo/%zz")),
    refused("user in an absolute form", get(b"http://user@other.example/echo/x")),
    refused("neither path nor URL", get(b"echo/x")),
]

LINES = [
    alike("empty line before", b"\r\n" + get()),
    mended("two empty lines before", b"\r\n\r\n" + get()),
    mended("HTTP/1.2", get().replace(b"HTTP/1.1", b"HTTP/1.2")),
    mended("two spaces", get().replace(b" HTTP", b"  HTTP")),
    mended("bare LF", get(b"/echo/x", b"X-A: 1").replace(b"\r\n", b"\n"), fields={"X_A": "1"}),
    mended("CR CR LF", get(b"/echo/x", b"X-A: 1\r"), fields={"X_A": "1"}),
    mended("no colon", get(b"/echo/x", b"X-A"), fields={"X_A": ""}),
    mended("name of no token", get(b"/echo/x", b"X(A: 1")),
    mended("name beyond ASCII", get(b"/echo/x", b"X-\xe9: 1")),
    refused("bare CR", get(b"/echo/x", b"X-A: 1\rX-B: 2")),
    refused("folded line", get(b"/echo/x", b"X-A: 1\r\n 2")),
    refused("space before the first field", get(b"/echo/x", host=b" Host: here")),
    refused("space before the colon", get(b"/echo/x", b"X-A : 1")),
    refused("empty name", get(b"/echo/x", b": 1")),
    refused("NUL in a value", get(b"/echo/x", b"X-A: 1\0")),
    refused("NUL in a name", get(b"/echo/x", b"X\0A: 1")),
    refused("control character in a value", get(b"/echo/x", b"X-A: 1\x01")),
    refused("lower-case version", get().replace(b"HTTP/1.1", b"http/1.1")),
    refused("HTTP/2.0", get().replace(b"HTTP/1.1", b"HTTP/2.0")),
    refused("tabs between the parts", get().replace(b" /echo/x ", b"\t/echo/x\t")),
    refused("unknown method", get().replace(b"GET", b"FETCH")),
    refused("lower-case method", get().replace(b"GET", b"get")),
    refused("CONNECT", get(b"here:80").replace(b"GET", b"CONNECT")),
    refused("preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    refused("line of 8,200 bytes", get(b"/echo/" + b"x" * 8200)),
    refused("150 fields", get(b"/echo/x", *(b"X-%d: 1" % number for number in range(150)))),
    refused("48 KB of fields", get(b"/echo/x", *[b"X-A: " + b"x" * 4000] * 12)),
]

A_IS_1 = {"X_A": "1"}

FIELDS = [
    alike("repeated", get(b"/echo/x", b"X-A: 1", b"x-a: 2"), fields={"X_A": "1, 2"}),
    alike("cookies", get(b"/echo/x", b"Cookie: a", b"Cookie: b"), fields={"COOKIE": "a; b"}),
    alike("white space", get(b"/echo/x", b"X-A: \t 1\t2 \t"), fields={"X_A": "1\t2"}),
    alike("empty value", get(b"/echo/x", b"X-A:"), fields={"X_A": ""}),
    alike("bytes beyond ASCII in a value", get(b"/echo/x", b"X-A: \xe9"), fields={"X_A": "\xe9"}),
    alike("underscore", get(b"/echo/x", b"X_A: 1", b"X-Forwarded_For: 1.1.1.1")),
    alike("Proxy", get(b"/echo/x", b"Proxy: http://evil.example")),
    alike("upgrade", get(b"/echo/x", b"Connection: Upgrade", b"Upgrade: websocket")),
    alike("named by Connection", get(b"/echo/x", b"Connection: X-A", b"X-A: 1"), fields=A_IS_1),
    alike("90 fields", get(b"/echo/x", *[b"X-A: 1"] * 90), fields={"X_A": ", ".join("1" * 90)}),
    alike("Host with a port", get(host=b"Host: other.example:8443"), host="other.example:8443"),
    alike("Host of IPv6", get(host=b"Host: [::1]:80"), host="[::1]:80"),
    alike("Host in capitals", get(host=b"HOST: HERE")),
    refused("no Host", get(host=b"")),
    refused("empty Host", get(host=b"Host:")),
    refused("two Hosts", get(b"/echo/x", b"Host: there")),
    refused("Host of two words", get(host=b"Host: he re")),
    refused("Host with a slash", get(host=b"Host: here/x")),
    refused("Host with a user", get(host=b"Host: user@here")),
    refused("Host with a comma", get(host=b"Host: here,there")),
    refused("Host with a bad port", get(host=b"Host: here:80x")),
]

LENGTH = b"Content-Length: %d" % len(SMUGGLED)
CHUNKED = b"Transfer-Encoding: chunked"
ONE, LAST = b"1\r\na\r\n", b"0\r\n\r\n"
AS_CHUNK = b"%x\r\n%b\r\n" % (len(SMUGGLED), SMUGGLED)


def taken(
    name: str, *lines: bytes, body: bytes, content: bytes, kind: Kind = Kind.ALIKE
) -> Message:
    return Message(name, post(*lines, body=body), kind, method="POST", content=content)


def chunked(name: str, body: bytes, content: bytes, kind: Kind = Kind.ALIKE) -> Message:
    return taken(name, CHUNKED, body=body, content=content, kind=kind)


CONTENT = [
    taken("length", LENGTH, body=SMUGGLED, content=SMUGGLED),
    taken("length 0", b"Content-Length: 0", body=b"", content=b""),
    taken("no length", body=b"", content=b""),
    taken("leading zero", b"Content-Length: 01", body=b"a", content=b"a"),
    taken("expectation", b"Content-Length: 1", b"Expect: 100-continue", body=b"a", content=b"a"),
    taken("length with _", b"Content_Length: 5", LENGTH, body=SMUGGLED, content=SMUGGLED),
    taken("coding with _", b"Transfer_Encoding: chunked", LENGTH, body=SMUGGLED, content=SMUGGLED),
    alike("length of a GET", get(b"/echo/x", LENGTH) + SMUGGLED, content=SMUGGLED),
    chunked("chunks", b"3;a=b\r\nabc\r\n00A\r\n0123456789\r\n" + LAST, b"abc0123456789"),
    chunked("a request as a chunk", AS_CHUNK + LAST, SMUGGLED),
    chunked("trailers", ONE + b"0\r\nHost: evil\r\nContent-Length: 9\r\n\r\n", b"a"),
    chunked("zeros as the last size", ONE + b"0000\r\n\r\n", b"a"),
    taken("coding in capitals", CHUNKED.upper(), body=LAST, content=b""),
    chunked("space after a size", b"1 \r\na\r\n" + LAST, b"a", Kind.MENDED),
    chunked("trailer of no field", ONE + b"0\r\nno field\r\n\r\n", b"a", Kind.MENDED),
    taken("tab behind the coding", CHUNKED + b" \t", body=LAST, content=b"", kind=Kind.MENDED),
    Message(
        "unknown expectation",
        post(b"Content-Length: 1", b"Expect: more", body=b"a"),
        Kind.MENDED,
        method="POST",
        content=b"a",
    ),
    Message(
        "tab before the coding",
        post(b"Transfer-Encoding:\tchunked", body=LAST),
        Kind.MENDED,
        method="POST",
    ),
]

BAD_CODINGS = (
    *(b"identity", b"xchunked", b"gzip, chunked", b"chunked, identity", b"\x0bchunked"),
    *(b"chunked\0", b'"chunked"', b"chunked;q=1", b"", b"chunked chunked", b"chunk\xe9d"),
)
BAD_LENGTHS = (
    *(b"+5", b"-1", b"0x5", b"5_0", b"5.0", b"5 5", b"5, 5", b"5,6", b"5\x0b", b"5\0", b"\xb25"),
    *(b"", b"five", b"9" * 20),
)
BAD_CHUNKS = (
    *(b"5\nabcde\r\n", b"5\r\nabcde\n", b"5\rabcde\r\n", b"5\r\r\nabcde\r\n"),
    *(b"5;a\nabcde\r\n", b'5;a="\r\n"\r\nabcde\r\n'),
    *(b"0x5\r\nabcde\r\n", b"-5\r\nabcde\r\n", b"+5\r\nabcde\r\n", b" 5\r\nabcde\r\n"),
    *(b"F" * 17 + b"\r\nabcde\r\n", b"1" + b"0" * 15 + b"5\r\nabcde\r\n"),
    *(b"5\r\nabcdeX", b"5\r\nabcdefg\r\n", b"\r\nabcde\r\n", b"x\r\nabcde\r\n"),
)

# Behind each, the request that one of two readings would answer
FRAMING = [
    refused(name, post(*lines, body=LAST + SMUGGLED))
    for name, lines in {
        "length and coding": [b"Content-Length: 5", CHUNKED],
        "coding and length": [CHUNKED, LENGTH],
        "length and folded coding": [LENGTH, b"Transfer-Encoding:\r\n chunked"],
        "length and spaced coding": [LENGTH, b"Transfer-Encoding : chunked"],
        "spaced length": [b"Content-Length : 5"],
        "length twice": [b"Content-Length: 5", b"Content-Length: 5"],
        "two lengths": [b"Content-Length: 5", LENGTH],
        "coding twice": [CHUNKED, CHUNKED],
        "two codings": [CHUNKED, b"Transfer-Encoding: identity"],
        **{f"coding {value!r}": [b"Transfer-Encoding: " + value] for value in BAD_CODINGS},
        **{
            f"length and coding {value!r}": [LENGTH, b"Transfer-Encoding: " + value]
            for value in BAD_CODINGS
        },
        **{f"length {value!r}": [b"Content-Length: " + value] for value in BAD_LENGTHS},
    }.items()
]
FRAMING += [
    refused(f"chunks {body!r}", post(CHUNKED, body=body + LAST + SMUGGLED)) for body in BAD_CHUNKS
]
FRAMING += [
    refused("bare LFs at the end", post(CHUNKED, body=ONE + b"0\n\n" + SMUGGLED)),
    refused("chunked in HTTP/1.0", post(CHUNKED, body=LAST + SMUGGLED, version=b"HTTP/1.0")),
]

MESSAGES = [*TARGETS, *LINES, *FIELDS, *CONTENT, *FRAMING]


def random_messages(count: int, seed: int) -> list[bytes]:
    """Requests whose framing is made of right and wrong parts, always the same ones of a seed."""
    chance = random.Random(seed)
    ends = [b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n", b" \r\n"]
    framings = [
        *(LENGTH, LENGTH, b"Content-Length: 5", b"Content-Length: 0", b"Content-Length:\t5"),
        *(b"Content-Length : 5", b"Content_Length: 5", b"Content-Length: 5\0"),
        *(CHUNKED, CHUNKED, b"Transfer-Encoding : chunked", b"Transfer-Encoding:\x0bchunked"),
        *(b"Transfer-Encoding: identity", b"transfer-encoding: Chunked", b" " + CHUNKED),
        *(b"Connection: close", b"Connection: Content-Length", b"Expect: 100-continue"),
    ]
    bodies = [
        *(SMUGGLED, LAST + SMUGGLED, AS_CHUNK + LAST, b"abcde", b"", LAST, ONE + LAST),
        *(b"5\nabcde\n0\n\n", b"5;\r\nabcde\r\n0\r\nA: b\r\n\r\n"),
    ]

    def make() -> bytes:
        method = chance.choice([b"GET", b"POST", b"POST", b"PUT"])
        lines = [b"%b /echo/random HTTP/1.1" % method, b"Host: here"]
        lines += chance.choices(framings, k=chance.randrange(4))
        lines[1:] = chance.sample(lines[1:], len(lines) - 1)
        head = b"".join(line + chance.choice(ends) for line in lines)
        return head + chance.choice(ends) + b"".join(chance.choices(bodies, k=chance.randint(1, 2)))

    return [make() for _ in range(count)]
