"""The gateway's exceptions. The class says whose fault it is, which decides how it is handled.

Imports nothing of the package.
"""


class GatewayError(Exception):
    """The base of the others; never raised itself."""


class ConfigError(GatewayError):
    """The operator's: the table is invalid. Exit code 2.

    ``problems`` are complete lines, each ``file:line:column: key.path: problem and how to fix it``.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class AppLoadError(GatewayError):
    """The operator's: a mount's app could not be loaded. Exit code 3.

    Raised ``from`` the app's own exception where there is one.
    """


class BuildError(GatewayError):
    """The operator's: a pool's Python or its environment could not be provided. Exit code 3.

    The message quotes the installer where it can; callers add the place in the table.
    """


class MalformedMessage(GatewayError):
    """A client's or an upstream server's: the message is not HTTP, or is ambiguous.

    ``args`` are the problem and, optionally, the text that has it. Callers raise an error of their
    side from it.
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
    """RFC 9112 §2.2, §3, §5, §6: the bytes are not a request, or are ambiguous."""


class UntrustedPeer(RequestError):
    """RFC 9110 §15.5.4: the listener is for trusted proxies, and the peer is not one."""

    status = "403 Forbidden"


class RequestTimeout(RequestError):
    """RFC 9110 §15.5.9: the client took too long to send its request."""

    status = "408 Request Timeout"


class ContentTooLarge(RequestError):
    """RFC 9110 §15.5.14."""

    status = "413 Content Too Large"


class UriTooLong(RequestError):
    """RFC 9110 §15.5.15."""

    status = "414 URI Too Long"


class ExpectationFailed(RequestError):
    """RFC 9110 §10.1.1: only ``100-continue`` is supported."""

    status = "417 Expectation Failed"


class HeaderFieldsTooLarge(RequestError):
    """RFC 6585 §5."""

    status = "431 Request Header Fields Too Large"


class NotImplementedMethod(RequestError):
    """RFC 9110 §9.1: an unknown method."""

    status = "501 Not Implemented"


class UnsupportedTransferCoding(RequestError):
    """RFC 9112 §6.1: a transfer coding other than ``chunked``."""

    status = "501 Not Implemented"


class VersionNotSupported(RequestError):
    """RFC 9110 §15.6.6."""

    status = "505 HTTP Version Not Supported"


class AppError(GatewayError):
    """The app's: it violated PEP 3333. 500 if no byte was sent, else the connection is closed."""


class ClientDisconnected(GatewayError, OSError):
    """Nobody's: the client disconnected, or did not read its response for too long.

    An ``OSError``, since apps that stream expect one from a failed write.
    """


class RequestEnded(BaseException):
    """A request that may not go on, answered with ``status``. Like ``gevent.Timeout`` no Exception,
    so that an app's ``except Exception`` lets it through while its ``finally`` runs."""

    def __init__(self, fault: str, status: str, detail: str, *fields: tuple[str, str]) -> None:
        super().__init__(fault)
        self.status = status
        self.detail = detail
        self.fields = fields


class ClientLeft(RequestEnded, GeneratorExit):
    """The client of a stream has left. A generator that waits gets it where it waits, as it gets
    GeneratorExit from ``close()`` where it yields."""

    def __init__(self) -> None:
        super().__init__("the client left", "", "")
