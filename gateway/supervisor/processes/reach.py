"""Readiness checks of a command, and the number of its connections.

Addresses are ``unix:/path`` or ``http://127.0.0.1:PORT``. Source: proc_net(5), proc_pid_net(5) for
the tables of sockets; RFC 9112 §4 (status lines).
"""

import asyncio
import contextlib
import re
from pathlib import Path

from gateway.protocol.probe_request import advise, build_probe_request

CHECK_ANSWER_SECONDS = 5.0
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r]")
# the states of a socket in /proc/net/unix (linux/net.h) and /proc/net/tcp (net/tcp_states.h)
_UNIX_CONNECTED = ("02", "03")
_TCP_ESTABLISHED = "01"


async def find_fault(
    address: str, path: str, host: str = "localhost", scheme: str = "https"
) -> str:
    """Why the server is not ready: it accepts no connection, or does not answer 2xx or 3xx for
    ``path`` ("": a connection is enough). "" if it is ready."""
    try:
        async with asyncio.timeout(CHECK_ANSWER_SECONDS):
            status = await _ask(
                address, build_probe_request(path, host, "gateway-health", scheme) if path else b""
            )
    except TimeoutError:
        return f"{address} did not answer for {path} in time"
    except OSError:
        return f"nothing listens on {address}"
    if not path or status[:1] in ("2", "3"):
        return ""
    hint = advise(status, host, scheme, "health_{}: ...")
    return (
        f"{path} was answered {status}{hint}" if status else f"{path} was not answered by HTTP/1.1"
    )


async def _ask(address: str, request: bytes) -> str:
    if address.startswith("unix:"):
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
    else:
        host, _, port = address.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
    try:
        if not request:
            return ""
        line = b""
        writer.write(request)
        with contextlib.suppress(ValueError):  # a line without an end
            line = await reader.readline()
        found = _STATUS.match(line)
        return found[1].decode() if found else ""
    finally:
        writer.close()


def count_connections(address: str) -> int:
    """The number of connections to the server, including those that it has not accepted yet."""
    if address.startswith("unix:"):
        ending = f" {address.removeprefix('unix:')}"
        lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()
        return sum(line.endswith(ending) and line.split()[5] in _UNIX_CONNECTED for line in lines)
    port = f":{int(address.rpartition(':')[2]):04X}"
    count = 0
    for name in ("tcp", "tcp6"):  # a server that listens on all addresses has IPv4 clients in tcp6
        table = Path(f"/proc/net/{name}")
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            fields = line.split()
            count += fields[1].endswith(port) and fields[3] == _TCP_ESTABLISHED
    return count
