"""Redirects that lead back to themselves.

Of dispatch it knows only the rule: host before path, longest prefix on segment boundaries. Source:
RFC 9110 §15.4 (a client should detect cyclical redirections).
"""

from collections.abc import Iterable, Iterator

from gateway.config.model import Mount, RedirectTarget

MAX_HOPS = 20  # browsers give up then

_Table = dict[tuple[str | None, str], Mount]


def find_loops(mounts: Iterable[Mount]) -> Iterator[tuple[Mount, list[str]]]:
    """Each redirect whose own address leads back to it, with the names it passes on the way."""
    table = {(mount.host, mount.prefix): mount for mount in mounts}
    for mount in table.values():
        names = _followed(table, mount)
        if len(names) > 1 and names[-1] == mount.name:
            yield mount, names


def _followed(table: _Table, start: Mount) -> list[str]:
    """The names of the mounts that a client is led through, until it meets the first again."""
    names = [start.name]
    mount, rest = start, ""
    while isinstance(mount.target, RedirectTarget) and mount.target.location.startswith("/"):
        path = mount.target.location.removesuffix("/") + rest
        found = _match(table, start.host, path)
        if found is None or len(names) > MAX_HOPS:
            break
        names.append(found.name)
        if found is start:
            break
        mount, rest = found, path.removeprefix(found.prefix)
    return names


def _match(table: _Table, host: str | None, path: str) -> Mount | None:
    for one in dict.fromkeys((host, None)):
        prefix = path
        while True:
            if found := table.get((one, prefix)):
                return found
            if not prefix:
                break
            prefix = prefix.rpartition("/")[0]
    return None
