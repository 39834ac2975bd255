"""What a person's browser does with a page: keeps cookies, follows redirects, sends forms.

Owns one cookie jar. Refuses to know what the pages are. Source: the standard library's urllib.
"""

import re
import secrets
from dataclasses import dataclass
from html import unescape
from http.cookiejar import CookieJar
from urllib.error import HTTPError
from urllib.parse import urlencode, urljoin
from urllib.request import HTTPCookieProcessor, Request, build_opener

_INPUT = re.compile(r'<input[^>]*\bname="(?P<name>[^"]+)"[^>]*\bvalue="(?P<value>[^"]*)"')
_REFERENCE = re.compile(r'(?:href|src)="([^"#]*)"')


@dataclass(frozen=True, slots=True)
class Page:
    """Where a request ended up, after redirects, and what was there."""

    status: int
    url: str
    text: str

    @property
    def inputs(self) -> dict[str, str]:
        """Every input field that has a value."""
        return {found["name"]: unescape(found["value"]) for found in _INPUT.finditer(self.text)}

    @property
    def links(self) -> list[str]:
        """Every address the page names, made absolute."""
        return [urljoin(self.url, unescape(link)) for link in _REFERENCE.findall(self.text)]


class Browser:
    """A visitor of ``url``, who has not been there before."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.cookies = CookieJar()
        self._opener = build_opener(HTTPCookieProcessor(self.cookies))

    def get(self, target: str) -> Page:
        """Open a page; ``target`` is a path or a URL."""
        return self._open(Request(urljoin(self._url, target)))

    def post(self, target: str, values: dict[str, str], **fields: str) -> Page:
        """Send a form; ``fields`` are further header fields."""
        request = Request(urljoin(self._url, target), urlencode(values).encode(), fields)
        return self._open(request)

    def post_file(self, target: str, name: str, file_name: str, content: bytes) -> Page:
        """Send a form with one file in it (RFC 7578)."""
        boundary = secrets.token_hex(16)
        disposition = f'form-data; name="{name}"; filename="{file_name}"'
        head = f"--{boundary}\r\nContent-Disposition: {disposition}\r\n"
        body = f"{head}Content-Type: text/plain\r\n\r\n".encode() + content
        request = Request(urljoin(self._url, target), body + f"\r\n--{boundary}--\r\n".encode())
        request.add_header("Content-Type", f"multipart/form-data; boundary={boundary}")
        return self._open(request)

    def _open(self, request: Request) -> Page:
        try:
            response = self._opener.open(request, timeout=10)
        except HTTPError as error:
            response = error
        with response:
            return Page(response.status, response.url, response.read().decode())
