"""Finds the mount for a host and a path, and splits SCRIPT_NAME from PATH_INFO.

A path means the same here and at the next hop: its segments, each as the client encoded it. They
are decoded to find the mount, and forwarded unchanged. Source: PEP 3333 (environ variables), RFC
3986 §3.3, §5.2.4 and §6.2.2 (dot segments, percent-encoding).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from gateway.errors import MalformedRequest
from gateway.inflight import encode_mount
from gateway.limits import MountLimits
from gateway.wsgi import WSGIApp

# Stands for an encoded slash while a path is matched; no latin-1 string holds it.
ENCODED_SLASH = "\u2215"

# RFC 3986 §3.3: what a path may hold as it is. The rest is encoded before it is passed on: some
# servers take a backslash for a slash.
PATH_SAFE = "/:@!$&'()*+,;="

# RFC 3986 §2.1; and a NUL would end the name of a file early. nginx refuses both.
_BAD_ESCAPE = re.compile(r"%(?:00|(?![0-9A-Fa-f]{2}))")
# most paths: of characters that stand for themselves
_PLAIN = re.compile(f"[A-Za-z0-9._~{re.escape(PATH_SAFE)}-]*", re.ASCII)


class LoadedMount:
    """A mount of the table, with its app: what requests are dispatched to.

    ``app`` is what they call; ``bare_app`` is what was loaded, without what wraps it.

    ``host`` is lower-case or None for any host; ``prefix`` is "" for the root, else a decoded path
    that begins with a slash and does not end with one. ``script_name`` is the prefix as PEP 3333
    wants it: the latin-1 reading of its UTF-8 bytes. ``scopes_cookies`` is whether cookies for the
    whole host are for what is below the prefix alone. ``reads_content`` is whether it may read a
    request's, ``buffers_content`` whether that is taken in before, and ``takes_in_all`` whether
    however long it is. ``place`` begins what is written of its requests in flight.
    """

    __slots__ = (
        *("app", "bare_app", "host", "kind", "limits", "name", "place", "prefix"),
        *("scopes_cookies", "script_name"),
        *("buffers_content", "reads_content", "takes_in_all"),
        "timeout_seconds",  # that of ``limits``, once more, for the walk of every request
    )

    def __init__(
        self,
        *,
        name: str,
        host: str | None,
        prefix: str,
        app: WSGIApp,
        limits: MountLimits,
        kind: str = "app",
        scopes_cookies: bool = False,
        takes_in_all: bool = False,
    ) -> None:
        self.name = name
        self.place = encode_mount(name)
        self.host = host
        self.prefix = prefix
        self.script_name = prefix.encode().decode("latin-1")
        self.app = app
        self.bare_app: Any = app
        self.limits = limits
        self.timeout_seconds = limits.timeout_seconds
        self.kind = kind
        self.scopes_cookies = scopes_cookies
        self.reads_content = kind in ("app", "upstream")
        self.buffers_content = limits.request_buffering == "on"
        self.takes_in_all = takes_in_all


class Match(NamedTuple):
    """A mount, and what of a path is below it: decoded (PEP 3333's PATH_INFO), and as a URL has it,
    with every escape of the client's, so that an encoded slash stays one."""

    mount: LoadedMount
    path_info: str
    raw_path_info: str


class PrefixTable:
    """The mounts of one host. A look-up costs as many dict probes as the deepest prefix has
    segments, however many mounts there are."""

    __slots__ = ("_depth", "_mounts", "_root")

    def __init__(self, mounts: Iterable[LoadedMount]) -> None:
        self._mounts = {mount.script_name: mount for mount in mounts}
        self._root = self._mounts.pop("", None)
        self._depth = max((prefix.count("/") for prefix in self._mounts), default=0)

    def longest(self, path: str) -> LoadedMount | None:
        """The mount with the longest prefix of ``path`` that ends at a segment boundary."""
        end = 0
        for _ in range(self._depth):
            end = path.find("/", end + 1)
            if end < 0:
                break
        prefix = path if end < 0 else path[:end]
        while prefix:
            mount = self._mounts.get(prefix)
            if mount is not None:
                return mount
            prefix = prefix[: prefix.rfind("/")]
        # RFC 9110 §9.3.7: * is the server in general, so no mount's
        return self._root if path[:1] == "/" else None


class MountTable:
    """All mounts, decided at start-up; a request only looks up."""

    __slots__ = ("_any_host", "_by_name", "_hosts", "mounts")

    def __init__(self, mounts: Iterable[LoadedMount]) -> None:
        self.mounts = tuple(mounts)
        by_host: dict[str | None, list[LoadedMount]] = {}
        for mount in self.mounts:
            by_host.setdefault(mount.host, []).append(mount)
        self._any_host = PrefixTable(by_host.pop(None, []))
        self._by_name = {mount.name: mount for mount in self.mounts}
        self._hosts = {host: PrefixTable(group) for host, group in by_host.items() if host}

    def match(self, host: str, raw_path: str) -> Match | None:
        """The mount for a lower-case ``host`` without port and a path as the client sent it; None
        if nothing is mounted there.

        A named host's own mounts come first, then those of any host. Raises MalformedRequest.
        """
        path, resolved = resolve_path(raw_path)
        mount = None
        if self._hosts and host in self._hosts:
            mount = self._hosts[host].longest(path)
        if mount is None:
            mount = self._any_host.longest(path)
            if mount is None:
                return None
        return _split(mount, path, resolved)

    def find(self, name: str, raw_path: str) -> Match | None:
        """The mount ``name``, where somebody else has matched the path; None where there is none.
        Raises MalformedRequest."""
        mount = self._by_name.get(name)
        if mount is None:
            return None
        path, resolved = resolve_path(raw_path)
        return _split(mount, path, resolved)


def _split(mount: LoadedMount, path: str, raw_path: str) -> Match:
    """What is below ``mount`` of a path that ``resolve_path`` has given."""
    path_info = path[len(mount.script_name) :]
    if path is raw_path:  # nothing in it is encoded
        return Match(mount, path_info, path_info)
    path_info = path_info.replace(ENCODED_SLASH, "/")
    # its prefix has as many segments in both: an encoded slash never separates two
    below = raw_path.split("/")[mount.script_name.count("/") + 1 :]
    return Match(mount, path_info, "".join([f"/{segment}" for segment in below]))


def resolve_path(raw_path: str) -> tuple[str, str]:
    """A path with its dot segments resolved, twice: percent-decoded (latin-1 of its bytes), where
    encoded slashes stand as ``ENCODED_SLASH``, since they are data and never a separator; and as a
    URL has it, where what the client encoded stays so, and what may not stand bare is encoded.

    Segments are decoded before they are looked at: ``%2e%2e`` is ``..`` (RFC 3986 §6.2.2.2,
    unreserved characters). Raises MalformedRequest.
    """
    if _PLAIN.fullmatch(raw_path) and "/." not in raw_path:
        return raw_path, raw_path
    if _BAD_ESCAPE.search(raw_path):
        raise MalformedRequest("path has %00, or a % without two hexadecimal digits")
    raw_path = quote(raw_path.encode("latin-1"), safe=PATH_SAFE + "%")
    if "%" not in raw_path and "/." not in raw_path:
        return raw_path, raw_path
    segments: list[tuple[str, str]] = []
    decoded = ""
    for raw in raw_path.split("/")[1:]:
        decoded = _decode(raw)
        if decoded == "..":
            del segments[-1:]
        elif decoded != ".":
            segments.append((decoded, raw))
    if decoded in (".", ".."):
        segments.append(("", ""))  # RFC 3986 §5.2.4: /a/b/.. is /a/
    path, raw_path = ("/" + "/".join(texts) for texts in zip(*segments))
    return path, raw_path


def _decode(segment: str) -> str:
    # RFC 3986 §2.1: the digits A to F are case-insensitive, so %2f is %2F
    pieces = segment.replace("%2f", "%2F").split("%2F")
    return ENCODED_SLASH.join(
        unquote_to_bytes(piece.encode("latin-1")).decode("latin-1") for piece in pieces
    )
