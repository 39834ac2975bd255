"""The taxonomy of what can go wrong: the class says whose fault it is, and that decides the rest.

Knows nothing of the rest of the package.
"""


class GatewayError(Exception):
    """Never raised itself."""


class ConfigError(GatewayError):
    """The operator's, before start: the table is wrong. Exit code 2.

    ``problems`` are complete lines, each ``file:line:column: key.path: what and how to mend it``.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class AppLoadError(GatewayError):
    """The operator's, while starting: a mount's app could not be had. Exit code 3.

    Raised ``from`` the app's own exception where there is one.
    """


class BuildError(GatewayError):
    """The operator's: a pool's Python or its environment could not be had. Exit code 3.

    Says what and why, in the installer's words where it has any; the place in the table is added by
    whoever knows it.
    """


class MalformedMessage(GatewayError):
    """The sender's, a client or a server: what was read is no HTTP, or could be read in two ways.

    Says what is wrong, and perhaps in which text. Whoever reads raises an error of that side.
    """

    def __str__(self) -> str:
        what, *text = self.args
        return ": ".join([what, *map(repr, text)])


class UnknownCoding(MalformedMessage):
    """RFC 9112 §6.1: a transfer coding other than ``chunked``."""


class RequestError(GatewayError):
    """The client's: the request is refused with ``status``, and the connection closed."""

    status = "400 Bad Request"


class MalformedRequest(RequestError):
    """RFC 9112 §2.2, §3, §5, §6: the bytes are no request, or could be read as two."""


class UntrustedPeer(RequestError):
    """RFC 9110 §15.5.4: the listener is for trusted proxies, and the peer is none."""

    status = "403 Forbidden"


class RequestTimeout(RequestError):
    """RFC 9110 §15.5.9: the client took too long to send what it had begun."""

    status = "408 Request Timeout"


class ContentTooLarge(RequestError):
    """RFC 9110 §15.5.14."""

    status = "413 Content Too Large"


class UriTooLong(RequestError):
    """RFC 9110 §15.5.15."""

    status = "414 URI Too Long"


class ExpectationFailed(RequestError):
    """RFC 9110 §10.1.1: only ``100-continue`` is known."""

    status = "417 Expectation Failed"


class HeaderFieldsTooLarge(RequestError):
    """RFC 6585 §5."""

    status = "431 Request Header Fields Too Large"


class NotImplementedMethod(RequestError):
    """RFC 9110 §9.1: a method this server does not know."""

    status = "501 Not Implemented"


class UnsupportedTransferCoding(RequestError):
    """RFC 9112 §6.1: a transfer coding other than ``chunked``."""

    status = "501 Not Implemented"


class VersionNotSupported(RequestError):
    """RFC 9110 §15.6.6."""

    status = "505 HTTP Version Not Supported"


class AppError(GatewayError):
    """The app's: it broke PEP 3333. 500 if no byte went out, else the connection is closed."""


class ClientDisconnected(GatewayError, OSError):
    """Nobody's: the client left, or left its response unread too long.

    An ``OSError``, since apps that stream expect one from a write that fails.
    """
