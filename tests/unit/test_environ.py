"""The environ of a request is PEP 3333's."""

import sys
from io import BytesIO
from typing import Any
from wsgiref.validate import check_environ

import pytest

from gateway.http.environ import EmptyContent, build_base_environ, build_environ
from gateway.limits import Limits
from gateway.protocol.request import HeadParser

MOUNTS = (("/", "app", True),)


def build(raw: bytes) -> dict[str, Any]:
    base = build_base_environ("localhost", "8000", MOUNTS)
    head = HeadParser(Limits()).parse(raw, False)
    environ = build_environ(base, head, "192.0.2.7", "50000")
    assert environ is not base
    assert base == build_base_environ("localhost", "8000", MOUNTS) | {
        "wsgi.input": base["wsgi.input"]
    }
    return environ


def test_all_that_pep_3333_asks_for_is_there() -> None:
    environ = build(b"GET /a?b=c HTTP/1.1\r\nHost: example.com\r\n\r\n")
    environ["PATH_INFO"] = "/a"
    environ["wsgi.input"] = BytesIO()  # the validator does not know what is read-only
    check_environ(environ)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("REQUEST_METHOD", "POST"),
        ("QUERY_STRING", "c=d%20e"),
        ("REQUEST_URI", "/a%20b?c=d%20e"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("SERVER_NAME", "localhost"),
        ("SERVER_PORT", "8000"),
        ("REMOTE_ADDR", "192.0.2.7"),
        ("REMOTE_PORT", "50000"),
        ("HTTP_HOST", "example.com"),
        ("HTTP_X_LATIN", "\xe4"),
        ("CONTENT_TYPE", "text/plain"),
        ("CONTENT_LENGTH", "5"),
        ("wsgi.version", (1, 0)),
        ("wsgi.url_scheme", "http"),
        ("wsgi.errors", sys.stderr),
        ("wsgi.multithread", True),
        ("wsgi.multiprocess", True),
        ("wsgi.run_once", False),
        ("wsgi.input_terminated", True),
        ("gateway.mounts", MOUNTS),
    ],
)
def test_environ_of_a_request(key: str, value: object) -> None:
    environ = build(
        b"POST /a%20b?c=d%20e HTTP/1.1\r\nHost: example.com\r\nX-Latin: \xe4\r\n"
        b"Content-Type: text/plain\r\nContent-Length: 5\r\n\r\n"
    )
    assert environ[key] == value


def test_content_fields_have_no_other_name() -> None:
    environ = build(
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\n"
    )
    assert not {"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"} & set(environ)


def test_what_is_not_sent_is_not_there() -> None:
    environ = build(b"GET / HTTP/1.0\r\n\r\n")
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.0"
    assert not {"CONTENT_TYPE", "CONTENT_LENGTH", "HTTP_HOST", "HTTPS"} & set(environ)


def test_no_field_can_set_what_the_gateway_sets() -> None:
    lines = [f"{key}: forged" for key in build_base_environ("", "", ())]
    lines += [f"{key.replace('_', '-')}: forged" for key in build_base_environ("", "", ())]
    raw = "\r\n".join(["GET / HTTP/1.1", "Host: a", *lines, "", ""]).encode()
    environ = build(raw)
    assert all(key.startswith("HTTP_") for key, value in environ.items() if value == "forged")


def test_fields_are_native_strings() -> None:
    environ = build(b"GET / HTTP/1.1\r\nHost: a\r\nX: \xff\r\n\r\n")
    texts = {key: value for key, value in environ.items() if key.isupper()}
    assert {type(value) for value in texts.values()} == {str}
    for value in texts.values():
        value.encode("latin-1")


def test_empty_content_has_the_methods_of_pep_3333() -> None:
    content = EmptyContent()
    assert content.read() == content.read(5) == content.readline() == content.readline(5) == b""
    assert content.readlines() == content.readlines(5) == list(content) == []


def test_an_app_changes_nothing_of_the_empty_content_that_other_requests_share() -> None:
    content = EmptyContent()
    for name in ("seen", "read", "closed"):
        with pytest.raises(AttributeError):
            setattr(content, name, b"another request's")
    content.close()
    test_empty_content_has_the_methods_of_pep_3333()
