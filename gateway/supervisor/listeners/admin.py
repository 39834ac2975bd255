"""The admin listener: /healthz (alive) and /readyz (ready), for health checks and load balancers,
and /status, for operators. On TCP any user of this machine may read it, so there /status has no
text of an app: exceptions and URLs can hold secrets.

It has a thread of its own, so that a busy supervisor delays no connection, but reads objects of the
supervisor in that one's event loop only. Source: RFC 9110 §7.2 and §15.5.20, RFC 9112 §3.2 (Host).
"""

import asyncio
import contextlib
import json
import os
import socket
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Collection
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any

from gateway.errors import MalformedRequest
from gateway.peers import find_peer_user
from gateway.protocol.names import parse_host
from gateway.supervisor.tasks import keep_up
from gateway.uncaught import report_asyncio, report_own

KNOWN = ["/healthz", "/readyz", "/status"]
# from the connection to the end of the answer
CLIENT_SECONDS = 5.0
# for an answer of the supervisor's event loop, which may be busy
ASK_SECONDS = 3.0
# at most; one more replaces the oldest, which has had its time to send a request
MAX_CLIENTS = 32
LONGEST_HEAD_BYTES = 8192
# texts of /status that any user may read: names of the gateway and of the table
_TOLD = frozenset((
    "address", "generation", "how", "loading", "mount", "place", "pool", "state", "status", "table",
    "trigger",
))  # fmt: skip

Status = Callable[[], Awaitable[tuple[bool, dict[str, Any]]]]
StatusReport = Callable[[], Awaitable[dict[str, Any]]]
AdminAnswer = tuple[int, dict[str, Any]]


class AdminServer:
    """Serves on an open listening socket. ``status`` gives whether the gateway is ready and the
    object for /readyz, ``report`` the object for /status, and ``hosts`` the names that a Host field
    may have beside addresses and localhost."""

    def __init__(
        self,
        listener: socket.socket,
        status: Status,
        report: StatusReport,
        hosts: Callable[[], Awaitable[Collection[str | None]]],
    ) -> None:
        self._listener = listener
        self._status = status
        self._report = report
        self._hosts = hosts
        self._clients: dict[asyncio.Task[Any], None] = {}
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="admin", daemon=True)

    def start(self) -> None:
        """Serve in a thread."""
        self._loop = asyncio.new_event_loop()
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and wait for that if it has begun."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(CLIENT_SECONDS)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(keep_up(self._serve))

    async def _serve(self) -> None:
        report_asyncio(self._loop)
        server = await asyncio.start_server(
            self._take, sock=self._listener.dup(), limit=LONGEST_HEAD_BYTES
        )
        await self._end.wait()
        server.close()

    async def _take(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Read one request and answer it."""
        task: Any = asyncio.current_task()
        self._clients[task] = None
        if len(self._clients) > MAX_CLIENTS:
            oldest = next(iter(self._clients))
            del self._clients[oldest]
            oldest.cancel()
        # all that is sent is waited for
        writer.transport.set_write_buffer_limits(0)
        try:
            async with asyncio.timeout(CLIENT_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._answer(head, writer.get_extra_info("socket")))
                await writer.drain()
            writer.close()
        except (OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
            writer.transport.abort()  # the client has left, is too slow, or one of too many
        finally:
            self._clients.pop(task, None)

    # --- one request --------------------------------------------------------------------------

    async def _answer(self, raw: bytes, connection: Any) -> bytes:
        line, *fields = raw[:-4].decode("latin-1").split("\r\n")
        try:
            async with asyncio.timeout(ASK_SECONDS):
                status, report = await self._find_answer(line, fields, connection)
            body = to_json(report)
        except TimeoutError:
            status, body = 503, to_json({"status": "the supervisor is busy"})
        except MalformedRequest as error:
            status, body = 400, to_json({"status": str(error)})
        except Exception as error:  # noqa: BLE001  whatever it is
            report_own(f"the admin listener cannot answer {line}", error)
            fault = "a fault of the gateway's own; its log has the cause"
            status, body = 500, to_json({"status": fault})
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + (b"" if line.startswith("HEAD ") else body)

    async def _find_answer(self, line: str, fields: list[str], connection: Any) -> AdminAnswer:
        method, path, version = parse_request_line(line)
        host = find_host(fields, version)
        is_local = connection.family == socket.AF_UNIX
        if not (is_local or is_own_host(host) or host in await self._hosts()):
            # another name that leads here: a web page may have made a browser send this (DNS
            # rebinding), and would read the answer
            return 421, {"status": "ask by an IP address, by localhost, or by a host of the table"}
        if method not in ("GET", "HEAD"):
            return 405, {"status": "GET and HEAD are answered"}
        if path == "/healthz":
            return 200, {"status": "alive"}
        if path == "/readyz":
            is_ready, report = await self._status()
            return 200 if is_ready else 503, report
        if path == "/status":
            is_own = is_local and find_peer_user(connection) in (0, os.geteuid())
            report = await self._report()
            return 200, report if is_own else tell_strangers(report)
        return 404, {"status": "unknown path", "known": KNOWN}


def to_json(report: dict[str, Any]) -> bytes:
    """The bytes that are sent."""
    return json.dumps(report).encode() + b"\n"


def parse_request_line(line: str) -> tuple[str, str, str]:
    """Method, target and version. Raises MalformedRequest."""
    words = line.split(" ")
    if len(words) != 3 or words[2] not in ("HTTP/1.0", "HTTP/1.1"):
        raise MalformedRequest("this is not an HTTP/1.1 request line")
    method, path, version = words
    return method, path, version


def find_host(fields: list[str], version: str) -> str:
    """The host of the Host field, lower-case and without a port; "" if HTTP/1.0 has none. Raises
    MalformedRequest (RFC 9112 §3.2: exactly one Host)."""
    named = [field.partition(":") for field in fields]
    hosts = [value.strip(" \t") for name, _, value in named if name.lower() == "host"]
    if not hosts and version == "HTTP/1.0":
        return ""
    if len(hosts) != 1:
        raise MalformedRequest("HTTP/1.1 requires exactly one Host")
    return parse_host(hosts[0])


def is_own_host(host: str) -> bool:
    """It is an address or localhost, which no foreign name server can make lead here."""
    if host in ("", "localhost") or host.endswith(".localhost"):
        return True
    with contextlib.suppress(ValueError):
        return bool(ip_address(host.strip("[]")))
    return False


def tell_strangers(value: Any) -> Any:
    """``value`` without texts that an app or a client can influence."""
    if isinstance(value, dict):
        return {
            key: tell_strangers(each)
            for key, each in value.items()
            if key in _TOLD or not isinstance(each, str)
        }
    if isinstance(value, list):
        return [tell_strangers(each) for each in value if not isinstance(each, str)]
    return value
