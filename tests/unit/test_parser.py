"""HeadParser beside the raw requests: each byte in each place, and one parser for many clients."""

import re
import string

import pytest

from gateway.errors import RequestError
from gateway.limits import Limits
from gateway.protocol.fields import DROPPED, MAX_LINES, MAX_NAMES, FieldNames, cgi_name
from gateway.protocol.memory import LEARNT_PER_SECOND, Memory
from gateway.protocol.names import CACHE_ENTRIES, parse_host
from gateway.protocol.request import HeadParser, RequestHead

HOST = b"Host: example.com\r\n"
PLAIN = b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n"

ALPHANUMERIC = set((string.ascii_letters + string.digits).encode())
TOKEN = ALPHANUMERIC | set(b"!#$%&'*+-.^_`|~")
PRINTABLE = set(range(0x21, 0x7F))


def parse(raw: bytes, trusts_peer: bool = False) -> RequestHead:
    return HeadParser(Limits()).parse(raw, trusts_peer)


def is_accepted(raw: bytes) -> bool:
    try:
        parse(raw)
    except RequestError:
        return False
    return True


# --- each byte in each place ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "accepted"),
    [
        # a fragment is refused; a second blank makes four parts of the line
        pytest.param(
            b"GET /a", b"b HTTP/1.1\r\n" + HOST + b"\r\n", PRINTABLE - set(b"#"), id="target"
        ),
        pytest.param(b"GET", b" / HTTP/1.1\r\n" + HOST + b"\r\n", set(), id="after the method"),
        pytest.param(b"", b"GET / HTTP/1.1\r\n" + HOST + b"\r\n", set(), id="before the method"),
        pytest.param(b"GET / HTTP/1", b"1\r\n" + HOST + b"\r\n", set(b"."), id="version"),
        pytest.param(b"GET / HTTP/1.1", b"\r\n" + HOST + b"\r\n", set(), id="after the version"),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + HOST + b"X", b"Y: z\r\n\r\n", TOKEN | set(b":"), id="name"
        ),
        pytest.param(b"GET / HTTP/1.1\r\n", b"Y: z\r\n" + HOST + b"\r\n", TOKEN, id="first name"),
        pytest.param(b"GET / HTTP/1.1\r\n" + HOST, b"Y: z\r\n\r\n", TOKEN, id="name's first"),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + HOST + b"X", b": z\r\n\r\n", TOKEN | set(b":"), id="name's last"
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + HOST + b"X: y",
            b"z\r\n\r\n",
            PRINTABLE | set(b"\t ") | set(range(0x80, 0x100)),
            id="value",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\n" + HOST + b"X:",
            b"\r\n\r\n",
            PRINTABLE | set(b"\t ") | set(range(0x80, 0x100)),
            id="value alone",
        ),
        pytest.param(b"GET / HTTP/1.1\r\n" + HOST, b"\r\n\r\n", set(), id="line"),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: a",
            b"b\r\n\r\n",
            ALPHANUMERIC | set(b"-._~"),
            id="host",
        ),
        pytest.param(
            b"GET http://a",
            b"b/ HTTP/1.1\r\n" + HOST + b"\r\n",
            ALPHANUMERIC | set(b"-._~/?"),  # the last two end it
            id="host of the target",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5",
            b"\r\n\r\n",
            set(string.digits.encode()) | set(b"\t "),
            id="length",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked",
            b"\r\n\r\n",
            set(b"\t "),
            id="coding",
        ),
    ],
)
def test_no_other_byte_is_accepted(before: bytes, after: bytes, accepted: set[int]) -> None:
    found = {byte for byte in range(256) if is_accepted(before + bytes([byte]) + after)}
    assert found == accepted


@pytest.mark.parametrize("at", range(len(PLAIN) - 1))
@pytest.mark.parametrize("junk", [b"\r", b"\n", b"\0", b"\r\n ", b"\nA:", b"\rA:"])
def test_line_ends_and_nul_are_refused_everywhere(at: int, junk: bytes) -> None:
    assert is_accepted(PLAIN)
    assert not is_accepted(PLAIN[:at] + junk + PLAIN[at:])


@pytest.mark.parametrize("at", [m.start() for m in re.finditer(rb"\r\n", PLAIN)])
def test_half_line_ends_are_refused_everywhere(at: int) -> None:
    assert not is_accepted(PLAIN[:at] + PLAIN[at + 1 :])
    assert not is_accepted(PLAIN[: at + 1] + PLAIN[at + 2 :])


# --- one parser for many clients ------------------------------------------------------------------

HEADS = [
    PLAIN,
    b"GET /a HTTP/1.0\r\n\r\n",
    b"GET /a HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
    b"GET /a HTTP/1.1\r\n" + HOST + b"Proxy-Connection: close\r\n\r\n",
    b"GET /a HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length: 30\r\n\r\n",
    b"POST /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /a HTTP/1.1\r\n" + HOST + b"Vary: a\r\nVary: b\r\n\r\n",
    # refused, at each step of the parser
    b"BREW /a HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\n",
    b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nX : y\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: a@b\r\nContent-Length: 5\r\n\r\n",
    b"POST /a HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
    b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nExpect: more\r\n\r\n",
    b"POST /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\n",
    b"POST /a#b HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\n",
    b"POST /a HTTP/1.1\r\n" + HOST + HOST + b"Content-Length: 5\r\n\r\n",
    b"POST /a HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n",
]


def outcome(parser: HeadParser, raw: bytes) -> object:
    try:
        head = parser.parse(raw, False)
    except RequestError as error:
        return type(error), str(error)
    return {name: getattr(head, name) for name in RequestHead.__annotations__}


@pytest.mark.parametrize("first", HEADS)
def test_a_request_means_the_same_behind_any_other(first: bytes) -> None:
    for second in HEADS:
        parser = HeadParser(Limits())
        outcome(parser, first)
        for _ in range(2):
            assert outcome(parser, second) == outcome(HeadParser(Limits()), second)


def test_a_line_and_fields_mean_the_same_when_both_were_met_apart() -> None:
    parser = HeadParser(Limits())
    parts = [raw.partition(b"\r\n") for raw in (*HEADS, *HEADS)]
    for line, end, fields in parts:
        outcome(parser, line + end + fields)
    for line, end, _ in parts:
        for _, _, fields in parts:
            raw = line + end + fields
            assert outcome(parser, raw) == outcome(HeadParser(Limits()), raw)


def test_a_head_keeps_its_fields_when_others_are_parsed() -> None:
    parser = HeadParser(Limits())
    first = parser.parse(b"GET / HTTP/1.1\r\nHost: a\r\nVary: b\r\n\r\n", False)
    parser.parse(b"GET / HTTP/1.1\r\nHost: c\r\nAge: 1\r\n\r\n", False)
    assert first.fields == {"HTTP_HOST": "a", "HTTP_VARY": "b"}


@pytest.mark.parametrize("distinct", [MAX_NAMES - 1, MAX_NAMES, 3 * MAX_NAMES])
def test_what_clients_choose_does_not_pile_up(distinct: int) -> None:
    names = FieldNames(trusts_peer=False)
    for number in range(distinct):
        assert names[f"Name-{number}"] == f"HTTP_NAME_{number}"
        assert parse_host(f"{number}.example") == f"{number}.example"
    assert len(names) <= MAX_NAMES
    assert parse_host.cache_info().currsize <= CACHE_ENTRIES
    assert names["Accept"] == "HTTP_ACCEPT"
    assert "Accept" in names


def test_lines_do_not_pile_up() -> None:
    parser = HeadParser(Limits())
    lines, _ = parser.field_lines
    for number in range(2 * MAX_LINES):
        for value in (b"%d" % number, b"a" * (number % 4000)):
            raw = PLAIN[:-2] + b"X: " + value + b"\r\n\r\n"
            assert parser.parse(raw, False).fields["HTTP_X"] == value.decode()
    assert len(lines) <= MAX_LINES
    assert max(map(len, lines)) <= 256


def test_long_names_are_not_kept() -> None:
    names = FieldNames(trusts_peer=False)
    assert names["a" * 65] == "HTTP_" + "A" * 65
    assert not names


def test_only_so_much_is_learnt_in_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("gateway.protocol.memory.monotonic", lambda: now)
    memory = Memory[int](10**6, 100)
    for number in range(2 * LEARNT_PER_SECOND):
        memory.keep(str(number), number)
    assert len(memory) == LEARNT_PER_SECOND
    now = 101.0
    memory.keep("late", 1)
    assert memory["late"] == 1


def test_a_memory_that_is_off_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Memory, "is_on", False)
    parser = HeadParser(Limits())
    for _ in range(2):
        assert parser.parse(PLAIN, False).fields == {"HTTP_HOST": "example.com"}
    assert not any(parser.field_lines)


# --- names and hosts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw_name", "name"),
    [
        ("User-Agent", "HTTP_USER_AGENT"),
        ("user-agent", "HTTP_USER_AGENT"),
        ("Content-Type", "CONTENT_TYPE"),
        ("CONTENT-length", "CONTENT_LENGTH"),
        ("X-Content-Type", "HTTP_X_CONTENT_TYPE"),
        ("Content_Type", DROPPED),
        ("Proxy", DROPPED),
        ("Forwarded", DROPPED),
        ("Proxy-Authorization", "HTTP_PROXY_AUTHORIZATION"),
        ("X-Proxy", "HTTP_X_PROXY"),
    ],
)
def test_cgi_names(raw_name: str, name: str) -> None:
    assert cgi_name(raw_name) == name


@pytest.mark.parametrize(
    "raw_name",
    [
        "X-Forwarded-For",
        "X-FORWARDED-HOST",
        "x-forwarded-port",
        "X-Forwarded-Prefix",
        "X-Forwarded-Proto",
        "X-Forwarded-Ssl",
        "X-Forwarded-Server",
        "X-Real-IP",
        "X-Request-ID",
    ],
)
def test_forwarding_fields_are_for_trusted_peers(raw_name: str) -> None:
    head = PLAIN[:-2] + raw_name.encode() + b": 1\r\n\r\n"
    assert parse(head, trusts_peer=False).fields == {"HTTP_HOST": "example.com"}
    assert parse(head, trusts_peer=True).fields == {
        "HTTP_HOST": "example.com",
        cgi_name(raw_name): "1",
    }


@pytest.mark.parametrize("raw_name", ["X-Forwarded", "Forwarded-For", "X-Real-IPs"])
def test_other_fields_are_for_everyone(raw_name: str) -> None:
    head = parse(PLAIN[:-2] + raw_name.encode() + b": 1\r\n\r\n", trusts_peer=False)
    assert head.fields[cgi_name(raw_name)] == "1"


@pytest.mark.parametrize(
    ("raw_host", "host"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("example.com:8080", "example.com"),
        ("example.com.:", "example.com"),
        ("[2001:DB8::1]:80", "[2001:db8::1]"),
        ("192.0.2.1", "192.0.2.1"),
    ],
)
def test_host_is_lower_case_without_port_and_final_dot(raw_host: str, host: str) -> None:
    assert parse_host(raw_host) == host
    head = parse(b"GET / HTTP/1.1\r\nHost: " + raw_host.encode() + b"\r\n\r\n")
    assert head.host == host
    assert head.fields["HTTP_HOST"] == raw_host


def test_the_host_of_an_absolute_target_is_the_host() -> None:
    head = parse(b"GET http://WWW.example.com:8080/ HTTP/1.1\r\n" + HOST + b"\r\n")
    assert head.host == "www.example.com"
    assert head.fields["HTTP_HOST"] == "WWW.example.com:8080"


def test_http_10_without_host_has_none() -> None:
    assert parse(b"GET / HTTP/1.0\r\n\r\n").host == ""


@pytest.mark.parametrize(
    ("line", "fields", "expects"),
    [
        (b"POST / HTTP/1.1", b"Content-Length: 5\r\nExpect: 100-continue\r\n", True),
        (b"POST / HTTP/1.1", b"Transfer-Encoding: chunked\r\nExpect: 100-Continue\r\n", True),
        (b"POST / HTTP/1.1", b"Content-Length: 5\r\n", False),
        (b"POST / HTTP/1.1", b"Content-Length: 0\r\nExpect: 100-continue\r\n", False),
        (b"GET / HTTP/1.1", b"Expect: 100-continue\r\n", False),
        (b"POST / HTTP/1.0", b"Content-Length: 5\r\nExpect: 100-continue\r\n", False),
    ],
)
def test_100_is_expected_where_content_follows(line: bytes, fields: bytes, expects: bool) -> None:
    assert parse(line + b"\r\n" + HOST + fields + b"\r\n").expects_continue is expects


def test_fields_that_are_known_are_read_as_when_they_were_new() -> None:
    parser = HeadParser(Limits())
    rest = b" HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-For: 192.0.2.1\r\nAccept: b\r\n\r\n"
    for target in (b"/new", b"/known", b"/known", b"/other?q"):
        head = parser.parse(b"GET " + target + rest, False)
        assert head.target == target.decode()
        assert head.host == "a.example"
        assert head.persistent
        assert head.fields == {"HTTP_HOST": "a.example", "HTTP_ACCEPT": "b"}
    # a trusted proxy's word is not lost for what a stranger said before
    trusted = parser.parse(b"GET /known" + rest, True)
    assert trusted.fields["HTTP_X_FORWARDED_FOR"] == "192.0.2.1"
    assert "HTTP_X_FORWARDED_FOR" not in parser.parse(b"GET /known" + rest, False).fields


def test_known_fields_keep_what_the_version_decides() -> None:
    parser = HeadParser(Limits())
    for _ in range(2):
        for version, persistent in ((b"1.1", True), (b"1.0", False)):
            head = parser.parse(b"GET / HTTP/" + version + b"\r\nHost: a.example\r\n\r\n", False)
            assert head.persistent is persistent


@pytest.mark.parametrize("field", [b"Cookie: a=b", b"Authorization: Basic eDp5"])
def test_fields_that_prove_who_someone_is_are_not_kept(field: bytes) -> None:
    parser = HeadParser(Limits())
    parser.parse(PLAIN[:-2] + field + b"\r\nAccept: a\r\n\r\n", False)
    assert set(parser.field_lines[False]) == {"Host: example.com", "Accept: a"}


def test_the_host_of_an_absolute_target_is_no_other_requests() -> None:
    parser = HeadParser(Limits())
    fields = b" HTTP/1.1\r\nHost: a.example\r\n\r\n"
    for target in (b"/known", b"http://b.example/", b"/known", b"http://b.example/", b"/new"):
        head = parser.parse(b"GET " + target + fields, False)
        host = "a.example" if target.startswith(b"/") else "b.example"
        assert (head.host, head.fields["HTTP_HOST"]) == (host, host)
