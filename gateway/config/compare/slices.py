"""The table, cut into what each pool's workers need of it.

A pure function of a Config; does not know processes. The front workers have every mount, those of
other pools as upstream mounts on the pools' sockets. Which settings of a mount belong to the front
workers, and which to the pool's, is marked on the fields (``limits.setting``). So the front workers
alone limit how many requests run and wait: no request waits twice. They also take content in before
a pool's threads get it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from gateway.config.model import MAIN, Config, Mount, PoolSettings, ServerSettings, UpstreamTarget
from gateway.limits import Admission, Limits, fields_marked

Limits_ = TypeVar("Limits_", bound=Admission)

FindAddresses = Callable[[str], tuple[str, ...]]


def cut(
    config: Config, find_socket: Callable[[str], str], find_addresses: FindAddresses
) -> dict[str, Config]:
    """The Config of each pool, by its name. ``find_socket`` returns the path of a pool's socket,
    ``find_addresses`` the addresses of the servers that it runs."""
    slices = {
        pool.name: replace(
            config,
            directory=pool.directory or config.directory,
            server=_server_of(config.server, pool, find_socket(pool.name)),
            mounts=tuple(_as_seen_in_pool(m) for m in config.mounts if m.pool_name == pool.name),
            pools=(),
            unused_pools=(),
            files=(),  # no worker needs to know whose secrets are where
            pool=replace(
                _complete(pool, config.server), admission=_without(pool.admission, "front")
            ),
        )
        for pool in config.pools
    }
    pools = {pool.name: pool for pool in config.pools}
    front = tuple(_as_seen_in_front(mount, config, pools, find_socket) for mount in config.mounts)
    main = _complete(config.pool, config.server)
    server = replace(config.server, pass_env=())  # which ``main`` has
    front_config = replace(
        config, server=server, mounts=front, pools=(), unused_pools=(), pool=main, files=()
    )
    return slices | {MAIN: redirect(front_config, find_addresses)}


def redirect(config: Config, find_addresses: FindAddresses) -> Config:
    """The front workers' Config, with the current addresses of pools' servers; the same object if
    nothing changes."""
    mounts = tuple(
        replace(mount, target=replace(mount.target, addresses=find_addresses(mount.target.pool)))
        if isinstance(mount.target, UpstreamTarget) and mount.target.pool
        else mount
        for mount in config.mounts
    )
    return config if mounts == config.mounts else replace(config, mounts=mounts)


def _server_of(server: ServerSettings, pool: PoolSettings, socket_path: str) -> ServerSettings:
    """Front workers are trusted in all that they state about a request, and write its record."""
    return replace(
        server,
        listen=f"unix:{socket_path}",
        workers=pool.workers.min,
        pass_env=(),
        trusted_proxies=(),
        is_behind_front=True,
        proxy_protocol=False,
        access_log="off",
        pool_limits=pool.limits,
        limits=_with_room(server.limits),
    )


def _with_room(limits: Limits) -> Limits:
    """For what the front workers state of a request whose head was within the limits."""
    return replace(limits, max_head_bytes=4 * limits.max_head_bytes)


def _complete(pool: PoolSettings, server: ServerSettings) -> PoolSettings:
    """The pool with the server's user if it has none, the server's group if it has neither, and for
    front workers the variables that the server passes on."""
    group = pool.group if pool.user or pool.group else server.group
    pass_env = server.pass_env if pool.name == MAIN else pool.pass_env
    return replace(pool, user=pool.user or server.user, group=group, pass_env=pass_env)


def _without(limits: Limits_, where: str) -> Limits_:
    """``limits`` as others see them: the defaults for what only those of ``where`` apply."""
    defaults = type(limits)()
    names = fields_marked(type(limits), "where", where)
    return replace(limits, **{name: getattr(defaults, name) for name in names})


def _as_seen_in_pool(mount: Mount) -> Mount:
    return replace(mount, limits=_without(mount.limits, "front"))


def _as_seen_in_front(
    mount: Mount, config: Config, pools: dict[str, PoolSettings], find_socket: Callable[[str], str]
) -> Mount:
    name = mount.pool_name
    if name not in pools:
        return replace(mount, takes_in_all=bool(mount.limits.max_concurrency))
    pool = pools[name]
    is_scarce = pool.concurrency == "threads" or pool.admission.max_concurrency
    takes_in_all = bool(is_scarce or mount.limits.max_concurrency)
    mount = replace(
        mount,
        limits=_without(mount.limits, "pool"),
        pool=name,
        pool_admission=pool.admission,
        takes_in_all=takes_in_all,
    )
    if isinstance(mount.target, UpstreamTarget):
        sticky = pool.sticky if mount.target.sticky == "off" else mount.target.sticky
        target = replace(mount.target, sticky=sticky)
        return replace(mount, target=target)
    # its workers keep connections open longer, and all are closed before the workers stop for idle
    seconds = config.server.limits.keep_alive_seconds / 2
    if pool.idle_seconds:
        seconds = min(seconds, pool.idle_seconds / 2)
    # sticky workers have an address each: see ``redirect``
    is_sticky = pool.sticky != "off"
    target = UpstreamTarget(
        addresses=() if is_sticky else (f"unix:{find_socket(name)}",),
        prefix="keep",
        keep_alive_seconds=seconds,
        sticky=pool.sticky,
        pool=name if is_sticky else "",
        is_own=True,
    )
    return replace(mount, target=target)
