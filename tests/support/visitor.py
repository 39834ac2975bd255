"""A visitor of a gateway that runs on a Unix socket: keeps cookies as browsers do.

Source: the standard library's ``http.cookiejar``.
"""

from email import message_from_bytes
from email.message import Message
from http.cookiejar import CookieJar
from typing import Any, cast
from urllib.request import Request

from running import Running, wait_until


class Visitor:
    def __init__(self, gateway: Running) -> None:
        self._gateway = gateway
        self.cookies = CookieJar()

    def get(self, target: str) -> str:
        """The text of an answer whose status is 200."""
        request = Request(f"http://a.example{target}")
        self.cookies.add_cookie_header(request)
        lines = [f"GET {target} HTTP/1.0", "Host: a.example"]
        if cookies := request.get_header("Cookie"):
            lines.append(f"Cookie: {cookies}")
        with self._gateway.connect() as client:
            client.sendall("\r\n".join([*lines, "", ""]).encode())
            with client.makefile("rb") as answer:
                head, _, text = answer.read().partition(b"\r\n\r\n")
        status, _, fields = head.partition(b"\r\n")
        assert b" 200 " in status, head
        self.cookies.extract_cookies(cast(Any, _Answer(message_from_bytes(fields))), request)
        return text.decode()

    def wait_for_reload(self) -> dict[str, Any]:
        """How the last one ended, once there was one."""
        return cast(
            dict[str, Any],
            wait_until(lambda: self._gateway.control("status")["last_reload"], "a reload ended"),
        )


class _Answer:
    def __init__(self, fields: Message) -> None:
        self._fields = fields

    def info(self) -> Message:
        return self._fields
