"""The table as frozen values. Owns what can be said in it; knows neither YAML nor how it is run.

The values travel pickled to workers that may run another Python: no slots, which some versions
cannot have and others pickle in a way of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Union

from gateway.limits import Limits, MountLimits, setting

Network = Union[IPv4Network, IPv6Network]


def as_path(text: str) -> Path:
    """A path that was pickled: Python 3.13 gives the class a name that no other version knows."""
    return Path(text)


@dataclass(frozen=True)
class Where:
    """A place in the table, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class AppTarget:
    """``module:callable`` or ``module:factory()``; the part behind the colon may be dotted."""

    import_string: str = field(
        metadata={
            "why": "A WSGI application, `module:callable` or `module:factory()`; the callable may "
            "be dotted. It is imported with the table's directory first on the path.",
            "key": "app",
            "reads": "import string",
        }
    )
    env: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "why": "Environment variables, set before the app is imported. The mounts share one "
            "process environment, so two mounts may not give one variable different values.",
            "reads": "environment",
        },
    )
    probe: str = setting(
        "",
        "A path below the mount's own, such as /healthz, for which new workers are asked before "
        "they accept. Anything but 2xx or 3xx within the mount's timeout fails a reload; at a "
        "start it is logged.",
        reads="probe path",
    )


@dataclass(frozen=True)
class StaticTarget:
    """A directory served as files. ``directory`` is absolute and existed when it was checked."""

    directory: Path = field(
        metadata={
            "why": "A directory served as files, relative to the table's own.",
            "key": "static",
            "reads": "directory",
        }
    )
    index: str = setting("index.html", "The file that answers for a directory.", reads="file name")
    cache_seconds: float = setting(
        0.0,
        "Cache-Control: max-age; 0 makes clients revalidate by ETag each time (no-cache).",
        least=0,
    )


@dataclass(frozen=True)
class RedirectTarget:
    """Where a prefix has gone: the rest of the path and the query are kept (Apache's Redirect)."""

    location: str = field(
        metadata={
            "why": "Where the prefix has gone: a path that begins with a slash, or an http(s) "
            "URL. The rest of the path and the query are kept.",
            "key": "redirect",
            "reads": "location",
        }
    )
    status: int = setting(
        308,
        "308 and 301 are permanent, 307 and 302 temporary; 307 and 308 keep the method and the "
        "body, 303 makes it GET.",
        choices=(301, 302, 303, 307, 308),
    )


Target = Union[AppTarget, StaticTarget, RedirectTarget]


@dataclass(frozen=True)
class Mount:
    """One line of ``mounts:``.

    ``name`` is the normalised key; ``host`` is lower-case ASCII or None for any; ``prefix`` is ""
    for ``/``, else a decoded path that begins with a slash and does not end with one.
    """

    name: str
    host: str | None
    prefix: str
    target: Target
    limits: MountLimits
    where: Where


@dataclass(frozen=True)
class Server:
    """``server:``. Addresses are ``HOST:PORT``, ``[IPv6]:PORT`` or ``unix:/path``."""

    listen: str = setting(
        "127.0.0.1:8000", "Where requests arrive, normally from nginx.", reads="address"
    )
    admin: str = setting(
        "127.0.0.1:8001",
        "Where /healthz and /readyz answer; never to be published.",
        reads="address",
    )
    control: str = setting(
        "auto",
        "The Unix socket that `gateway reload`, `status` and `stop` speak to, for the gateway's "
        "own user alone (mode 0600). auto is one in /tmp, named after the table's path.",
        reads="control socket",
    )
    workers: int = setting(
        2,
        "Worker processes: a number, or auto for one per usable core, at least two.",
        reads="workers",
        most=512,
    )
    trusted_proxies: tuple[Network | str, ...] = setting(
        (),
        "Peers whose X-Forwarded-* and X-Request-ID are believed: addresses, CIDRs, or unix: for "
        "every peer on a Unix socket.",
        reads="networks",
    )
    proxy_protocol: bool = setting(
        False,
        "Every connection has to begin with a PROXY header, version 1 or 2, and to come from one "
        "of trusted_proxies; any other is refused. Whom the header names is the client, and its "
        "X-Forwarded-* are believed where it is one of trusted_proxies too.",
        reads="boolean",
    )
    access_log: str = setting(
        "auto",
        "One record a request on stdout: json, text, off, or auto: text on a terminal, JSON "
        "elsewhere.",
        choices=("auto", "json", "text", "off"),
    )
    watch: bool = setting(
        True,
        "Whether a save of the table is a reload. Without it, `gateway reload` and SIGHUP are.",
        reads="boolean",
    )
    environments: str = setting(
        ".gateway/environments",
        "Where the environments of pools with requirements are built and kept, with what was "
        "downloaded for them. For this gateway alone: what it no longer uses is removed.",
        reads="place",
    )
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Config:
    """A whole valid table. ``directory`` is its own, absolute; apps are imported from there."""

    source: str
    directory: Path
    server: Server
    mounts: tuple[Mount, ...]
