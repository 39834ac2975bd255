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
    refused("48 KB of fields", get(b"/echo/x", *(b"X-%d: %b" % (n, b"x" * 4000) for n in range(12)))),
]

FIELDS = [
    alike("repeated", get(b"/echo/x", b"X-A: 1", b"x-a: 2"), fields={"X_A": "1, 2"}),
    alike("cookies", get(b"/echo/x", b"Cookie: a=1", b"Cookie: b=2"), fields={"COOKIE": "a=1; b=2"}),
    alike("white space", get(b"/echo/x", b"X-A: \t a\tb \t", b"X-B:"), fields={"X_A": "a\tb", "X_B": ""}),
    alike("bytes beyond ASCII in a value", get(b"/echo/x", b"X-A: \xe9"), fields={"X_A": "\xe9"}),
    alike("underscore", get(b"/echo/x", b"X_A: 1", b"X-Forwarded_For: 1.1.1.1")),
    alike("Proxy", get(b"/echo/x", b"Proxy: http://evil.example")),
    alike("upgrade", get(b"/echo/x", b"Connection: Upgrade", b"Upgrade: websocket")),
    alike("named by Connection", get(b"/echo/x", b"Connection: X-A", b"X-A: 1"), fields={"X_A": "1"}),
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
]  # fmt: skip

LAST = b"0\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked"
LENGTH = b"Content-Length: %d" % len(SMUGGLED)


def taken(name: str, *lines: bytes, body: bytes, content: bytes, kind: Kind = Kind.ALIKE) -> Message:
    return Message(name, post(*lines, body=body), kind, method="POST", content=content)


def chunked(name: str, body: bytes, content: bytes, kind: Kind = Kind.ALIKE) -> Message:
    return taken(name, CHUNKED, body=body, content=content, kind=kind)


CONTENT = [
    taken("length", LENGTH, body=SMUGGLED, content=SMUGGLED),
    taken("length 0", b"Content-Length: 0", body=b"", content=b""),
    taken("no length", body=b"", content=b""),
    taken("leading zero", b"Content-Length: 05", body=b"abcde", content=b"abcde"),
    taken("expectation", b"Content-Length: 3", b"Expect: 100-continue", body=b"abc", content=b"abc"),
    taken("underscored length", b"Content_Length: 5", LENGTH, body=SMUGGLED, content=SMUGGLED),
    taken("underscored coding", b"Transfer_Encoding: chunked", LENGTH, body=SMUGGLED, content=SMUGGLED),
    alike("length of a GET", get(b"/echo/x", LENGTH) + SMUGGLED, content=SMUGGLED),
    chunked("chunks", b"3;a=b\r\nabc\r\n00A\r\n0123456789\r\n" + LAST, b"abc0123456789"),
    chunked("a request as a chunk", b"%x\r\n%b\r\n" % (len(SMUGGLED), SMUGGLED) + LAST, SMUGGLED),
    chunked("trailers", b"1\r\na\r\n0\r\nHost: evil\r\nContent-Length: 9\r\n\r\n", b"a"),
    chunked("zeros as the last size", b"1\r\na\r\n0000\r\n\r\n", b"a"),
    taken("coding in capitals", b"Transfer-Encoding: CHUNKED", body=LAST, content=b""),
    chunked("space after a size", b"1 \r\na\r\n" + LAST, b"a", Kind.MENDED),
    chunked("trailer of no field", b"1\r\na\r\n0\r\nno field\r\n\r\n", b"a", Kind.MENDED),
    taken("unknown expectation", b"Content-Length: 1", b"Expect: more", body=b"a", content=b"a", kind=Kind.MENDED),
    taken("tab before the coding", b"Transfer-Encoding:\tchunked", body=LAST, content=b"", kind=Kind.MENDED),
    taken("tab behind the coding", CHUNKED + b" \t", body=LAST, content=b"", kind=Kind.MENDED),
]  # fmt: skip

FRAMING = [
    refused("length and coding", post(b"Content-Length: 5", CHUNKED, body=LAST + SMUGGLED)),
    refused("coding and length", post(CHUNKED, LENGTH, body=LAST + SMUGGLED)),
    refused("length and folded coding", post(LENGTH, b"Transfer-Encoding:\r\n chunked", body=SMUGGLED)),
    refused("length and spaced coding", post(LENGTH, b"Transfer-Encoding : chunked", body=SMUGGLED)),
    refused("spaced length", post(b"Content-Length : 5", body=SMUGGLED)),
    refused("two codings", post(CHUNKED, CHUNKED, body=LAST + SMUGGLED)),
    refused("two other codings", post(CHUNKED, b"Transfer-Encoding: identity", body=LAST + SMUGGLED)),
    refused("chunked in HTTP/1.0", post(CHUNKED, body=LAST + SMUGGLED, version=b"HTTP/1.0")),
    *(
        refused(f"coding {value!r}", post(b"Transfer-Encoding: " + value, body=LAST + SMUGGLED))
        for value in [
            b"identity", b"xchunked", b"gzip, chunked", b"chunked, identity", b"\x0bchunked",
            b"chunked\0", b'"chunked"', b"chunked;q=1", b"", b"chunked chunked", b"chunk\xe9d",
        ]
    ),
    *(
        refused(f"coding {value!r} and length", post(b"Transfer-Encoding: " + value, LENGTH, body=SMUGGLED))
        for value in [b"identity", b"", b"\x0bchunked", b"chunked\0"]
    ),
    *(
        refused(f"length {value!r}", post(b"Content-Length: " + value, body=SMUGGLED))
        for value in [
            b"+5", b"0x5", b"5 5", b"-1", b"", b"5, 5", b"5,6", b"5_0", b"9" * 20, b"5\x0b",
            b"5.0", b"\xb25", b"5\0", b"five",
        ]
    ),
    refused("length twice", post(b"Content-Length: 5", b"Content-Length: 5", body=b"abcde" + SMUGGLED)),
    refused("two lengths", post(b"Content-Length: 0", LENGTH, body=SMUGGLED)),
    *(
        refused(f"chunks {body!r}", post(CHUNKED, body=body + LAST + SMUGGLED))
        for body in [
            b"5\nabcde\r\n", b"5\r\nabcde\n", b"5;a\nabcde\r\n", b"5\rabcde\r\n", b"0x5\r\nabcde\r\n",
            b"-5\r\nabcde\r\n", b"+5\r\nabcde\r\n", b"F" * 17 + b"\r\nabcde\r\n",
            b"1" + b"0" * 15 + b"5\r\nabcde\r\n", b"5\r\nabcdeX", b"5\r\nabcdefg\r\n",
            b" 5\r\nabcde\r\n", b"5\r\r\nabcde\r\n", b"\r\nabcde\r\n", b"x\r\nabcde\r\n",
            b'5;a="\r\n"\r\nabcde\r\n',
        ]
    ),
    refused("last chunk with bare LFs", post(CHUNKED, body=b"1\r\na\r\n0\n\n" + SMUGGLED)),
]  # fmt: skip

MESSAGES = [*TARGETS, *LINES, *FIELDS, *CONTENT, *FRAMING]


def random_messages(count: int, seed: int) -> list[bytes]:
    """Requests whose framing is made of right and wrong parts, always the same ones of a seed."""
    chance = random.Random(seed)
    ends = [b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n", b" \r\n"]
    framings = [
        LENGTH, LENGTH, CHUNKED, CHUNKED, b"Content-Length: 5", b"Content-Length: 0", b"Transfer-Encoding: identity",
        b"Transfer-Encoding : chunked", b"Transfer-Encoding:\x0bchunked", b"transfer-encoding: Chunked",
        b" Transfer-Encoding: chunked", b"Content-Length:\t5", b"Content-Length : 5", b"Content_Length: 5",
        b"Content-Length: 5\0", b"Connection: close", b"Connection: Content-Length", b"Expect: 100-continue",
    ]  # fmt: skip
    bodies = [
        SMUGGLED, b"abcde", b"", LAST, b"5\r\nabcde\r\n" + LAST, LAST + SMUGGLED,
        b"%x\r\n%b\r\n" % (len(SMUGGLED), SMUGGLED) + LAST, b"5\nabcde\n0\n\n", b"5;\r\nabcde\r\n0\r\nA: b\r\n\r\n",
    ]  # fmt: skip

    def make() -> bytes:
        method = chance.choice([b"GET", b"POST", b"POST", b"PUT"])
        lines = [b"%b /echo/random HTTP/1.1" % method, b"Host: here"]
        lines += chance.choices(framings, k=chance.randrange(4))
        lines[1:] = chance.sample(lines[1:], len(lines) - 1)
        head = b"".join(line + chance.choice(ends) for line in lines)
        return head + chance.choice(ends) + b"".join(chance.choices(bodies, k=chance.randint(1, 2)))

    return [make() for _ in range(count)]
