"""The table, cut into what each pool's workers need of it.

A pure function of a Config; refuses to know processes. The front workers have every mount: those of
other pools as upstream mounts on the pools' sockets.
"""

from collections.abc import Callable
from dataclasses import replace

from gateway.config.model import AppTarget, Config, Mount, Pool, Server, UpstreamTarget

FindAddresses = Callable[[str], tuple[str, ...]]


def cut(
    config: Config, find_socket: Callable[[str], str], find_addresses: FindAddresses
) -> dict[str, Config]:
    """What each pool is to serve, by its name. ``find_socket`` gives the path of its socket, or
    ``find_addresses`` those of the servers that it runs."""
    slices = {
        pool.name: replace(
            config,
            directory=pool.directory or config.directory,
            server=_server_of(config.server, pool, find_socket(pool.name)),
            mounts=tuple(mount for mount in config.mounts if _pool_of(mount) == pool.name),
            pools=(),
            pool=pool,
        )
        for pool in config.pools
    }
    front = tuple(_as_seen_in_front(mount, slices, find_socket) for mount in config.mounts)
    return slices | {"main": redirect(replace(config, mounts=front, pools=()), find_addresses)}


def redirect(config: Config, find_addresses: FindAddresses) -> Config:
    """What the front workers are to serve, with the servers of pools where they are now; the same
    object where nothing changes."""
    mounts = tuple(
        replace(mount, target=replace(mount.target, addresses=find_addresses(mount.target.pool)))
        if isinstance(mount.target, UpstreamTarget) and mount.target.pool
        else mount
        for mount in config.mounts
    )
    return config if mounts == config.mounts else replace(config, mounts=mounts)


def _pool_of(mount: Mount) -> str:
    target = mount.target
    return (isinstance(target, AppTarget | UpstreamTarget) and target.pool) or "main"


def _server_of(server: Server, pool: Pool, socket_path: str) -> Server:
    """The front workers are believed whatever they say of the client, and write its record."""
    return replace(
        server,
        listen=f"unix:{socket_path}",
        workers=pool.workers,
        trusted_proxies=("unix:",),
        proxy_protocol=False,
        access_log="off",
        pool_limits=pool.limits,
    )


def _as_seen_in_front(
    mount: Mount, slices: dict[str, Config], find_socket: Callable[[str], str]
) -> Mount:
    name = _pool_of(mount)
    if name not in slices or isinstance(mount.target, UpstreamTarget):
        return mount
    own = slices[name]
    # its workers keep a connection for longer; and none is open any more when they fall asleep
    seconds = own.server.limits.keep_alive_seconds / 2
    if own.pool.idle_seconds:
        seconds = min(seconds, own.pool.idle_seconds / 2)
    target = UpstreamTarget(
        addresses=(f"unix:{find_socket(name)}",), prefix="keep", keep_alive_seconds=seconds
    )
    return replace(mount, target=target)
