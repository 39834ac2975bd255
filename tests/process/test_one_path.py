"""A path means the same to everybody on its way: dispatch, limits, access record, app, next hop.

Thousands of spellings of paths, among them dot segments, encoded ones, and slashes that are data,
are asked of mounts of every kind. What each leads to is told by a reading of RFC 3986 of the test's
own; the servers behind are gateways in processes of their own.
"""

import json
import random
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import pytest
from running import WAIT_SECONDS, Running, wait_until

from gateway.http.dispatch import LoadedMount, MountTable
from gateway.limits import MountLimits

SLASH = "\0"  # stands for one that is data
SHOW = """
import json
import os
import time

def app(environ, start_response):
    content = environ["wsgi.input"].read()
    awaited = environ.get("HTTP_X_WAIT_FOR")
    while awaited and not os.path.exists(awaited):
        time.sleep(0.01)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([environ["SCRIPT_NAME"], environ["PATH_INFO"], len(content)]).encode()]
"""
# mounts of the front by prefix; the small ones take one byte of content and soon time out, the
# secret ones take one request at a time
SMALL = {"/shared/small", "/green/small", "/threads/small", "/kept/small"}
SECRET = {"/shared/secret", "/green/secret", "/threads/secret", "/kept/secret"}
LIMITS = dict.fromkeys(SMALL, ", max_body: 1B, timeout: 500ms")
LIMITS |= dict.fromkeys(SECRET, ", max_concurrency: 1, queue: 0")
POOLS = {"/shared": "", "/green": "green", "/threads": "threads"}
KEPT, STRIPPED, MOVED = ("/kept", "/kept/small", "/kept/secret"), "/stripped", "/moved"
APPS = [
    *("/shared", "/shared/small", "/shared/secret"),
    *("/green", "/green/small", "/green/secret", "/green2"),
    *("/threads", "/threads/small", "/threads/secret", "/threads2"),
]
PREFIXES = [*APPS, *KEPT, STRIPPED, MOVED]
BEHIND = ["/", "/kept", "/kept/small", "/kept/secret", "/secret", "/a", "/shared"]
WORDS = [
    *("..", ".", "%2e", "%2E%2e", ".%2e", "%2e.", "...", "..;", ".;a=b", "", ""),
    *("a", "%61", "small", "%73mall", "secret", "secre%74", "green2", "%67reen2", "threads2"),
    *("%20", "%25", "%252e%252e", "%252f", "%5c", "\\", "..\\", "..%5c", "caf%c3%a9", "~%7E", "*"),
]
JOINTS = ["/"] * 12 + ["%2f", "%2F", "/./", "/%2e/", "//", "%2f..%2f", "/..%2f", "%2e%2e%2f"]


def spell(generator: random.Random) -> str:
    """The target of a request for something below, or just beside, a mount."""
    prefix = generator.choice(PREFIXES)
    target = "".join(
        f"%{ord(c):02x}" if c != "/" and generator.random() < 0.03 else c for c in prefix
    )
    if generator.random() < 0.15:
        target = "/" + generator.choice([*WORDS, "x/.."]) + target
    for _ in range(generator.randint(0, 5)):
        target += generator.choice(JOINTS) + generator.choice(WORDS)
    return target


def read(target: str) -> str:
    """The path, decoded and without dot segments; SLASH for those that are encoded."""
    segments: list[str] = []
    last = ""
    for raw in target[1:].split("/"):
        pieces = re.split("%2f", raw, flags=re.IGNORECASE)
        last = SLASH.join(unquote_to_bytes(p).decode("latin-1") for p in pieces)
        if last == "..":
            segments = segments[:-1]
        elif last != ".":
            segments.append(last)
    return "/" + "/".join(segments + [""] * (last in (".", "..")))


def find(prefixes: list[str], path: str) -> str | None:
    """The longest of ``prefixes`` that ``path`` is below."""
    below = [p for p in prefixes if p == "/" or path == p or path.startswith(p + "/")]
    return max(below, key=len).rstrip("/") if below else None


def test_what_is_passed_on_leads_to_the_same_place_again() -> None:
    table = MountTable(
        LoadedMount(name=p, host=None, prefix=p, app=lambda *_: [], limits=MountLimits())
        for p in PREFIXES
    )
    generator = random.Random(6870)
    found_count = 0
    for _ in range(20_000):
        target = spell(generator)
        path = read(target)
        found = table.match("", target)
        assert (found and found.mount.prefix) == find(PREFIXES, path), target
        if found is None:
            continue
        found_count += 1
        assert found.path_info == path[len(found.mount.prefix) :].replace(SLASH, "/"), target
        sent = found.mount.prefix + found.raw_path_info
        assert re.fullmatch(r"[!$%&'()*+,\-./0-9:;=@A-Z_a-z~]*", sent)
        assert read(sent) == path, target  # encoded slashes too are where they were
        assert not {".", ".."} & set(unquote_to_bytes(sent).decode("latin-1").split("/")) or (
            SLASH in path
        )
        assert table.match("", sent) == found, target
        assert table.find(found.mount.name, target) == found, target  # as a pool's worker does
    assert found_count > 10_000


class Asker:
    """One client's connection, on which requests follow each other."""

    def __init__(self, running: Running) -> None:
        self._socket = running.connect()
        self._socket.settimeout(WAIT_SECONDS)
        self._answer = self._socket.makefile("rb")

    def ask(self, target: str, content: bytes) -> tuple[int, dict[str, str], bytes]:
        self.send(target, "", content)
        return self.receive()

    def send(self, target: str, fields: str, content: bytes = b"") -> None:
        method = "POST" if content else "GET"
        length = f"Content-Length: {len(content)}\r\n" if content else ""
        head = f"{method} {target} HTTP/1.1\r\nHost: a\r\n{fields}{length}\r\n"
        self._socket.sendall(head.encode() + content)

    def receive(self) -> tuple[int, dict[str, str], bytes]:
        status = int(self._answer.readline().split()[1])
        fields = {}
        while (line := self._answer.readline().decode().strip()) != "":
            name, _, value = line.partition(": ")
            fields[name.lower()] = value
        if fields.get("transfer-encoding") == "chunked":
            got = b""
            while size := int(self._answer.readline(), 16):
                got += self._answer.read(size + 2)[:-2]
            self._answer.readline()
        else:
            got = self._answer.read(int(fields["content-length"]))
        return status, fields, got

    def close(self) -> None:
        self._answer.close()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture(scope="module")
def front(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A gateway with mounts of every kind, and one behind it."""
    behind = Running(
        tmp_path_factory.mktemp("behind"),
        "".join(f"  {prefix}: show:app\n" for prefix in BEHIND),
        "  trusted_proxies: ['unix:']\n",
        show=SHOW,
    )
    request.addfinalizer(behind.end)
    lines = []
    for prefix in APPS:
        pool = next(pool for start, pool in POOLS.items() if prefix.startswith(start))
        lines.append(
            f"  {prefix}: {{app: show:app"
            + (f", pool: {pool}" if pool else "")
            + LIMITS.get(prefix, "")
            + "}"
        )
    address = f"unix:{behind.folder}/listen.sock"
    lines += [
        f'  {prefix}: {{upstream: "{address}", prefix: keep{LIMITS.get(prefix, "")}}}'
        for prefix in KEPT
    ]
    lines += [f'  {STRIPPED}: {{upstream: "{address}"}}', f"  {MOVED}: {{redirect: /new/place}}"]
    front = Running(
        tmp_path_factory.mktemp("front"),
        "\n".join(lines) + "\npools:\n  green: {}\n  threads: {concurrency: threads, threads: 2}\n",
        show=SHOW,
    )
    request.addfinalizer(front.end)
    for pool in ("green", "threads"):
        wait_until(lambda p=pool: front.ask(f"/{p}").startswith(b"HTTP/1.1 200 "), f"{pool} serves")
    yield front
    assert front.end() == 0
    assert behind.end() == 0


def expect_app(prefix: str, path: str) -> tuple[str, str]:
    """SCRIPT_NAME and PATH_INFO that the app has to see."""
    rest = path[len(prefix) :]
    if prefix in KEPT:
        script_name = find(BEHIND, path)
        assert script_name is not None
        return script_name, path[len(script_name) :]
    if prefix == STRIPPED:
        script_name = find(BEHIND, rest or "/")
        assert script_name is not None
        return STRIPPED + script_name, (rest or "/")[len(script_name) :]
    return prefix, rest


def test_every_kind_of_mount_agrees_with_the_record_the_limits_and_the_app(
    front: Running,
) -> None:
    generator = random.Random(2965)
    asked: list[tuple[str, str | None, int]] = []
    asker = Asker(front)
    for _ in range(2500):
        target = spell(generator)
        path = read(target)
        prefix = find(PREFIXES, path)
        status, fields, content = asker.ask(target, b"ab")
        asked.append((target, prefix, status))
        if prefix is None:
            assert status == 404, target
        elif prefix in SMALL:
            assert status == 413, target
            asker.close()
            asker = Asker(front)
        elif prefix == MOVED:
            assert status == 308, target
            place = fields["location"]
            assert read(place) == "/new/place" + path[len(MOVED) :], target
        else:
            script_name, path_info = expect_app(prefix, path)
            assert (status, json.loads(content)) == (
                200,
                [script_name, path_info.replace(SLASH, "/"), 2],
            ), target
    asker.close()
    wait_until(lambda: len(posts(front)) >= len(asked), "all records are written")
    records = posts(front)
    assert [(r["target"], r["mount"] or None, r["status"]) for r in records] == asked


def test_deadlines_and_places_are_those_of_the_mount_that_a_path_leads_to(
    front: Running, tmp_path: Path
) -> None:
    generator = random.Random(503)
    go_on = tmp_path / "go on"
    waiting: list[tuple[str, str, Asker]] = []
    for target in (spell(generator) for _ in range(250)):
        prefix = find(PREFIXES, read(target))
        if prefix is not None and prefix != MOVED:
            waiting.append((target, prefix, Asker(front)))
            waiting[-1][2].send(target, f"X-Wait-For: {go_on}\r\n")
    statuses: dict[str, list[int]] = {prefix: [] for _, prefix, _ in waiting}
    for target, prefix, asker in waiting:
        if prefix in SMALL:
            assert asker.receive()[0] == 504, target
    go_on.touch()
    for target, prefix, asker in waiting:
        if prefix not in SMALL:
            statuses[prefix].append(asker.receive()[0])
            assert prefix in SECRET or statuses[prefix][-1] == 200, target
        asker.close()
    for prefix in SECRET:
        assert sorted(statuses[prefix]) == [200, *[503] * (len(statuses[prefix]) - 1)]
    assert {*SMALL, *SECRET} <= statuses.keys()


def posts(front: Running) -> list[dict[str, Any]]:
    return [record for record in front.records if record["method"] == "POST"]


@pytest.mark.parametrize("kind", ["shared", "green", "threads"])
def test_a_path_that_left_its_mount_within_a_pool_stays_there(front: Running, kind: str) -> None:
    for spelling in ("/./..%2f{}2/x", "/x/../..%2F{}2/x", "/%2e/..%2f{}2/x"):
        target = f"/{kind}" + spelling.format(quote(kind))
        answer = front.ask(target)
        assert json.loads(answer.rpartition(b"\r\n\r\n")[2])[0] == f"/{kind}", target
