"""A mount's key: text to host and prefix.

Does not know what is mounted. Source: RFC 3986 §3.3 (paths) and §5.2.4 (dot segments),
RFC 1123 §2.1 (host names), RFC 3490 (international names).
"""

import re
from dataclasses import dataclass

from gateway.config.text.problems import BadValueError
from gateway.config.values.addresses import is_host_name

# Not the grammar itself, which allows names outside ASCII: what an editor should underline.
MOUNT_KEY_PATTERN = r"[^\s/?#%\\*:]*/[^\s?#%\\*<>{}^]*"


@dataclass(frozen=True, slots=True)
class MountKey:
    """``host`` is lower-case ASCII or None for any; ``prefix`` is "" for the root, else begins
    with a slash and does not end with one."""

    host: str | None
    prefix: str

    @property
    def name(self) -> str:
        """The key in its normal form."""
        return (self.host or "") + self.prefix if self.prefix else f"{self.host or ''}/"


def parse_mount_key(text: str) -> MountKey:
    """Raises BadValueError."""
    if "${" in text:
        raise BadValueError("only values are interpolated, keys are not")
    if found := re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        raise BadValueError(f'leave out "{found[0]}"')
    host, slash, path = text.partition("/")
    if not slash:
        raise BadValueError(f'write "{text}/"' if "." in text else f'write "/{text}"')
    _check_path(slash + path)
    return MountKey(_parse_host(host) if host else None, "/" + path.strip("/") if path else "")


def _parse_host(host: str) -> str:
    name = host.lower()
    if not name.isascii():
        try:
            name = name.encode("idna").decode()
        except UnicodeError:
            raise BadValueError(
                "the host is not a valid international name: write it as xn--…"
            ) from None
    if is_host_name(name):
        return name
    if "*" in name:
        hint = "a host is literal text: name each one"
    elif re.search(r":[0-9]*$|^\[", name):
        hint = "a host is a name or an IPv4 address, without a port"
    elif name.endswith("."):
        hint = "leave out the dot at its end"
    else:
        hint = "a host has letters, digits, dashes and dots alone"
    raise BadValueError(hint)


def _check_path(path: str) -> None:
    for pattern, hint in _PATH_MISTAKES:
        if re.search(pattern, path):
            raise BadValueError(hint)


_PATH_MISTAKES = (
    (r"\*$", 'a prefix is everything below it already: leave out the "*"'),
    (r"[*<>{}^]", "a prefix is literal text, not a pattern"),
    (r"\?", "leave out the query"),
    ("#", 'leave out the "#" and what follows'),
    ("%", "write it decoded: a letter instead of its %XX"),
    (r"[\s\x00-\x20\x7f]", "no spaces and no control characters"),
    (r"\\", "write slashes"),
    ("//", "one slash, not two"),
    (r"/\.\.?(/|$)", 'no "." or ".." segments: requests are matched after they are resolved'),
)
