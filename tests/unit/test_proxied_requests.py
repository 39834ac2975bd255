"""What a trusted proxy says of one request alone, beside lines that it sends again and again."""

from ipaddress import ip_network
from typing import Any

import pytest
from harness import PEER

KEYS = (
    *("REMOTE_ADDR", "REMOTE_PORT", "gateway.request_id", "wsgi.url_scheme"),
    *("HTTP_X_FORWARDED_FOR", "HTTP_X_REQUEST_ID", "HTTP_X_REAL_IP", "HTTP_FORWARDED"),
)
START = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\n"
TOLD = b"X-Forwarded-For: %b\r\nX-Request-ID: %b\r\n"
USUAL = START + TOLD + b"Accept: b\r\n\r\n"


def tell(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return ["|".join(str(environ.get(key)) for key in KEYS).encode()]


@pytest.fixture
def ask(serve: Any) -> Any:
    gateway = serve(tell, trusted_proxies=(ip_network(PEER),), access_log="off")
    client = gateway.connect()

    def ask(raw: bytes) -> dict[str, str]:
        client.send(raw)
        values = client.read_answer().content.decode().split("|")
        return {key: value for key, value in zip(KEYS, values, strict=True) if value != "None"}

    return ask


@pytest.mark.parametrize("end", [b"Accept: b\r\n\r\n", b"\r\n"])
def test_each_request_has_what_was_told_of_it(ask: Any, end: bytes) -> None:
    for number in range(5):
        client, request_id = b"192.0.2.%d" % number, b"id-%d" % number
        found = ask(START + TOLD % (client, request_id) + end)
        assert found == {
            "REMOTE_ADDR": client.decode(),
            "REMOTE_PORT": "",
            "gateway.request_id": request_id.decode(),
            "wsgi.url_scheme": "https",
            "HTTP_X_FORWARDED_FOR": client.decode(),
            "HTTP_X_REQUEST_ID": request_id.decode(),
        }


@pytest.mark.parametrize(
    ("raw", "address", "hops", "request_id"),
    [
        (START + b"Accept: b\r\n\r\n", PEER, None, None),
        (USUAL % (b"198.51.100.1, 192.0.2.8", b"x"), "192.0.2.8", "198.51.100.1, 192.0.2.8", "x"),
        (USUAL % (b"192.0.2.999", b"x"), PEER, "192.0.2.999", "x"),
        (USUAL % (b"192.0.2.8", b"x y"), "192.0.2.8", "192.0.2.8", "x y"),
        (
            START + TOLD % (b"192.0.2.8", b"x") + b"x-forwarded-for: 192.0.2.9\r\n\r\n",
            "192.0.2.9",
            "192.0.2.8, 192.0.2.9",
            "x",
        ),
        (
            START + TOLD % (b"192.0.2.8", b"x") + b"X-Request-Id: y\r\n\r\n",
            "192.0.2.8",
            "192.0.2.8",
            "x, y",
        ),
    ],
)
def test_what_is_told_in_another_form_is_read_as_ever(
    ask: Any, raw: bytes, address: str, hops: str | None, request_id: str | None
) -> None:
    for _ in range(3):
        ask(USUAL % (b"192.0.2.1", b"before"))
        found = ask(raw)
        assert found["REMOTE_ADDR"] == address
        assert found.get("HTTP_X_FORWARDED_FOR") == hops
        assert found.get("HTTP_X_REQUEST_ID") == request_id
        assert "before" not in found["gateway.request_id"]


def test_forwarded_is_not_read(ask: Any) -> None:
    raw = START + b"Forwarded: for=198.51.100.9\r\n" + TOLD % (b"192.0.2.8", b"x") + b"\r\n"
    for _ in range(3):
        found = ask(raw)
        assert found["REMOTE_ADDR"] == "192.0.2.8"
        assert "HTTP_FORWARDED" not in found


@pytest.mark.parametrize("end", [b" folded\r\n\r\n", b"Bad Name: 1\r\n\r\n", b"\r\n\n\r\n\r\n"])
def test_a_head_that_is_refused_is_refused_behind_others(serve: Any, end: bytes) -> None:
    gateway = serve(tell, trusted_proxies=(ip_network(PEER),))
    client = gateway.connect()
    for _ in range(3):
        client.send(START + TOLD % (b"192.0.2.8", b"x") + b"\r\n")
        assert client.read_answer().status == 200
    client.send(START + TOLD % (b"192.0.2.8", b"x") + end)
    if end.startswith(b"\r\n"):  # a whole request, and what comes behind it
        assert client.read_answer().status == 200
    assert client.read_answer().status == 400


def test_lines_behind_the_head_are_not_told_of_it(ask: Any) -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\n"
    told = TOLD % (b"192.0.2.7", b"id-7")
    for _ in range(3):
        assert ask(head + told + b"\r\n")["gateway.request_id"] == "id-7"
    # what follows the empty line is another request, and none that can be read
    found = ask(head + b"\r\n" + told + b"\r\n")
    assert found["REMOTE_ADDR"] == PEER
    assert found["gateway.request_id"] != "id-7"
