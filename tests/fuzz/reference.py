"""A second reading of RFC 9112, RFC 9110 and RFC 3986: small, slow, and without regular
expressions or anything else that the gateway reads requests with.

It answers what ``gateway.protocol``, ``gateway.http`` and ``gateway.dispatch`` must answer,
strictness included. Where the gateway is stricter than the grammar, a comment says "ours".
"""

from dataclasses import dataclass
from ipaddress import IPv6Address

DIGITS = b"0123456789"
HEXADECIMAL = b"0123456789abcdefABCDEF"
LETTERS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
TOKEN = LETTERS + DIGITS + b"!#$%&'*+-.^_`|~"
HOST = LETTERS + DIGITS + b"-_~"
VISIBLE = bytes(range(0x21, 0x7F))
VALUE = b"\t " + VISIBLE + bytes(range(0x80, 0x100))
# RFC 9110 §7.6.1 and §11.7, RFC 2616 §13.5.1; §18.4 keeps "close" free of another meaning
HOP_BY_HOP = (
    b"close connection keep-alive proxy-authenticate proxy-authentication-info proxy-authorization "
    b"proxy-connection te trailer transfer-encoding upgrade"
).split()
FORWARDED = (b"x-real-ip", b"x-request-id")

# ours: of the methods that have an RFC, and no CONNECT
METHODS = (
    b"GET HEAD POST PUT DELETE OPTIONS TRACE PATCH QUERY ACL BIND CHECKOUT COPY LINK LOCK M-SEARCH "
    b"MERGE MKACTIVITY MKCALENDAR MKCOL MOVE NOTIFY PROPFIND PROPPATCH PURGE REBIND REPORT SEARCH "
    b"SUBSCRIBE UNBIND UNLINK UNLOCK UNSUBSCRIBE"
).split()


class RefusedError(Exception):
    """Not a request, or one that is not taken."""


class UnfinishedError(Exception):
    """The bytes end before the message does."""


def check(condition: object) -> None:
    if not condition:
        raise RefusedError


@dataclass
class Head:
    line: bytes
    method: str
    target: str
    path: str
    query: str
    is_http11: bool
    host: str
    fields: dict[str, str]
    content_length: int
    persistent: bool
    expects_continue: bool
    mount: str = ""  # which only front workers state

    @property
    def takes_simple_head(self) -> bool:
        return self.is_http11 and self.method != "HEAD"


def read_head(raw: bytes, *, trusts_peer: bool, max_line: int, max_fields: int) -> Head:
    """The head in ``raw``, which ends with the first empty line. Raises RefusedError."""
    request_line, *field_lines = raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
    check(len(request_line) <= max_line and len(field_lines) <= max_fields)
    check(not any(b"\r" in line or b"\n" in line for line in (request_line, *field_lines)))

    parts = request_line.split(b" ")
    check(len(parts) == 3)
    method, target, version = parts
    check(method in METHODS)
    check(version in (b"HTTP/1.1", b"HTTP/1.0"))
    check(target and consists_of(target, VISIBLE) and b"#" not in target)

    fields = [read_field(line) for line in field_lines]
    hosts = values(fields, b"host")
    check(len(hosts) == 1 or (not hosts and version == b"HTTP/1.0"))
    host = read_host(hosts[0]) if hosts else b""
    path, query, authority = read_target(method, target)
    if authority is not None:
        host = read_host(authority)

    named = name_fields(fields, trusts_peer)
    if authority is not None:
        named["HTTP_HOST"] = authority.decode()
    check(len(values(fields, b"content-type")) <= 1)
    options = read_options(fields)
    expectations = values(fields, b"expect")
    check([e.lower() for e in expectations] in ([], [b"100-continue"]))
    content_length = read_framing(field_lines, fields, version)
    return Head(
        line=request_line,
        method=method.decode(),
        target=target.decode(),
        path=path.decode(),
        query=query.decode(),
        is_http11=version == b"HTTP/1.1",
        host=host.decode(),
        fields=named,
        content_length=content_length,
        persistent=is_persistent(options, version),
        expects_continue=bool(expectations) and version == b"HTTP/1.1" and content_length != 0,
    )


@dataclass
class Answer:
    status: str
    code: int
    fields: list[tuple[str, str]]
    length: int
    persistent: bool
    upgrade: str


def read_answer(raw: bytes, method: str) -> Answer:
    """The head in ``raw``, which ends with the first empty line. Raises RefusedError."""
    status_line, *field_lines = raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
    version, space, status = status_line.partition(b" ")
    code, reason = status[:3], status[3:]
    check(version in (b"HTTP/1.1", b"HTTP/1.0") and space)
    check(len(code) == 3 and consists_of(code, DIGITS) and code[:1] != b"0")
    check(consists_of(reason, VALUE) and reason[:1] in (b"", b" "))

    raw_names = [line.partition(b":")[0].rstrip(b" \t") for line in field_lines]
    fields = [
        # RFC 9112 §5.1: blanks before the colon are removed
        read_field(raw_name + line[len(line.partition(b":")[0]) :])
        for raw_name, line in zip(raw_names, field_lines, strict=True)
    ]
    options = read_options(fields)
    length = read_framing(field_lines, fields, version)
    has_length = values(fields, b"content-length") or length == -1
    is_interim = code < b"200"
    has_content = not is_interim and method != "HEAD" and code not in (b"204", b"304")
    has_end = has_length or code in (b"204", b"304")
    upgrade = b", ".join(values(fields, b"upgrade")) if is_interim else b""
    return Answer(
        status=status.decode("latin-1"),
        code=int(code),
        fields=[
            (raw_name.decode(), value.decode("latin-1"))
            for raw_name, (name, value) in zip(raw_names, fields, strict=True)
            if name not in HOP_BY_HOP and name not in options
        ],
        length=(length if has_length else -2) if has_content else 0,
        # ours: not after a HEAD, to which some servers send content
        persistent=bool(is_persistent(options, version) and has_end)
        and not is_interim
        and method != "HEAD",
        upgrade=upgrade.decode("latin-1"),
    )


def read_options(fields: list[tuple[bytes, bytes]]) -> list[bytes]:
    """RFC 9110 §7.6.1: the options of the connection, in lower case."""
    return [o.strip(b" \t").lower() for v in values(fields, b"connection") for o in v.split(b",")]


def is_persistent(options: list[bytes], version: bytes) -> bool:
    """RFC 9112 §9.3."""
    return b"close" not in options and (version == b"HTTP/1.1" or b"keep-alive" in options)


def consists_of(data: bytes, characters: bytes) -> bool:
    return all(byte in characters for byte in data)


def read_field(line: bytes) -> tuple[bytes, bytes]:
    """RFC 9112 §5: name ":" OWS value OWS. The name in lower case."""
    name, colon, value = line.partition(b":")
    check(colon and name and consists_of(name, TOKEN))
    value = value.strip(b" \t")
    check(consists_of(value, VALUE))
    return name.lower(), value


def values(fields: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in fields if key == name]


def read_target(method: bytes, target: bytes) -> tuple[bytes, bytes, bytes | None]:
    """RFC 9112 §3.2: path, query, and the authority of the absolute form."""
    if target == b"*" and method == b"OPTIONS":
        return b"*", b"", None
    if target.startswith(b"/"):
        path, _, query = target.partition(b"?")
        return path, query, None
    scheme, separator, rest = target.partition(b"://")
    check(separator and scheme.lower() in (b"http", b"https"))
    end = min(i for i in (rest.find(b"/"), rest.find(b"?"), len(rest)) if i >= 0)
    path, _, query = rest[end:].partition(b"?")
    return path or b"/", query, rest[:end]


def read_host(authority: bytes) -> bytes:
    """Ours: names of the characters DNS has, IPv4, [IPv6]; at most 255 and a port up to 65535."""
    check(len(authority) <= 261)
    if authority.startswith(b"["):
        host, bracket, port = authority[1:].partition(b"]")
        check(bracket and b"%" not in host and (not port or port.startswith(b":")))
        port = port[1:]
        try:
            IPv6Address(host.decode("latin-1"))
        except ValueError:
            raise RefusedError from None
        host = b"[" + host + b"]"
    else:
        host, _, port = authority.partition(b":")
        host = host.removesuffix(b".")
        check(all(label and consists_of(label, HOST) for label in host.split(b".")))
    check(len(port) <= 5 and consists_of(port, DIGITS) and int(port or b"0") <= 65535)
    return host.lower()


def name_fields(fields: list[tuple[bytes, bytes]], trusts_peer: bool) -> dict[str, str]:
    """RFC 3875 §4.1.18, RFC 9110 §5.3."""
    named: dict[str, str] = {}
    for name, value in fields:
        is_forwarded = name in FORWARDED or name.startswith(b"x-forwarded-")
        is_dropped = b"_" in name or name in (b"forwarded", b"proxy")
        if is_dropped or (is_forwarded and not trusts_peer):
            continue
        key = name.decode().upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        joint = "; " if name == b"cookie" else ", "
        text = value.decode("latin-1")
        # RFC 9110 §5.5: no value ends with a blank, however it came about
        named[key] = (named[key] + joint + text).rstrip(" ") if key in named else text
    return named


def read_framing(
    field_lines: list[bytes], fields: list[tuple[bytes, bytes]], version: bytes
) -> int:
    """RFC 9112 §6.3: how many bytes of content follow; -1 for chunks."""
    lengths, codings = values(fields, b"content-length"), values(fields, b"transfer-encoding")
    check(len(lengths) + len(codings) <= 1)
    if lengths:
        check(lengths[0] and consists_of(lengths[0], DIGITS) and len(lengths[0]) <= 18)
        return int(lengths[0])
    if codings:
        check(version == b"HTTP/1.1" and codings[0].lower() == b"chunked")
        return -1
    return 0


def read_chunks(
    raw: bytes, max_bytes: int, max_line: int, max_trailers: int, *, allows_padding: bool = False
) -> tuple[bytes, bytes]:
    """RFC 9112 §7.1: the content, and what is behind it; blanks behind a size where it
    ``allows_padding``. Raises RefusedError, UnfinishedError."""
    content = b""
    while True:
        line, raw = read_line(raw, max_line)
        digits, semicolon, extensions = line.partition(b";")
        if semicolon or allows_padding:
            digits = digits.rstrip(b" \t")
        if semicolon:
            check(consists_of(extensions, VALUE))
        check(1 <= len(digits) <= 16 and consists_of(digits, HEXADECIMAL))
        size = int(digits, 16)
        check(len(content) + size <= max_bytes)
        if not size:
            break
        data, raw = raw[:size], raw[size:]
        content += data
        check(b"\r\n".startswith(raw[:2]))
        if len(raw) < 2:
            raise UnfinishedError
        raw = raw[2:]
    while True:
        line, raw = read_line(raw, max_trailers)
        if not line:
            return content, raw
        read_trailer(line)
        max_trailers -= len(line)


def read_line(raw: bytes, limit: int) -> tuple[bytes, bytes]:
    end = raw[: limit + 2].find(b"\n")
    if end < 0:
        check(len(raw) < limit + 2)
        raise UnfinishedError
    check(raw[:end].endswith(b"\r"))
    return raw[: end - 1], raw[end + 1 :]


def read_trailer(line: bytes) -> None:
    name, value = read_field(line)
    check(name and consists_of(value, VALUE))


def resolve_path(path: str) -> list[str]:
    """The segments of an encoded path, decoded, without dot segments (RFC 3986 §5.2.4). A segment
    may have a slash, which was an encoded one. Raises RefusedError."""
    segments: list[str] = []
    raw_segments = path[1:].split("/")
    for index, raw_segment in enumerate(raw_segments):
        segment = decode(raw_segment)
        is_last = index == len(raw_segments) - 1
        if segment in (".", ".."):
            if segment == ".." and segments:
                segments.pop()
            if is_last:
                segments.append("")
        else:
            segments.append(segment)
    return segments


def decode(text: str) -> str:
    """RFC 3986 §2.1."""
    decoded, at = "", 0
    while at < len(text):
        if text[at] == "%":
            digits = text[at + 1 : at + 3].encode("latin-1")
            check(len(digits) == 2 and consists_of(digits, HEXADECIMAL) and digits != b"00")
            decoded += chr(int(digits, 16))
            at += 3
        else:
            decoded += text[at]
            at += 1
    return decoded
