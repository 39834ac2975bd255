"""Clients that come back to the same worker or address."""

import json
import os
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from running import Running, wait_until
from scripted import scripted

from gateway.upstream.sticky import COOKIE, Sticky

Start = Callable[..., Running]
MANUAL = "  reload_on_edit: false\n"
# each worker knows those alone that it has met itself
MEETING = """
import json, os
met = set()
def app(environ, start_response):
    name = environ["QUERY_STRING"]
    told = {"pid": os.getpid(), "is_known": name in met}
    met.add(name)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(told).encode()]
"""
MOUNTS = "  /: good:app\n  /shop: {app: 'meeting:app', pool: shop}\n"
CLIENTS = range(8)


class Visitor:
    """A client that keeps the gateway's cookie, as a browser does."""

    def __init__(self, gateway: Running, name: str, address: str = "192.0.2.1") -> None:
        self._gateway, self._name, self._address = gateway, name, address
        self.cookie = ""
        self.set_cookie = ""

    def visit(self, target: str = "/shop/") -> dict[str, Any]:
        with self._gateway.connect() as connection:
            cookie = f"Cookie: a=b; {self.cookie}\r\n" if self.cookie else ""
            connection.sendall(
                f"GET {target}?{self._name} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                f"X-Forwarded-For: {self._address}\r\n{cookie}\r\n".encode()
            )
            with connection.makefile("rb") as answer:
                head, _, content = answer.read().partition(b"\r\n\r\n")
        assert b" 200 " in head.partition(b"\r\n")[0], head
        lines = [line.decode() for line in head.split(b"\r\n")]
        self.set_cookie = next((line for line in lines if line.startswith("Set-Cookie: ")), "")
        if self.set_cookie:
            self.cookie = self.set_cookie.removeprefix("Set-Cookie: ").partition(";")[0]
        return json.loads(content)


def start_sticky(start: Start, by: str, workers: str = "2") -> Running:
    pools = f"pools:\n  shop: {{workers: {workers}, sticky: {by}}}\n"
    server = f"{MANUAL}  trusted_proxies: ['unix:']\n{pools}"
    gateway = start(MOUNTS, server, meeting=MEETING)
    wait_until(lambda: len(ready(gateway)) == 2, "both workers of the pool are ready")
    return gateway


def ready(gateway: Running) -> set[int]:
    """The pids of the pool's workers that serve."""
    return {
        worker["pid"]
        for generation in gateway.control("status")["generations"]
        if generation["pool"] == "shop" and generation["state"] == "serving"
        for worker in generation["workers"]
        if worker["state"] == "ready"
    }


def wait_until_all_are_asked(gateway: Running) -> None:
    def find() -> set[int]:
        return {Visitor(gateway, "nobody").visit()["pid"] for _ in range(4)}

    wait_until(lambda: find() == ready(gateway), "clients are sent to both workers")


def test_a_cookie_brings_a_client_back_to_its_worker(start: Start) -> None:
    gateway = start_sticky(start, "cookie")
    wait_until_all_are_asked(gateway)
    visitors = [Visitor(gateway, f"v{i}") for i in CLIENTS]
    first = [visitor.visit()["pid"] for visitor in visitors]
    assert set(first) == ready(gateway)
    assert all(
        visitor.set_cookie == f"Set-Cookie: {visitor.cookie}; Path=/shop; HttpOnly; SameSite=Lax"
        for visitor in visitors
    )
    for _ in range(3):
        again = [visitor.visit() for visitor in visitors]
        assert [told["pid"] for told in again] == first
        assert all(told["is_known"] for told in again)
        assert not any(visitor.set_cookie for visitor in visitors)


def test_an_address_brings_a_client_back_to_its_worker(start: Start) -> None:
    gateway = start_sticky(start, "address")

    def visit() -> list[int]:
        visitors = [Visitor(gateway, f"v{i}", f"192.0.2.{i}") for i in range(16)]
        pids = [visitor.visit()["pid"] for visitor in visitors]
        assert not any(visitor.set_cookie for visitor in visitors)
        return pids

    wait_until(lambda: set(visit()) == ready(gateway), "clients are sent to both workers")
    first = visit()
    assert [visit() for _ in range(3)] == [first] * 3


def test_without_sticky_no_cookie_is_set(start: Start) -> None:
    gateway = start_sticky(start, "off")
    visitor = Visitor(gateway, "v")
    visitor.visit()
    assert not visitor.set_cookie


def test_a_client_whose_worker_has_ended_gets_another_one(start: Start) -> None:
    gateway = start_sticky(start, "cookie")
    wait_until_all_are_asked(gateway)
    visitor = Visitor(gateway, "v")
    pid = visitor.visit()["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pid not in ready(gateway), "the worker's end is known")
    found = visitor.visit()
    assert found["pid"] != pid
    assert visitor.set_cookie
    assert visitor.visit() == {"pid": found["pid"], "is_known": True}


@pytest.mark.parametrize("by", ["cookie", "address"])
def test_clients_are_sent_to_new_workers_after_a_reload(start: Start, by: str) -> None:
    gateway = start_sticky(start, by)
    visitors = [Visitor(gateway, f"v{i}", f"192.0.2.{i}") for i in CLIENTS]
    before = {visitor.visit()["pid"] for visitor in visitors}
    assert gateway.control("reload")["exit_code"] == 0
    first = [visitor.visit()["pid"] for visitor in visitors]
    assert set(first) <= ready(gateway) - before
    assert [visitor.visit()["pid"] for visitor in visitors] == first


def test_no_request_is_lost_while_workers_are_replaced(start: Start) -> None:
    gateway = start_sticky(start, "cookie", "{min: 2, max: 3}")
    visitors = [Visitor(gateway, f"v{i}") for i in CLIENTS]
    for _ in range(3):
        assert gateway.control("reload")["exit_code"] == 0
        for visitor in visitors * 5:
            visitor.visit()


def test_a_cookie_brings_a_client_back_to_one_of_several_servers(start: Start) -> None:
    def answer(name: bytes) -> Any:
        text = b'{"pid": "%b"}' % name
        whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)
        return lambda peer: peer.answer(whole)

    with scripted(answer(b"a")) as a, scripted(answer(b"b")) as b:
        gateway = start(
            f"  /: good:app\n"
            f'  /shop: {{upstream: ["{a.address}", "{b.address}"], sticky: cookie, '
            f"keep_alive: 0}}\n",
            MANUAL,
        )
        visitors = [Visitor(gateway, f"v{i}") for i in CLIENTS]
        first = [visitor.visit()["pid"] for visitor in visitors]
        assert set(first) == {"a", "b"}
        assert [visitor.visit()["pid"] for visitor in visitors] == first


# --- the choice -------------------------------------------------------------------------------


def addresses(*texts: str) -> Any:
    return [SimpleNamespace(text=text) for text in texts]


def environ(**more: str) -> dict[str, Any]:
    return {"REMOTE_ADDR": "192.0.2.1", "SCRIPT_NAME": "", "wsgi.url_scheme": "http", **more}


def test_an_address_that_leaves_moves_its_own_clients_alone() -> None:
    sticky = Sticky("address")
    three = addresses("http://a:1", "http://b:1", "http://c:1")
    clients = [environ(REMOTE_ADDR=f"192.0.2.{i}") for i in range(200)]
    before = [sticky.choose(client, three) for client in clients]
    assert all(before.count(address) > 30 for address in three)
    after = [sticky.choose(client, three[:2]) for client in clients]
    assert all(x is y for x, y in zip(before, after, strict=True) if x is not three[2])


@pytest.mark.parametrize("cookie", ["", "x=1", f"{COOKIE}=", f"{COOKIE}=0000", f"x{COOKIE}=1"])
def test_a_cookie_that_names_nothing_here_leaves_the_choice_open(cookie: str) -> None:
    assert Sticky("cookie").choose(environ(HTTP_COOKIE=cookie), addresses("http://a:1")) is None


def test_the_cookie_is_for_the_mount_alone_and_for_https_where_the_client_uses_it() -> None:
    [address] = addresses("http://a:1")
    client = environ(SCRIPT_NAME="/caf\xc3\xa9;x", **{"wsgi.url_scheme": "https"})
    [(name, value)] = Sticky("cookie").mark(client, address)
    cookie = value.partition(";")[0]
    assert name == "Set-Cookie"
    assert value == f"{cookie}; Path=/caf%C3%A9%3Bx; HttpOnly; SameSite=Lax; Secure"
    assert "a:1" not in cookie
    assert Sticky("cookie").mark(client | {"HTTP_COOKIE": f"y=2; {cookie}"}, address) == []
    assert Sticky("cookie").choose({"HTTP_COOKIE": f"y=2; {cookie}"}, [address]) is address
