"""What clients ask of a file: preconditions, ranges, codings, and the table of media types."""

import mimetypes
from datetime import tzinfo

import pytest

from gateway.mounts import conditional
from gateway.mounts.conditional import (
    accepted_codings,
    failed_precondition,
    parse_http_date,
    parse_range,
)
from gateway.mounts.media_types import _build_table, media_type_of

ETAG = '"17-2a"'
NOW = 784_111_777
AT = "Sun, 06 Nov 1994 08:49:37 GMT"
BEFORE = "Sun, 06 Nov 1994 08:49:36 GMT"
AFTER = "Sun, 06 Nov 1994 08:49:38 GMT"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", NOW),
        ("Sunday, 06-Nov-94 08:49:37 GMT", NOW),
        ("Sun Nov  6 08:49:37 1994", NOW),
        ("Sun Nov 16 08:49:37 1994", NOW + 10 * 86_400),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
    ],
)
def test_all_three_date_formats_are_read(value: str, seconds: int) -> None:
    assert parse_http_date(value) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "",
        "yesterday",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 +0000",
        "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun, 31 Feb 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 25:49:37 GMT",
        "Sun, 06 nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "784111777",
    ],
)
def test_what_is_no_http_date_is_none(value: str) -> None:
    assert parse_http_date(value) is None


def test_two_digit_years_lie_at_most_fifty_years_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    class In2026(conditional.datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "In2026":
            return cls(2026, 1, 1, tzinfo=tz)

    monkeypatch.setattr(conditional, "datetime", In2026)
    assert parse_http_date("Monday, 01-Jan-76 00:00:00 GMT") == 3_345_062_400  # 2076
    assert parse_http_date("Monday, 01-Jan-77 00:00:00 GMT") == 220_924_800  # 1977


# RFC 9110 §13.2.2, its steps in order.
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"IF_MATCH": ETAG}, None),
        ({"IF_MATCH": "*"}, None),
        ({"IF_MATCH": f'"other", {ETAG}'}, None),
        ({"IF_MATCH": '"other"'}, 412),
        ({"IF_MATCH": f"W/{ETAG}"}, 412),
        ({"IF_MATCH": ""}, 412),
        ({"IF_MATCH": "17-2a"}, 412),
        ({"IF_MATCH": '"other"', "IF_NONE_MATCH": ETAG}, 412),
        ({"IF_MATCH": ETAG, "IF_UNMODIFIED_SINCE": BEFORE}, None),
        ({"IF_MATCH": ETAG, "IF_NONE_MATCH": ETAG}, 304),
        ({"IF_UNMODIFIED_SINCE": AT}, None),
        ({"IF_UNMODIFIED_SINCE": AFTER}, None),
        ({"IF_UNMODIFIED_SINCE": BEFORE}, 412),
        ({"IF_UNMODIFIED_SINCE": "soon"}, None),
        ({"IF_UNMODIFIED_SINCE": BEFORE, "IF_NONE_MATCH": ETAG}, 412),
        ({"IF_NONE_MATCH": ETAG}, 304),
        ({"IF_NONE_MATCH": f"W/{ETAG}"}, 304),
        ({"IF_NONE_MATCH": f'"other",W/"more" , {ETAG}'}, 304),
        ({"IF_NONE_MATCH": f'"with,comma",{ETAG}'}, 304),
        ({"IF_NONE_MATCH": " * "}, 304),
        ({"IF_NONE_MATCH": '"other"'}, None),
        ({"IF_NONE_MATCH": '"17-2a-gzip"'}, None),
        ({"IF_NONE_MATCH": ""}, None),
        ({"IF_NONE_MATCH": '"other"', "IF_MODIFIED_SINCE": AT}, None),
        ({"IF_NONE_MATCH": ETAG, "IF_MODIFIED_SINCE": BEFORE}, 304),
        ({"IF_MODIFIED_SINCE": AT}, 304),
        ({"IF_MODIFIED_SINCE": AFTER}, 304),
        ({"IF_MODIFIED_SINCE": BEFORE}, None),
        ({"IF_MODIFIED_SINCE": "soon"}, None),
    ],
)
def test_preconditions(fields: dict[str, str], expected: int | None) -> None:
    environ = {f"HTTP_{name}": value for name, value in fields.items()}
    assert failed_precondition(environ, ETAG, NOW) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-0", range(1)),
        ("bytes=0-99", range(100)),
        ("bytes=0-", range(100)),
        ("bytes=10-19", range(10, 20)),
        ("bytes=99-", range(99, 100)),
        ("bytes=90-1000", range(90, 100)),
        ("bytes=-1", range(99, 100)),
        ("bytes=-100", range(100)),
        ("bytes=-1000", range(100)),
        ("Bytes= 5-6 ", range(5, 7)),
        ("bytes=007-08", range(7, 9)),
        ("bytes=0-999999999999999999", range(100)),
        # An empty range is unsatisfiable: 416.
        ("bytes=100-", range(100, 100)),
        ("bytes=100-200", range(100, 100)),
        ("bytes=999999999999999999-", range(100, 100)),
        ("bytes=-0", range(100, 100)),
        # No grammar, another unit, several: the whole.
        ("", None),
        ("bytes", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=5-4", None),
        ("bytes=a-b", None),
        ("bytes=+1-2", None),
        ("bytes=1_0-2_0", None),
        ("bytes=\xb2-\xb3", None),
        ("bytes 0-5", None),
        ("bytes =0-5", None),
        ("lines=0-5", None),
        ("bytes=0-0,5-6", None),
        ("bytes=0-0,-1", None),
        ("bytes=" + "0-," * 5000, None),
        ("bytes=" + "9" * 5000 + "-", None),
    ],
)
def test_ranges_of_a_hundred_bytes(value: str, expected: range | None) -> None:
    found = parse_range({"HTTP_RANGE": value}, ETAG, AT, 100)
    assert found == expected
    assert (found is None) is (expected is None)


def test_no_range_is_the_whole() -> None:
    assert parse_range({}, ETAG, AT, 100) is None


@pytest.mark.parametrize("value", ["bytes=0-", "bytes=0-0", "bytes=-5", "bytes=5-"])
def test_any_range_of_an_empty_file_is_the_whole(value: str) -> None:
    assert parse_range({"HTTP_RANGE": value}, ETAG, AT, 0) is None


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (ETAG, True),
        (AT, True),
        (f"W/{ETAG}", False),
        ('"other"', False),
        (BEFORE, False),
        (AFTER, False),
        ("*", False),
        ("", False),
    ],
)
def test_if_range_must_name_this_very_file(condition: str, holds: bool) -> None:
    environ = {"HTTP_RANGE": "bytes=0-4", "HTTP_IF_RANGE": condition}
    assert parse_range(environ, ETAG, AT, 100) == (range(5) if holds else None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", ()),
        ("identity", ()),
        ("gzip", ("gzip",)),
        ("GZip", ("gzip",)),
        ("x-gzip", ("gzip",)),
        ("br", ("br",)),
        ("gzip, deflate, br, zstd", ("br", "gzip")),
        ("gzip;q=1.0, br;q=0.5", ("gzip", "br")),
        ("gzip;q=0", ()),
        ("gzip;q=0.000, br", ("br",)),
        ("*", ("br", "gzip")),
        ("*;q=0", ()),
        ("*;q=0, gzip", ("gzip",)),
        ("br;q=0, *", ("gzip",)),
        ("gzip ; q=0.2 , br\t;\tq=0.3", ("br", "gzip")),
        ("identity, gzip;q=0.5", ()),
        ("identity;q=0.5, gzip;q=0.5", ("gzip",)),
        ("identity;q=0", ()),
        # A member that is no grammar says nothing.
        ("gzip;q=2", ()),
        ("gzip;q=-1", ()),
        ("gzip;q=0.1234, br", ("br",)),
        ("gzip;level=9", ()),
        ("gzipped, brotli", ()),
        (", ,gzip,", ("gzip",)),
    ],
)
def test_codings_by_weight_then_size(value: str, expected: tuple[str, ...]) -> None:
    assert accepted_codings(value) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("page.html", "text/html; charset=utf-8"),
        ("PAGE.HTML", "text/html; charset=utf-8"),
        ("style.css", "text/css; charset=utf-8"),
        ("app.js", "text/javascript; charset=utf-8"),
        ("app.min.mjs", "text/javascript; charset=utf-8"),
        ("data.json", "application/json"),
        ("logo.svg", "image/svg+xml"),
        ("photo.jpg", "image/jpeg"),
        ("photo.webp", "image/webp"),
        ("font.woff2", "font/woff2"),
        ("code.wasm", "application/wasm"),
        ("site.webmanifest", "application/manifest+json"),
        ("paper.pdf", "application/pdf"),
        ("film.mp4", "video/mp4"),
        ("backup.tar.gz", "application/gzip"),
        ("README", "application/octet-stream"),
        ("html", "application/octet-stream"),
        ("thing.unheard-of", "application/octet-stream"),
        ("", "application/octet-stream"),
    ],
)
def test_media_types(name: str, expected: str) -> None:
    assert media_type_of(name) == expected


def test_the_hosts_media_types_have_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _build_table()
    mimetypes.init()
    monkeypatch.setattr(mimetypes, "_db", mimetypes.MimeTypes())
    mimetypes.add_type("text/x-host", ".css")
    assert mimetypes.guess_type("a.css")[0] == "text/x-host"
    assert _build_table() == before
