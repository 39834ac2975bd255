"""Requests of the gateway's own that ask an app or a server whether it is well: their head, and
what to write where they are refused.

Refuses to know who asks. Source: RFC 9110 §7.2 (Host), §15.4 (redirection), §15.5.20 (421).
"""

# a framework that does not know the Host answers one of these
_UNKNOWN_HOST = ("400", "421")


def build_check(path: str, host: str, agent: str, scheme: str) -> bytes:
    """The whole request; ``scheme`` is what the client's is said to be, "" for nothing."""
    said = f"X-Forwarded-Proto: {scheme}\r\n" if scheme else ""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\n{said}"
        "Connection: close\r\n\r\n"
    ).encode("latin-1")


def advise(status: str, host: str, scheme: str, keys: str) -> str:
    """What the table may have to say, after an answer of ``status``: "" for nothing. ``keys`` has a
    place for a host and a scheme, such as ``health_{}``."""
    if status[:3] in _UNKNOWN_HOST:
        return f" (asked with Host: {host}; for another one: {keys.format('host')})"
    if status[:1] == "3":
        return f" (asked with the scheme {scheme}; for the other one: {keys.format('scheme')})"
    return ""
