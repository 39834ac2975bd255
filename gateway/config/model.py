"""The table as frozen values: every key, with its default and description. Knows neither YAML nor
how a table is served.

The values are pickled for workers that may run another Python. So they have no slots: dataclasses
of older versions lack them, and newer ones pickle them differently.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Union

from gateway.limits import Admission, Limits, MountLimits, PoolLimits, fields_marked, setting

Network = Union[IPv4Network, IPv6Network]
STICKY = ("off", "cookie", "address")
MAIN = "main"  # the pool of the front workers


def as_path(text: str) -> Path:
    """Unpickle a path: Python 3.13 pickles its class by a name that no other version has."""
    return Path(text)


def _cookie_path() -> Any:
    return setting(
        "auto",
        "What happens to cookies for the whole host (Path=/). prefix: they are limited to the "
        "mount's prefix, so that two apps that both have a session cookie do not log each other "
        "out. keep: they are left alone, for an app that signs in for others. auto is prefix "
        "for apps and `pool:NAME`, keep for other servers.",
        choices=("auto", "prefix", "keep"),
        applies="in place",
    )


@dataclass(frozen=True)
class Where:
    """A place in the table, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class ProbeSettings:
    """``probe:`` of a mount: the request to make to an app, and the response that it must give."""

    path: str = field(
        metadata={
            "why": "The path to request with GET, below the mount's own, with or without a query.",
            "reads": "probe path",
        }
    )
    status: int = setting(
        0, "The status that means healthy. 0 is any 2xx or 3xx.", least=0, most=599
    )
    contains: str = setting("", "Text that the response body must contain.", reads="text")
    within_seconds: float = setting(
        0.0, "How soon the response must arrive. 0 is the mount's timeout.", least=0
    )
    host: str = setting(
        "auto",
        "The Host of the request. auto is the mount's own, or localhost if it has none.",
        reads="check host",
    )
    scheme: str = setting(
        "https",
        "The value of wsgi.url_scheme: https, so that an app that redirects plain HTTP answers "
        "instead of redirecting.",
        choices=("http", "https"),
    )


@dataclass(frozen=True)
class AppTarget:
    """``module:callable`` or ``module:factory()``; the part behind the colon may be dotted."""

    import_string: str = field(
        metadata={
            "why": "A WSGI application, `module:callable` or `module:factory()`. The callable "
            "may be dotted. It is imported with the table's directory first on the path.",
            "key": "app",
            "reads": "import string",
            "applies": "new workers",
        }
    )
    env: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "why": "Environment variables, set before the app is imported. The mounts of a pool "
            "share one process environment, so no two of them may set a variable to "
            "different values.",
            "reads": "environment",
            "applies": "new workers",
        },
    )
    pool: str = setting(
        "main",
        "The pool of workers that runs it: one of `pools:`, or own for a pool of this mount "
        "alone. main is the front workers, which run all other mounts together.",
        reads="pool name",
        applies="new workers",
    )
    probe: ProbeSettings | None = field(
        default=None,
        metadata={
            "why": "A path below the mount's own, such as /healthz, or a mapping with more "
            "settings. New workers are probed before they accept connections. An app "
            "that fails its probe fails a reload; at a start, it is logged.",
            "section": ProbeSettings,
            "short": "path",
            "applies": "in place",
        },
    )
    cookie_path: str = _cookie_path()

    @property
    def scopes_cookies(self) -> bool:
        return self.cookie_path != "keep"

    @property
    def load_key(self) -> tuple[Any, ...]:
        """What one callable was loaded with, the import string first: two mounts may share it, and
        an edit keep it, if theirs are equal. ``env`` is not in it: all mounts of a process share
        that."""
        names = fields_marked(type(self), "applies", "new workers")
        return tuple(getattr(self, name) for name in names if name != "env")


@dataclass(frozen=True)
class StaticTarget:
    """A directory served as files. ``directory`` is absolute and existed when it was checked."""

    directory: Path = field(
        metadata={
            "why": "A directory to serve as files, relative to the table's own.",
            "key": "static",
            "reads": "directory",
        }
    )
    index: str = setting("index.html", "The file to serve for a directory.", reads="file name")
    cache_seconds: float = setting(
        0.0,
        "Cache-Control: max-age. With 0, clients revalidate by ETag each time (no-cache).",
        least=0,
    )


@dataclass(frozen=True)
class RedirectTarget:
    """Where a prefix has gone: the rest of the path and the query are kept (Apache's Redirect)."""

    location: str = field(
        metadata={
            "why": "Where to redirect to: a path that begins with a slash, or an http(s) URL. "
            "The rest of the path and the query are kept.",
            "key": "redirect",
            "reads": "location",
        }
    )
    status: int = setting(
        308,
        "308 and 301 are permanent, 307 and 302 temporary. 307 and 308 keep the method and the "
        "body, 303 changes the method to GET.",
        choices=(301, 302, 303, 307, 308),
    )


@dataclass(frozen=True)
class UpstreamTarget:
    """Another server that answers: addresses are ``http://HOST:PORT`` or ``unix:/path``.

    ``pool`` is the one whose servers have these addresses, "" if the table lists them; in the
    table itself such a mount's only address is ``pool:NAME``. ``is_own``: they are
    workers of the gateway, which run apps and get statements from the front workers.
    """

    addresses: tuple[str, ...] = field(
        metadata={
            "why": "Another HTTP/1.1 server, or a list of equivalent ones: each request goes to "
            "the one with the fewest requests in flight. Or `pool:NAME`, a pool that "
            "runs a command.",
            "key": "upstream",
            "reads": "upstream",
        }
    )
    prefix: str = setting(
        "strip",
        "strip: the server gets the path without the mount's prefix, which is forwarded in "
        "X-Forwarded-Prefix. keep: it gets the whole path.",
        choices=("strip", "keep"),
    )
    rewrite: bool = setting(
        False,
        "Whether Location, Content-Location, Refresh and a cookie's Path in its responses are "
        "changed to point below the mount's prefix, for a server that does not know the prefix.",
        reads="boolean",
    )
    cookie_path: str = _cookie_path()
    host: str = setting(
        "keep",
        "The Host that the server gets. keep is the client's own; otherwise a name.",
        reads="upstream host",
    )
    connect_timeout_seconds: float = setting(
        5.0,
        "How long connecting to an address may take before the next one is tried. 504 after the "
        "last one.",
    )
    keep_alive_seconds: float = setting(
        4.0,
        "How long an idle connection to the server is kept open. 0 closes it at once. Keep it "
        "shorter than the server does: Node.js and Uvicorn close idle connections after 5 s, "
        "Gunicorn after 2 s.",
        least=0,
    )
    health: str = setting(
        "",
        "A path of the server, such as /healthz, that each worker requests from each address. "
        "An address that fails twice in a row to answer 2xx or 3xx gets no requests until it "
        "does.",
        reads="health path",
    )
    health_interval_seconds: float = setting(10.0, "The time between two health checks.")
    health_host: str = setting(
        "auto",
        "The Host of health checks. auto is `host`, or the mount's own, or the address.",
        reads="check host",
    )
    health_scheme: str = setting(
        "https",
        "The X-Forwarded-Proto of health checks: https, so that a server that redirects plain "
        "HTTP answers instead of redirecting.",
        choices=("http", "https"),
    )
    sticky: str = setting(
        "off",
        "How a client is sent to the same address each time. cookie: a cookie that the gateway "
        "sets names the address. address: the client's IP address determines it. A client whose "
        "address is down is sent to another one.",
        choices=STICKY,
    )
    pool: str = ""
    is_own: bool = False

    @property
    def scopes_cookies(self) -> bool:
        return self.cookie_path == "prefix" or (self.cookie_path == "auto" and self.pool != "")


@dataclass(frozen=True)
class AsgiTarget:
    """``module:callable`` or ``module:factory()``, under Uvicorn. No mount of a Config has one:
    the parser makes it a pool with a command, and an UpstreamTarget that points to that pool."""

    import_string: str = field(
        metadata={
            "why": "An ASGI application, `module:callable` or `module:factory()`. Short for a "
            "pool that runs Uvicorn, and a mount that forwards to it.",
            "key": "asgi",
            "reads": "import string",
        }
    )
    env: dict[str, str] = field(
        default_factory=dict,
        metadata={"why": "Environment variables of that pool.", "reads": "environment"},
    )
    pool: str = setting(
        "own",
        "The pool of `pools:` whose environment has Uvicorn, for this mount alone. own is a "
        "pool with the packages that are installed beside the gateway.",
        reads="pool name",
    )
    cookie_path: str = _cookie_path()
    health: str = setting(
        "",
        "A path of the app, such as /healthz, that must answer 2xx or 3xx before a new Uvicorn "
        "gets requests. See `upstream`.",
        reads="health path",
    )


Target = Union[AppTarget, StaticTarget, RedirectTarget, UpstreamTarget]


@dataclass(frozen=True)
class Mount:
    """One line of ``mounts:``.

    ``name`` is the normalised key; ``host`` is lower-case ASCII or None for any; ``prefix`` is ""
    for ``/``, else a decoded path that begins with a slash and does not end with one.
    Front workers alone use ``pool``, ``pool_admission``, which all mounts of that pool share, and
    ``takes_in_all``: content of any length is taken in, since the threads or the places behind the
    mount are limited.
    """

    name: str
    host: str | None
    prefix: str
    target: Target
    limits: MountLimits
    where: Where = field(compare=False)
    pool: str = ""
    pool_admission: Admission = field(default_factory=Admission)
    takes_in_all: bool = False

    @property
    def pool_name(self) -> str:
        """The pool that runs it, or whose servers answer."""
        target = self.target
        return (isinstance(target, (AppTarget, UpstreamTarget)) and target.pool) or MAIN


@dataclass(frozen=True)
class Watch:
    """``server.watch:``. ``max_error_rate`` is a share, 0.05 for 5 %."""

    for_seconds: float = setting(
        30.0, "How long new workers are watched after they have taken over."
    )
    max_error_rate: float = setting(
        0.05,
        "The share of responses with a status of 500 or more that is allowed. It is not checked "
        "before 20 requests.",
        reads="percentage",
    )


@dataclass(frozen=True)
class ServerSettings:
    """``server:``. Addresses are ``HOST:PORT``, ``[IPv6]:PORT`` or ``unix:/path``."""

    listen: str = setting(
        "127.0.0.1:8000",
        "Where the gateway accepts requests, normally from nginx.",
        reads="address",
        applies="restart",
    )
    admin: str = setting(
        "127.0.0.1:8001",
        "Where /healthz, /readyz and /status answer. Never make it public.",
        reads="address",
        applies="restart",
    )
    control: str = setting(
        "auto",
        "The Unix socket for `gateway reload`, `status` and `stop`, open to the gateway's own "
        "user alone (mode 0600). auto is a name made from the table's path, in a directory of "
        "that user: $XDG_RUNTIME_DIR/gateway, /run/gateway or /tmp/gateway-UID.",
        reads="control socket",
        applies="restart",
    )
    user: str = setting(
        "",
        "The user (by name) that workers run as: front workers, and those of pools that name no "
        "other. Normally nginx's user. It requires a gateway that runs as root, as pools with a "
        "user do. Without it, workers run as the gateway's own user.",
        reads="user",
        applies="restart",
    )
    group: str = setting(
        "",
        "The group of these workers. Without it, the user's own.",
        reads="group",
        applies="restart",
    )
    pass_env: tuple[str, ...] = setting(
        (),
        "More variables of the gateway's environment to pass to front workers; a pool has its "
        "own list. Without it, they get only PATH, HOME, LANG, TZ and the like.",
        reads="variables",
        applies="new workers",
    )
    workers: int = setting(
        2,
        "Number of worker processes, or auto: one per usable core, at least two.",
        reads="workers",
        most=512,
        applies="new workers",
    )
    trusted_proxies: tuple[Network | str, ...] = setting(
        (),
        "Peers whose X-Forwarded-* and X-Request-ID are trusted: addresses, CIDRs, or users of "
        "a Unix socket. Any process on the same machine or container network can have such an "
        "address; only nginx has nginx's user.",
        reads="networks",
        applies="new workers",
    )
    proxy_protocol: bool = setting(
        False,
        "Whether each connection must begin with a PROXY header, version 1 or 2, and come from "
        "one of trusted_proxies. All others are refused. The address in the header is the "
        "client's; its X-Forwarded-* are trusted if it is itself one of trusted_proxies.",
        reads="boolean",
        applies="new workers",
    )
    access_log: str = setting(
        "auto",
        "One record per request on stdout: json, text or off. auto is text on a terminal, JSON "
        "otherwise.",
        choices=("auto", "json", "text", "off"),
        applies="new workers",
    )
    reload_on_edit: bool = setting(
        True,
        "Whether saving the table reloads it. Without it, only `gateway reload` and SIGHUP do.",
        reads="boolean",
        applies="in place",
    )
    environments: str = setting(
        ".gateway/environments",
        "Where the environments of pools with requirements are built and kept, with their "
        "downloads. Several gateways may share it; what none of them uses any more is removed. "
        "Pools of other users have their own directory in it.",
        reads="place",
        applies="in place",
    )
    keep_previous_seconds: float = setting(
        30.0,
        "How long the workers that a reload has replaced stay loaded, so that a rollback takes "
        "no time. They use memory for as long.",
        least=0,
        applies="in place",
    )
    try_asleep: bool = setting(
        True,
        "Whether a reload starts one worker of each sleeping pool to check that its new code "
        "and settings load, and stops it again. Without it, the next request is the first to "
        "find out.",
        reads="boolean",
        applies="in place",
    )
    watch: Watch | None = field(
        default=None,
        metadata={
            "why": "Watch new workers: if too many of their responses are server errors, and "
            "more than before, the gateway rolls back by itself. Without this key it "
            "does not.",
            "section": Watch,
            "applies": "in place",
        },
    )
    limits: Limits = field(default_factory=Limits)
    pool_limits: PoolLimits = field(default_factory=PoolLimits)
    # whether only front workers can connect, so that their statements are trusted
    is_behind_front: bool = field(default=False, metadata={"applies": "new workers"})


@dataclass(frozen=True)
class Workers:
    """``workers:`` of a pool."""

    min: int = setting(1, "Minimum number of workers.", reads="workers", most=512)
    max: int = setting(
        0,
        "Maximum number of workers. Another one starts when all have had ten requests in flight "
        "for 5 s (with native threads: one in each thread), and stops after a minute in which "
        "it was not needed. 0 is the same as min.",
        least=0,
        most=512,
    )


@dataclass(frozen=True)
class PoolSettings:
    """One of ``pools:``: separate workers for the mounts that name it. ``name`` is its key, or the
    mount's for ``pool: own``."""

    name: str = field(metadata={"applies": "new workers"})
    where: Where = field(default=Where(line=1, column=1), compare=False)
    workers: Workers = field(
        default=Workers(),
        metadata={
            "why": "Number of worker processes, or a mapping with more settings.",
            "section": Workers,
            "short": "min",
            "applies": "new workers",
        },
    )
    command: str = setting(
        "",
        "A server of another kind, instead of workers that run apps: a command line, split into "
        "words as a shell does. It must listen on `{socket}`, the path of a Unix socket, or on "
        "`{port}` of 127.0.0.1, which the gateway chooses for each process. Mount it with "
        "`upstream: pool:NAME`. It runs in `directory`, or in the table's directory, with its "
        "environment's programs first on PATH.",
        reads="command",
        applies="new workers",
    )
    directory: Path | None = setting(  # noqa: RUF009
        None,
        "Where apps are imported from, and the working directory of the workers. Without it, "
        "apps are imported from the table's directory, and workers run in the gateway's own.",
        reads="folder",
        applies="new workers",
    )
    python: str = setting(
        "",
        "The Python that runs the workers, 3.9 or newer: a path, or a version such as 3.12. "
        "Without it, the gateway's own.",
        reads="python",
        applies="new workers",
    )
    venv: Path | None = setting(  # noqa: RUF009
        None,
        "A virtual environment that has the apps' packages.",
        reads="virtual environment",
        applies="new workers",
    )
    requirements: Path | None = setting(  # noqa: RUF009
        None,
        "A file that lists the apps' packages (requirements.txt, pyproject.toml, or a lock "
        "file). The gateway builds an environment from it, and again when it changes.",
        reads="file",
        applies="new workers",
    )
    concurrency: str = setting(
        "greenlets",
        "greenlets: any number of requests at a time; one that waits for a socket lets others "
        "run. threads: for code that blocks, such as database drivers written in C. `threads` "
        "requests run at a time, and nothing is monkey-patched.",
        choices=("greenlets", "threads"),
        applies="new workers",
    )
    threads: int = setting(
        8,
        "Maximum number of threads that run apps at a time in a worker. A thread that waits for "
        "a slow client does not count while other requests wait; up to 64 more are started "
        "then.",
        most=1024,
        applies="new workers",
    )
    env: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "why": "Environment variables of the workers, in addition to those of its mounts.",
            "reads": "environment",
            "applies": "new workers",
        },
    )
    env_file: Path | None = setting(  # noqa: RUF009
        None,
        "A file with more environment variables, NAME=value on each line, as in Compose.",
        reads="file",
        applies="new workers",
    )
    # what the file contained when the table was read, so that all workers get the same
    env_file_variables: tuple[tuple[str, str], ...] = field(
        default=(), metadata={"key": "env_file", "applies": "new workers"}, repr=False
    )
    # the numbers of its lines that are neither variables nor comments
    env_file_strays: tuple[int, ...] = field(default=(), compare=False)
    pass_env: tuple[str, ...] = setting(
        (),
        "More variables of the gateway's environment to pass to the workers. Without it, they "
        "get only PATH, HOME, LANG, TZ and the like.",
        reads="variables",
        applies="new workers",
    )
    user: str = setting(
        "",
        "The user (by name) that the workers run as. It requires a gateway that runs as root. "
        "Without it, server.user.",
        reads="user",
        applies="new workers",
    )
    group: str = setting(
        "",
        "The group of the workers. Without it, the user's own.",
        reads="group",
        applies="new workers",
    )
    nice: int = setting(
        0,
        "How far the workers yield to other processes, as with nice(1).",
        least=0,
        most=19,
        applies="new workers",
    )
    idle_seconds: float = setting(
        0.0,
        "Stop the workers after this long without a request. The next request starts them again "
        "and waits. 0 is never.",
        least=0,
        applies="in place",
    )
    sticky: str = setting(
        "off",
        "How a client is sent to the same worker each time, for apps that keep sessions in "
        "memory, as Socket.IO does. cookie: a cookie that the gateway sets names the worker. "
        "address: the client's IP address determines it. A client whose worker has left gets "
        "another one.",
        choices=STICKY,
        applies="new workers",
    )
    limits: PoolLimits = field(default_factory=PoolLimits)
    admission: Admission = field(default_factory=Admission)


@dataclass(frozen=True)
class Config:
    """A whole valid table, or what one pool's workers need of it: ``pool``.

    ``directory`` is its own, absolute; apps are imported from there.

    ``is_dev`` and ``is_live`` come from the command line alone: a table is used in production, too.
    ``unused_pools`` are those that no mount names.
    """

    source: str
    directory: Path
    server: ServerSettings
    mounts: tuple[Mount, ...]
    pools: tuple[PoolSettings, ...] = ()
    pool: PoolSettings = PoolSettings(name=MAIN)
    # the other files that were read: secrets, and variables of pools
    files: tuple[str, ...] = field(default=(), compare=False)
    is_dev: bool = False
    is_live: bool = False
    unused_pools: tuple[PoolSettings, ...] = field(default=(), compare=False)
