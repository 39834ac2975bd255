"""Redirect: where a request below a moved prefix is sent."""

import re
from dataclasses import replace
from html import unescape
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsgi_caller import ask

from gateway.http.dispatch import resolve_path
from gateway.mounts.redirect import STATUSES, Redirect
from gateway.wsgi import RAW_PATH_INFO


def location(
    target: str, path_info: str, *, script_name: str = "/old", query: str = "", **environ: str
) -> str:
    app = Redirect(target, 308)
    answer = ask(app, path_info, script_name=script_name, query=query, environ=environ)
    return answer.headers["Location"]


@pytest.mark.parametrize(
    ("target", "path_info", "expected"),
    [
        ("/notes", "", "/notes"),
        ("/notes", "/", "/notes/"),
        ("/notes", "/a/b", "/notes/a/b"),
        ("/notes", "/a/", "/notes/a/"),
        ("/notes/", "", "/notes/"),
        ("/notes/", "/", "/notes/"),
        ("/notes/", "/a", "/notes/a"),
        ("/notes", "//a", "/notes//a"),
        ("/", "", "/"),
        ("/", "/", "/"),
        ("/", "/a", "/a"),
        ("/", "//evil.example", "/evil.example"),
        ("/", "///evil.example/x", "/evil.example/x"),
        ("/", "/\\evil.example", "/%5Cevil.example"),
        ("/", "/\t/evil.example", "/%09/evil.example"),
        ("https://new.example", "", "https://new.example"),
        ("https://new.example", "/", "https://new.example/"),
        ("https://new.example", "/a", "https://new.example/a"),
        ("https://new.example/", "/a", "https://new.example/a"),
        ("https://new.example/x", "/a", "https://new.example/x/a"),
        ("https://new.example/x/", "/a", "https://new.example/x/a"),
        ("https://new.example", "//evil.example", "https://new.example//evil.example"),
        ("http://127.0.0.1:8080/x", "/a", "http://127.0.0.1:8080/x/a"),
        ("http://[::1]:8080", "/a", "http://[::1]:8080/a"),
        ("/caf\xe9", "/a", "/caf%C3%A9/a"),
        ("/a%20b", "/c", "/a%20b/c"),
    ],
)
def test_the_rest_of_the_path_follows_the_location(
    target: str, path_info: str, expected: str
) -> None:
    assert location(target, path_info) == expected


@pytest.mark.parametrize(
    ("path_info", "expected"),
    [
        ("/a b", "/notes/a%20b"),
        ("/caf\xc3\xa9", "/notes/caf%C3%A9"),
        ("/\xff", "/notes/%FF"),
        ("/100%", "/notes/100%25"),
        ("/a?b#c", "/notes/a%3Fb%23c"),
        ("/a\r\nSet-Cookie: x=1", "/notes/a%0D%0ASet-Cookie:%20x=1"),
        ("/\x00\x7f", "/notes/%00%7F"),
        ("/~user/a-b_c.d", "/notes/~user/a-b_c.d"),
        ("/a;v=1,2@x:y!$&'()*+", "/notes/a;v=1,2@x:y!$&'()*+"),
        ("*", "/notes"),
    ],
)
def test_a_decoded_path_is_encoded_again(path_info: str, expected: str) -> None:
    assert location("/notes", path_info) == expected


@pytest.mark.parametrize(
    ("path_info", "raw_path_info", "expected"),
    [
        ("/a/b", "/a%2Fb", "/notes/a%2Fb"),
        ("/../b", "/..%2fb", "/notes/..%2fb"),
        ("/a b", "/a%20b", "/notes/a%20b"),
        ("/a+b;c", "/a+b%3Bc", "/notes/a+b%3Bc"),
        ("/a\\b", "/a%5Cb", "/notes/a%5Cb"),
        ("/", "/", "/notes/"),
        ("", "", "/notes"),
        ("*", "", "/notes"),
    ],
)
def test_what_the_client_encoded_stays_encoded(
    path_info: str, raw_path_info: str, expected: str
) -> None:
    found = location("/notes", path_info, **{RAW_PATH_INFO: raw_path_info})
    assert found == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "/notes/a"),
        ("x=1&y=%20z", "/notes/a?x=1&y=%20z"),
        ("next=/b?c=d", "/notes/a?next=/b?c=d"),
        ("a[]=1", "/notes/a?a%5B%5D=1"),
        ("x=\r\nSet-Cookie: y", "/notes/a?x=%0D%0ASet-Cookie:%20y"),
        ('x="><script>', "/notes/a?x=%22%3E%3Cscript%3E"),
        ("x=\xc3\xa9", "/notes/a?x=%C3%A9"),
    ],
)
def test_the_query_is_kept(query: str, expected: str) -> None:
    assert location("/notes", "/a", query=query) == expected


@pytest.mark.parametrize("status", STATUSES)
def test_status_and_note_with_the_link(status: int) -> None:
    answer = ask(Redirect("/notes", status), "/a", query="x=1&y='2'")
    assert answer.status == status
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Length"] == str(len(answer.content))
    [link] = re.findall(r'href="([^"]*)"', answer.content.decode())
    assert "&y=" not in link
    assert unescape(link) == answer.headers["Location"] == "/notes/a?x=1&y='2'"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_every_method_is_sent_on(method: str) -> None:
    answer = ask(Redirect("/notes", 308), "/a", method=method)
    assert (answer.status, answer.headers["Location"]) == (308, "/notes/a")
    assert answer.content


def test_head_has_the_fields_of_get_and_no_content() -> None:
    app = Redirect("/notes", 302)
    assert ask(app, "/a", method="HEAD") == replace(ask(app, "/a"), content=b"")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("", "expected a path"),
        ("notes", "expected a path"),
        ("//evil.example", "expected a path"),
        ("ftp://new.example", "expected a path"),
        ("javascript:alert(1)", "expected a path"),
        ("https://", "expected a path"),
        ("https://user@new.example", "expected a path"),
        ("https:///a", "expected a path"),
        ("/a b", "expected no space"),
        ("/a\r\nX: y", "expected no space"),
        ("/\\evil.example", "expected no space"),
        ("/a?b=c", "expected no space"),
        ("https://new.example?b=c", "expected no space"),
        ("/a#b", "expected no space"),
    ],
)
def test_a_location_that_cannot_be_one_is_refused_at_the_start(target: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Redirect(target, 308)


@pytest.mark.parametrize("status", [200, 300, 304, 306, 309, 404])
def test_a_status_that_is_no_redirect_is_refused_at_the_start(status: int) -> None:
    with pytest.raises(ValueError, match="expected one of 301, 302, 303, 307, 308"):
        Redirect("/notes", status)


LATIN_1 = st.text(st.characters(max_codepoint=255), max_size=30)
NASTY = st.lists(
    st.sampled_from(["/", "\\", ".", "..", "%2f", "%", "\r\n", "\t", "@", ":", "?", "#", "evil.a"]),
    max_size=8,
).map("".join)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    target=st.sampled_from(["/", "/notes", "/notes/", "https://new.example", "http://a.b/c/"]),
    script_name=st.sampled_from(["", "/old", "/old/er"]),
    path_info=LATIN_1 | NASTY,
    query=LATIN_1 | NASTY,
    is_served=st.booleans(),
)
def test_no_request_chooses_the_host_or_reaches_a_header(
    target: str, script_name: str, path_info: str, query: str, is_served: bool
) -> None:
    path_info = "/" + path_info
    raw = {}
    if is_served:
        # as the dispatcher gives it
        _, raw_path_info = resolve_path(quote(path_info.encode("latin-1"), safe="/\\@:"))
        raw = {RAW_PATH_INFO: raw_path_info}
    found = location(target, path_info, script_name=script_name, query=query, **raw)
    assert re.fullmatch(r"[!$%&'()*+,\-./0-9:;=?@A-Z_a-z~]+", found)
    if target.startswith("/"):
        assert re.match(r"/(?!/)", found)
    else:
        assert found.startswith(target.rstrip("/") + "/")
