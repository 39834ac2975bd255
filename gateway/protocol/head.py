"""What is known of a request once its head was read. Refuses to know how. Source: RFC 9112 §2."""


class RequestHead:
    """A request line and fields that passed every check.

    ``line`` is the request line as it came; ``target`` is what the client sent; ``path`` (still
    encoded) and ``query`` are its parts.
    ``fields`` maps CGI names (RFC 3875 §4.1.18: ``HTTP_ACCEPT``, ``CONTENT_TYPE``) to latin-1
    strings. ``host`` is lower-case without port, "" if there is none (HTTP/1.0).
    ``content_length`` is in bytes, or CHUNKED. ``takes_simple_head`` is whether the framing of what
    answers it has no exception: it is of HTTP/1.1, and not a HEAD.
    """

    content_length: int = 0
    line: bytes = b""
    expects_continue: bool = False
    fields: dict[str, str]
    host: str = ""
    is_http11: bool
    method: str
    path: str
    persistent: bool
    query: str
    takes_simple_head: bool = False
    target: str
