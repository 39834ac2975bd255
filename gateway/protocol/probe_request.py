"""The requests of probes and health checks, and advice for the table if they are refused.

Source: RFC 9110 §7.2 (Host), §15.4 (redirection), §15.5.20 (421).
"""

# responses of frameworks that do not accept the Host
_UNKNOWN_HOST = ("400", "421")


def build_probe_request(path: str, host: str, agent: str, scheme: str) -> bytes:
    """The complete request; ``scheme`` is that of X-Forwarded-Proto, "" for no such field."""
    forwarded = f"X-Forwarded-Proto: {scheme}\r\n" if scheme else ""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\n{forwarded}"
        "Connection: close\r\n\r\n"
    ).encode("latin-1")


def advise(status: str, host: str, scheme: str, keys: str) -> str:
    """Which key of the table may help after a response of ``status``; "" for none. ``keys`` is a
    format string for its name, such as ``health_{}``."""
    if status[:3] in _UNKNOWN_HOST:
        return f" (asked with Host: {host}; for another one: {keys.format('host')})"
    if status[:1] == "3":
        return f" (asked with the scheme {scheme}; for the other one: {keys.format('scheme')})"
    return ""
