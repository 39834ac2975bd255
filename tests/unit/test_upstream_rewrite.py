"""Where an answer leads, behind a prefix that its server knows nothing of."""

from collections.abc import Callable
from typing import Any

import pytest
from harness import Gateway
from scripted import keep_answering, scripted

from gateway.upstream.rewrite import Rewriter

ENVIRON = {
    "SCRIPT_NAME": "/reports",
    "HTTP_HOST": "a.example:8080",
    "wsgi.url_scheme": "https",
}
OWN = ("reports:3000", "inner.example")
HERE = "https://a.example:8080"


@pytest.mark.parametrize(
    ("url", "below", "kept"),
    [
        ("/", "/reports/", "/"),
        ("/a?b=/c", "/reports/a?b=/c", "/a?b=/c"),
        ("/reports", "/reports", "/reports"),
        ("/reports?a", "/reports?a", "/reports?a"),
        ("/reports/a", "/reports/a", "/reports/a"),
        ("/reportsbook", "/reports/reportsbook", "/reportsbook"),
        ("http://reports:3000/a", f"{HERE}/reports/a", f"{HERE}/a"),
        ("http://REPORTS:3000", f"{HERE}/reports/", f"{HERE}/"),
        ("https://inner.example/a#b", f"{HERE}/reports/a#b", f"{HERE}/a#b"),
        ("http://inner.example:80/a", f"{HERE}/reports/a", f"{HERE}/a"),
        ("http://inner.example?a", f"{HERE}/reports/?a", f"{HERE}/?a"),
        ("http://a.example:8080/a", "http://a.example:8080/reports/a", "http://a.example:8080/a"),
        # what is not the server's own stays
        ("a/b", "a/b", "a/b"),
        ("../a", "../a", "../a"),
        ("?a", "?a", "?a"),
        ("", "", ""),
        ("//other.example/a", "//other.example/a", "//other.example/a"),
        ("https://other.example/a", "https://other.example/a", "https://other.example/a"),
        ("http://reports:30001/a", "http://reports:30001/a", "http://reports:30001/a"),
        ("mailto:a@b", "mailto:a@b", "mailto:a@b"),
    ],
)
@pytest.mark.parametrize("name", ["Location", "content-location"])
def test_url_is_led_below_the_prefix(name: str, url: str, below: str, kept: str) -> None:
    for adds_prefix, expected in ((True, below), (False, kept)):
        rewriter = Rewriter(OWN, adds_prefix=adds_prefix)
        assert rewriter.rewrite([(name, url)], ENVIRON) == [(name, expected)]


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (("Refresh", "5; url=/a"), "5; url=/reports/a"),
        (("refresh", "0;URL='http://reports:3000/a'"), f"0;URL='{HERE}/reports/a'"),
        (("Refresh", "5"), "5"),
        (("Set-Cookie", "a=/b; Path=/; HttpOnly"), "a=/b; Path=/reports; HttpOnly"),
        (("set-cookie", "a=1;path=/x;Secure"), "a=1;path=/reports/x;Secure"),
        (("Set-Cookie", "a=1; Path=/reports"), "a=1; Path=/reports"),
        (("Set-Cookie", "__Host-a=1; Secure; Path=/"), "__Host-a=1; Secure; Path=/"),
        (("Set-Cookie", "a=1"), "a=1"),
        (("Set-Cookie", "a=1; Path"), "a=1; Path"),
        (("Link", "</a>; rel=next"), "</a>; rel=next"),
    ],
)
def test_field_is_led_below_the_prefix(field: tuple[str, str], expected: str) -> None:
    assert Rewriter(OWN, adds_prefix=True).rewrite([field], ENVIRON) == [(field[0], expected)]


def test_prefix_is_encoded() -> None:
    environ = ENVIRON | {"SCRIPT_NAME": "/caf\xc3\xa9"}
    got = Rewriter(OWN, adds_prefix=True).rewrite([("Location", "/a")], environ)
    assert got == [("Location", "/caf%C3%A9/a")]


@pytest.mark.parametrize(
    ("settings", "location"),
    [
        ({}, "http://inner.example/a"),
        ({"rewrite": True, "host": "inner.example"}, "http://a.example/reports/a"),
        ({"rewrite": True, "host": "inner.example", "prefix": "keep"}, "http://a.example/a"),
        ({"rewrite": True}, "http://inner.example/a"),
    ],
)
def test_answers_are_rewritten_where_the_table_says_so(
    serve: Callable[..., Gateway],
    upstream: Callable[..., Any],
    settings: dict[str, Any],
    location: str,
) -> None:
    answer = b"HTTP/1.1 302 Found\r\nLocation: http://inner.example/a\r\nContent-Length: 0\r\n\r\n"
    with scripted(keep_answering(answer)) as server:
        app = upstream(server.address, mounted="/reports", **settings)
        got = serve({"/reports": app}).ask(b"GET /reports/x HTTP/1.1\r\nHost: a.example\r\n\r\n")
        assert got["location"] == location
