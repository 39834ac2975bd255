"""The table as frozen values. Owns what can be said in it; knows neither YAML nor how it is run.

The values travel pickled to workers that may run another Python: no slots, which some versions
cannot have and others pickle in a way of their own.
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
    """A path that was pickled: Python 3.13 gives the class a name that no other version knows."""
    return Path(text)


def _cookie_path() -> Any:
    return setting(
        "auto",
        "What becomes of cookies for the whole host (Path=/). prefix: they are for the mount's "
        "prefix alone, so that two apps that both have a session cookie do not log each other "
        "out. keep: they stay, for an app that signs in for others. auto is prefix for apps and "
        "`pool:NAME`, keep for other servers.",
        choices=("auto", "prefix", "keep"),
        applies="in place",
    )


@dataclass(frozen=True)
class Where:
    """A place in the table, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class ProbeSettings:
    """``probe:`` of a mount: what to ask an app for, and what it has to answer."""

    path: str = field(
        metadata={
            "why": "What is asked for, by GET: a path below the mount's own, with a query or not.",
            "reads": "probe path",
        }
    )
    status: int = setting(
        0, "The status that tells of health; 0 is any 2xx or 3xx.", least=0, most=599
    )
    contains: str = setting("", "Text that the body has to have in it.", reads="text")
    within_seconds: float = setting(
        0.0, "How soon the answer has to be there; 0 is the mount's timeout.", least=0
    )
    host: str = setting(
        "auto",
        "The Host that it is asked for: auto is the mount's own, or localhost where it has none.",
        reads="check host",
    )
    scheme: str = setting(
        "https",
        "What wsgi.url_scheme says: with https an app that redirects to it is asked itself.",
        choices=("http", "https"),
    )


@dataclass(frozen=True)
class AppTarget:
    """``module:callable`` or ``module:factory()``; the part behind the colon may be dotted."""

    import_string: str = field(
        metadata={
            "why": "A WSGI application, `module:callable` or `module:factory()`; the callable may "
            "be dotted. It is imported with the table's directory first on the path.",
            "key": "app",
            "reads": "import string",
            "applies": "new workers",
        }
    )
    env: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "why": "Environment variables, set before the app is imported. The mounts share one "
            "process environment, so two mounts may not give one variable different values.",
            "reads": "environment",
            "applies": "new workers",
        },
    )
    pool: str = setting(
        "main",
        "The pool of workers that run it: one of `pools:`, or own, which is one for this mount "
        "alone. main is the front workers' own, which run all other mounts together.",
        reads="pool name",
        applies="new workers",
    )
    probe: ProbeSettings | None = field(
        default=None,
        metadata={
            "why": "A path below the mount's own, such as /healthz, for which new workers are "
            "asked before they accept, or a mapping that says more. An app that is not well fails "
            "a reload; at a start it is logged.",
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


@dataclass(frozen=True)
class UpstreamTarget:
    """Another server that answers: addresses are ``http://HOST:PORT`` or ``unix:/path``.

    ``pool`` is the one whose servers have these addresses, "" where the table has them; in the
    table itself such a mount's only address is ``pool:NAME``. ``is_own``: they are workers of the
    gateway's own, which run apps and are told what the front workers have decided.
    """

    addresses: tuple[str, ...] = field(
        metadata={
            "why": "Another HTTP/1.1 server that answers, or a list of some that answer alike: "
            "each request goes to the one with the fewest in flight. Or `pool:NAME`, a pool that "
            "runs a command.",
            "key": "upstream",
            "reads": "upstream",
        }
    )
    prefix: str = setting(
        "strip",
        "strip: the server is asked for what follows the mount's prefix, which it is told in "
        "X-Forwarded-Prefix. keep: it is asked for the whole path.",
        choices=("strip", "keep"),
    )
    rewrite: bool = setting(
        False,
        "Whether Location, Content-Location, Refresh and a cookie's Path in its answers are "
        "changed to lead below the mount's prefix, for a server that knows nothing of it.",
        reads="boolean",
    )
    cookie_path: str = _cookie_path()
    host: str = setting(
        "keep",
        "The Host that the server is asked for: keep is the client's own, else a name.",
        reads="upstream host",
    )
    connect_timeout_seconds: float = setting(
        5.0,
        "How long connecting to an address may take before the next one is tried; 504 after the "
        "last.",
    )
    keep_alive_seconds: float = setting(
        4.0,
        "How long an idle connection to the server is kept; 0 for not at all. Shorter than the "
        "server keeps it: Node.js and Uvicorn close it after 5 s, Gunicorn after 2 s.",
        least=0,
    )
    health: str = setting(
        "",
        "A path of the server, such as /healthz, that each worker asks each address for. One that "
        "twice in a row does not answer 2xx or 3xx is left out until it does.",
        reads="health path",
    )
    health_interval_seconds: float = setting(10.0, "Between two of these questions.")
    health_host: str = setting(
        "auto",
        "The Host of these questions: auto is `host`, else the mount's own, else the address.",
        reads="check host",
    )
    health_scheme: str = setting(
        "https",
        "What X-Forwarded-Proto says in them: a server that believes it and redirects to https is "
        "asked itself.",
        choices=("http", "https"),
    )
    sticky: str = setting(
        "off",
        "Which of several addresses a client is sent to again: cookie is the one that a cookie of "
        "the gateway's names, address the one that the client's IP address leads to. A client "
        "whose address is down is sent to another.",
        choices=STICKY,
    )
    pool: str = ""
    is_own: bool = False

    @property
    def scopes_cookies(self) -> bool:
        return self.cookie_path == "prefix" or (self.cookie_path == "auto" and self.pool != "")


@dataclass(frozen=True)
class AsgiTarget:
    """``module:callable`` or ``module:factory()``, under Uvicorn. No mount of a Config has one: it
    has become a pool with a command, and an UpstreamTarget that leads there."""

    import_string: str = field(
        metadata={
            "why": "An ASGI application, `module:callable` or `module:factory()`: short for a pool "
            "that runs Uvicorn, and a mount that leads there.",
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
        "The pool of `pools:` whose environment has Uvicorn, for this mount alone; own is one with "
        "what is installed beside the gateway.",
        reads="pool name",
    )
    cookie_path: str = _cookie_path()
    health: str = setting(
        "",
        "A path of the app, such as /healthz, that has to answer 2xx or 3xx before a new Uvicorn "
        "is asked for anything else; see `upstream`.",
        reads="health path",
    )


Target = Union[AppTarget, StaticTarget, RedirectTarget, UpstreamTarget]


@dataclass(frozen=True)
class Mount:
    """One line of ``mounts:``.

    ``name`` is the normalised key; ``host`` is lower-case ASCII or None for any; ``prefix`` is ""
    for ``/``, else a decoded path that begins with a slash and does not end with one.
    ``pool_admission`` is for front workers: what all mounts of the ``pool`` share; and so is
    ``takes_in_all``: content of any length is taken in, since what it is bound for is scarce.
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

    for_seconds: float = setting(30.0, "How long after the swap.")
    max_error_rate: float = setting(
        0.05,
        "The share of responses with a status of 500 or more that is allowed. It is not looked at "
        "before 20 requests.",
        reads="percentage",
    )


@dataclass(frozen=True)
class ServerSettings:
    """``server:``. Addresses are ``HOST:PORT``, ``[IPv6]:PORT`` or ``unix:/path``."""

    listen: str = setting(
        "127.0.0.1:8000",
        "Where requests arrive, normally from nginx.",
        reads="address",
        applies="restart",
    )
    admin: str = setting(
        "127.0.0.1:8001",
        "Where /healthz, /readyz and /status answer; never to be published.",
        reads="address",
        applies="restart",
    )
    control: str = setting(
        "auto",
        "The Unix socket that `gateway reload`, `status` and `stop` speak to, for the gateway's "
        "own user alone (mode 0600). auto is one named after the table's path, in a directory of "
        "that user: $XDG_RUNTIME_DIR/gateway, /run/gateway or /tmp/gateway-UID.",
        reads="control socket",
        applies="restart",
    )
    user: str = setting(
        "",
        "The user that workers run as, by name, front workers and those of pools that name no "
        "other (nginx's user). The gateway itself has to run as root for that, as it has to for "
        "pools with a user. Without it, the gateway's own.",
        reads="user",
        applies="restart",
    )
    group: str = setting(
        "", "Their group; without it, the user's own.", reads="group", applies="restart"
    )
    pass_env: tuple[str, ...] = setting(
        (),
        "Further variables of the gateway's own environment that front workers get; a pool has its "
        "own list. Without it they get PATH, HOME, LANG, TZ and the like alone.",
        reads="variables",
        applies="new workers",
    )
    workers: int = setting(
        2,
        "Worker processes: a number, or auto for one per usable core, at least two.",
        reads="workers",
        most=512,
        applies="new workers",
    )
    trusted_proxies: tuple[Network | str, ...] = setting(
        (),
        "Peers whose X-Forwarded-* and X-Request-ID are believed: addresses, CIDRs, or, on a Unix "
        "socket, users. Any process on the same machine or container network can have such an "
        "address; only nginx has nginx's user.",
        reads="networks",
        applies="new workers",
    )
    proxy_protocol: bool = setting(
        False,
        "Every connection has to begin with a PROXY header, version 1 or 2, and to come from one "
        "of trusted_proxies; any other is refused. Whom the header names is the client, and its "
        "X-Forwarded-* are believed where it is one of trusted_proxies too.",
        reads="boolean",
        applies="new workers",
    )
    access_log: str = setting(
        "auto",
        "One record a request on stdout: json, text, off, or auto: text on a terminal, JSON "
        "elsewhere.",
        choices=("auto", "json", "text", "off"),
        applies="new workers",
    )
    reload_on_edit: bool = setting(
        True,
        "Whether a save of the table is a reload. Without it, `gateway reload` and SIGHUP are.",
        reads="boolean",
        applies="in place",
    )
    environments: str = setting(
        ".gateway/environments",
        "Where the environments of pools with requirements are built and kept, with what was "
        "downloaded for them. Gateways may share it: what none of them uses any more is removed. "
        "Pools of other users have a part of their own in it.",
        reads="place",
        applies="in place",
    )
    keep_previous_seconds: float = setting(
        30.0,
        "How long the workers that a reload has replaced are kept loaded, so that a rollback is "
        "instant. They cost their memory as long.",
        least=0,
        applies="in place",
    )
    try_asleep: bool = setting(
        True,
        "Whether a reload starts a worker of each pool that sleeps, to see whether its new code "
        "and settings load, and ends it again. Without it, the next request is the first to see.",
        reads="boolean",
        applies="in place",
    )
    watch: Watch | None = field(
        default=None,
        metadata={
            "why": "A watch over new workers: where too many of their responses are server errors, "
            "more than before, the gateway rolls back by itself. Without this key it does not.",
            "section": Watch,
            "applies": "in place",
        },
    )
    limits: Limits = field(default_factory=Limits)
    pool_limits: PoolLimits = field(default_factory=PoolLimits)
    # whether front workers alone can connect, so that what they state is believed
    is_behind_front: bool = field(default=False, metadata={"applies": "new workers"})


@dataclass(frozen=True)
class Workers:
    """``workers:`` of a pool."""

    min: int = setting(1, "How many there are at least.", reads="workers", most=512)
    max: int = setting(
        0,
        "How many there may be: another one joins when all have had ten requests in flight for 5 s "
        "(with native threads, one in each), and leaves when it was not needed for a minute. 0 is "
        "no more than min.",
        least=0,
        most=512,
    )


@dataclass(frozen=True)
class PoolSettings:
    """One of ``pools:``: workers of their own for the mounts that name it. ``name`` is its key, or
    the mount's for an own one."""

    name: str = field(metadata={"applies": "new workers"})
    where: Where = field(default=Where(line=1, column=1), compare=False)
    workers: Workers = field(
        default=Workers(),
        metadata={
            "why": "Worker processes: how many, or a mapping that says more.",
            "section": Workers,
            "short": "min",
            "applies": "new workers",
        },
    )
    command: str = setting(
        "",
        "A server of another make, instead of workers that run apps: a command line, split into "
        "words as a shell does it. It has to listen on `{socket}`, the path of a Unix socket, or "
        "on `{port}` of 127.0.0.1, which the gateway chooses, another one for each process. It is "
        "mounted by `upstream: pool:NAME`, runs in `directory`, or the table's, and finds the "
        "programs of its environment first.",
        reads="command",
        applies="new workers",
    )
    directory: Path | None = setting(  # noqa: RUF009
        None,
        "Where its apps are imported from, and the workers' working directory. Without it, the "
        "table's directory, and the gateway's own.",
        reads="folder",
        applies="new workers",
    )
    python: str = setting(
        "",
        "The Python that runs them, 3.9 or newer: a path, or a version such as 3.12. Without it, "
        "the gateway's own.",
        reads="python",
        applies="new workers",
    )
    venv: Path | None = setting(  # noqa: RUF009
        None,
        "A virtual environment with what its apps need.",
        reads="virtual environment",
        applies="new workers",
    )
    requirements: Path | None = setting(  # noqa: RUF009
        None,
        "A file that says what its apps need (requirements.txt, pyproject.toml, or a lock file): "
        "the gateway builds an environment from it, and again when it changes.",
        reads="file",
        applies="new workers",
    )
    concurrency: str = setting(
        "greenlets",
        "greenlets: any number of requests at a time, and what waits for a socket lets others "
        "run. threads: for code that blocks, such as database drivers in C; `threads` at a time, "
        "and nothing is patched.",
        choices=("greenlets", "threads"),
        applies="new workers",
    )
    threads: int = setting(
        8,
        "How many threads run apps at a time in a worker. One that waits for a slow client does "
        "not count while others wait; up to 64 more are started then.",
        most=1024,
        applies="new workers",
    )
    env: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "why": "Environment variables of its workers, beside those of its mounts.",
            "reads": "environment",
            "applies": "new workers",
        },
    )
    env_file: Path | None = setting(  # noqa: RUF009
        None,
        "A file of further ones, NAME=value a line, as in Compose.",
        reads="file",
        applies="new workers",
    )
    # what the file says: all workers from one reading of the table get the same
    env_file_variables: tuple[tuple[str, str], ...] = field(
        default=(), metadata={"key": "env_file", "applies": "new workers"}, repr=False
    )
    # the numbers of its lines that set nothing and are no comments
    env_file_strays: tuple[int, ...] = field(default=(), compare=False)
    pass_env: tuple[str, ...] = setting(
        (),
        "Further variables of the gateway's own environment that its workers get. Without it they "
        "get PATH, HOME, LANG, TZ and the like alone.",
        reads="variables",
        applies="new workers",
    )
    user: str = setting(
        "",
        "The user that its workers run as, by name. The gateway itself has to run as root for "
        "that. Without it, server.user.",
        reads="user",
        applies="new workers",
    )
    group: str = setting(
        "", "The group; without it, the user's own.", reads="group", applies="new workers"
    )
    nice: int = setting(
        0,
        "How much its workers give way to others, as nice(1) does.",
        least=0,
        most=19,
        applies="new workers",
    )
    idle_seconds: float = setting(
        0.0,
        "How long nobody has to ask for it before its workers are stopped; the next request "
        "starts them again and waits. 0 is for ever.",
        least=0,
        applies="in place",
    )
    sticky: str = setting(
        "off",
        "Which worker a client is sent to again, for apps that keep sessions in their memory, as "
        "Socket.IO does: cookie is the one that a cookie of the gateway's names, address the one "
        "that the client's IP address leads to. A client whose worker has left gets another one.",
        choices=STICKY,
        applies="new workers",
    )
    limits: PoolLimits = field(default_factory=PoolLimits)
    admission: Admission = field(default_factory=Admission)


@dataclass(frozen=True)
class Config:
    """A whole valid table, or what one pool's workers need of it: ``pool``.

    ``directory`` is its own, absolute; apps are imported from there.

    ``is_dev`` and ``is_live`` come from the command line alone: what a table says is for strangers
    too. ``unused_pools`` are those of the table that no mount names.
    """

    source: str
    directory: Path
    server: ServerSettings
    mounts: tuple[Mount, ...]
    pools: tuple[PoolSettings, ...] = ()
    pool: PoolSettings = PoolSettings(name=MAIN)
    # what else the table is made from: the files of secrets and of pools' variables
    files: tuple[str, ...] = field(default=(), compare=False)
    is_dev: bool = False
    is_live: bool = False
    unused_pools: tuple[PoolSettings, ...] = field(default=(), compare=False)
