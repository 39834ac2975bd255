"""Requests as people's browsers send them, and as the stack's nginx forwards them: no two alike.

Load generators repeat one request, and what a server remembers of it makes that one cheap. These
differ in path, query, Referer and cookies, as those of many people do; a forwarded one also in
client and request id. Always the same ones, since the generator of random numbers is seeded.
"""

import random
from collections.abc import Iterator
from pathlib import Path

COUNT = 8192
COOKIES_BYTES = 200
FORM_BYTES = 1024
SITE = "www.example.org"
# After Host and before what differs. 12, 14 and 17 header lines, cookies and Referer included.
CHROME = """\
Connection: keep-alive
Cache-Control: max-age=0
sec-ch-ua: "Chromium";v="{version}", "Google Chrome";v="{version}", "Not_A Brand";v="99"
sec-ch-ua-mobile: ?0
sec-ch-ua-platform: "Windows"
Upgrade-Insecure-Requests: 1
User-Agent: Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
Chrome/{version}.0.0.0 Safari/537.36
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,\
*/*;q=0.8,application/signed-exchange;v=b3;q=0.7
Sec-Fetch-Site: same-origin
Sec-Fetch-Mode: navigate
Sec-Fetch-User: ?1
Sec-Fetch-Dest: document
Accept-Encoding: gzip, deflate, br, zstd
Accept-Language: en-GB,en-US;q=0.9,en;q=0.8
"""
FIREFOX = """\
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:{version}.0) Gecko/20100101 Firefox/{version}.0
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8
Accept-Language: en-US,en;q=0.5
Accept-Encoding: gzip, deflate, br, zstd
Connection: keep-alive
Upgrade-Insecure-Requests: 1
Sec-Fetch-Dest: document
Sec-Fetch-Mode: navigate
Sec-Fetch-Site: same-origin
Sec-Fetch-User: ?1
Priority: u=0, i
"""
SAFARI = """\
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8
Sec-Fetch-Site: same-origin
Accept-Encoding: gzip, deflate, br
Sec-Fetch-Mode: navigate
User-Agent: Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 \
(KHTML, like Gecko) Version/{version}.1 Safari/605.1.15
Accept-Language: en-GB,en;q=0.9
Sec-Fetch-Dest: document
Connection: keep-alive
Priority: u=0, i
"""
BROWSERS = [
    browser.format(version=version)
    for browser, versions in ((CHROME, (128, 130, 131)), (FIREFOX, (128, 132)), (SAFARI, (17, 18)))
    for version in versions
]


def browser_lines(chance: random.Random, session: str = "") -> Iterator[tuple[str, str]]:
    """Targets and header lines, the latter each with its LF. ``session`` begins the cookies."""
    while True:
        number = chance.randrange(10**6)
        cookies = f"{session}theme=dark; csrftoken={chance.randbytes(16).hex()}; visitor="
        cookies += chance.randbytes(COOKIES_BYTES).hex()[: COOKIES_BYTES - len(cookies)]
        yield (
            f"/notes/{number}?page={chance.randrange(100)}&from={chance.randbytes(4).hex()}",
            f"Host: {SITE}\n{chance.choice(BROWSERS)}"
            f"Referer: https://{SITE}/notes/?page={chance.randrange(100)}&near={number}\n"
            f"Cookie: {cookies}\n",
        )


def browser(chance: random.Random) -> Iterator[str]:
    for target, lines in browser_lines(chance):
        yield f"GET {target} HTTP/1.1\n{lines}\n"


def proxied(chance: random.Random) -> Iterator[str]:
    """As nginx/server.conf makes it of a browser's: its own lines first, then those passed on."""
    for target, lines in browser_lines(chance):
        client = address(chance)
        passed = lines.partition("\n")[2].replace("Connection: keep-alive\n", "")
        yield (
            f"GET {target} HTTP/1.1\nHost: {SITE}\nX-Forwarded-For: {client}\n"
            f"X-Request-ID: {chance.randbytes(16).hex()}\nX-Forwarded-Proto: https\n"
            f"X-Forwarded-Host: {SITE}\nX-Forwarded-Port: 443\nX-Real-IP: {client}\n{passed}\n"
        )


def balanced(chance: random.Random) -> Iterator[str]:
    """As a load balancer in front of nginx passes it on: with the client's address."""
    for target, lines in browser_lines(chance):
        yield f"GET {target} HTTP/1.1\n{lines}X-Forwarded-For: {address(chance)}\n\n"


def address(chance: random.Random) -> str:
    return ".".join(str(chance.randrange(1, 255)) for _ in range(4))


def form(chance: random.Random) -> Iterator[str]:
    for target, lines in browser_lines(chance):
        content = f"text={chance.randbytes(FORM_BYTES).hex()}"[:FORM_BYTES]
        yield (
            f"POST {target} HTTP/1.1\n{lines}Origin: https://{SITE}\n"
            "Content-Type: application/x-www-form-urlencoded\n"
            f"Content-Length: {FORM_BYTES}\n\n{content}"
        )


def page(chance: random.Random, sessions: list[str]) -> Iterator[str]:
    """With the cookie of a session each."""
    for session in sessions:
        target, lines = next(browser_lines(chance, f"session={session}; "))
        yield f"GET {target} HTTP/1.1\n{lines}\n"


def write(path: Path, requests: Iterator[str]) -> None:
    """COUNT requests, each ended with NUL, which occurs in none."""
    texts = (next(requests) for _ in range(COUNT))
    with path.open("wb") as file:
        for text in texts:
            head, blank, content = text.partition("\n\n")
            file.write((head + blank).replace("\n", "\r\n").encode() + content.encode() + b"\0")
