"""Upstream mounts of the table to WSGI callables.

Does not know how requests are forwarded.
"""

from __future__ import annotations

from urllib.parse import quote

from gateway.config.model import Mount, UpstreamTarget
from gateway.upstream.address import MAX_IDLE, Address
from gateway.upstream.health import watch_health
from gateway.upstream.mount import Upstream
from gateway.upstream.request import Rules
from gateway.upstream.rewrite import Rewriter
from gateway.upstream.sticky import Sticky


def load_upstream(mount: Mount, target: UpstreamTarget) -> Upstream:
    """The WSGI callable that forwards to another server. It connects at the first request, or for
    health checks."""
    max_idle = MAX_IDLE if target.keep_alive_seconds else 0
    addresses = [
        Address(address, max_idle=max_idle, is_own=target.is_own) for address in target.addresses
    ]
    host = "" if target.host == "keep" else target.host
    strips_prefix = target.prefix == "strip"
    own_names = [address.authority for address in addresses] + [host] * bool(host)
    checks = []
    if target.health:
        asked = target.health_host
        if asked == "auto":
            asked = host or mount.host or ""
        checks = watch_health(
            mount.name,
            addresses,
            target.health,
            asked,
            target.health_scheme,
            target.health_interval_seconds,
        )
    return Upstream(
        mount.name,
        addresses,
        Rules(
            prefix=mount.prefix.encode().decode("latin-1"),
            strips_prefix=strips_prefix,
            host=host,
            authority=addresses[0].authority if addresses else "",
            own_mount=quote(mount.name) if target.is_own else "",
        ),
        connect_timeout_seconds=target.connect_timeout_seconds,
        keep_alive_seconds=target.keep_alive_seconds,
        rewriter=Rewriter(own_names, adds_prefix=strips_prefix) if target.rewrite else None,
        sticky=Sticky(target.sticky) if target.sticky != "off" else None,
        checks=checks,
        # the gateway's own workers keep connections open longer than they are kept here
        repeats=bool(target.pool or not mount.pool),
    )
