"""Health checks: a path of each address is requested at regular intervals.

Refuses to know requests of clients. Every worker makes its own checks.
"""

from collections.abc import Iterable
from typing import Any

import gevent

from gateway.logs import lifecycle
from gateway.protocol.probe_request import advise, build_probe_request
from gateway.protocol.response import InvalidResponseError
from gateway.upstream.address import Address
from gateway.upstream.hop import Hop, NoResponseError

# failures in a row before an address is left out
MISSES = 2
MAX_SECONDS = 5.0


def watch_health(
    name: str,
    addresses: Iterable[Address],
    path: str,
    host: str,
    scheme: str,
    interval_seconds: float,
) -> list[Any]:
    """Start a greenlet per address that keeps its ``is_healthy`` up to date. ``host`` is the Host
    field, "" for the address's own."""
    return [
        gevent.spawn(
            _watch, name, address, (path, host or address.authority, scheme), interval_seconds
        )
        for address in addresses
    ]


def _watch(
    name: str, address: Address, question: tuple[str, str, str], interval_seconds: float
) -> None:
    misses = 0
    while True:
        fault = check_health(address, *question, min(interval_seconds, MAX_SECONDS))
        misses = misses + 1 if fault else 0
        if address.is_healthy and misses >= MISSES:
            address.is_healthy = False
            lifecycle.warning("%s: upstream %s is left out: %s", name, address.text, fault)
        elif not address.is_healthy and not misses:
            address.is_healthy = True
            lifecycle.info("%s: upstream %s is well again", name, address.text)
        gevent.sleep(interval_seconds)


def check_health(
    address: Address, path: str, host: str, scheme: str, timeout_seconds: float
) -> str:
    """Why the address is not healthy, "" if it is. May switch greenlets."""
    try:
        with gevent.Timeout(timeout_seconds, TimeoutError("no answer in time")):
            hop = Hop(address, address.connect(timeout_seconds))
            try:
                hop.link.offer(build_probe_request(path, host, "gateway-health", scheme))
                status = hop.read_response("GET", None).status
            finally:
                hop.abandon()  # RFC 9112 §9.6: nothing follows a request that says close
    except (OSError, InvalidResponseError, NoResponseError) as error:
        return f"{path} failed: {error}"
    if status[0] in "23":
        return ""
    return f"{path} was answered {status}{advise(status, host, scheme, 'health_{}: ...')}"
