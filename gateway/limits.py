"""Every number that bounds the service: its default, unit and reason, each in one place.

The table's keys, the JSON Schema and the reference page are made from these fields: a field
``head_timeout_seconds`` is the key ``head_timeout`` and reads a duration, ``max_head_bytes`` is
``max_head`` and reads a size. Knows nothing of the rest of the package.
"""

from dataclasses import dataclass, field, fields
from typing import Any

KIB = 1024
MIB = 1024 * KIB


def setting(default: Any, why: str, **rules: Any) -> Any:
    """A dataclass field with a default and the reason for it.

    ``rules`` say what its name does not: ``key`` in the table, ``reads`` (the kind of value),
    ``choices``, and the bounds ``least`` and ``most``, in the field's own unit. And its marks:

    ``applies``, what an edit of it needs. "in place": running workers take it over. "new workers":
    a worker decides it once, at its start or as it loads the app. "restart": the gateway's own.

    ``where``, who applies it to a mount whose app is in a pool. "front": the front workers. "pool":
    the pool's. The others have its default, which has to mean that nothing is done. "both": each
    has it, so a request meets it twice.
    """
    return field(default=default, metadata={"why": why, **rules})


def fields_marked(owner: type, mark: str, value: str) -> list[str]:
    """The names of the fields of this dataclass whose ``mark`` has this value."""
    return [each.name for each in fields(owner) if each.metadata.get(mark) == value]


@dataclass(frozen=True)
class Limits:
    """What one worker allows a client; keys of ``server:``. Seconds and bytes."""

    max_request_line_bytes: int = setting(
        8 * KIB,
        "Maximum length of a request line (414 beyond it). nginx's own limit is 8 KiB, so nginx "
        "refuses first.",
        applies="in place",
    )
    max_head_bytes: int = setting(
        32 * KIB,
        "Maximum length of a request head, including the request line (431 beyond it). nginx "
        "accepts four buffers of 8 KiB.",
        applies="in place",
    )
    max_fields: int = setting(
        100,
        "Maximum number of header fields in a request (431 beyond it), as in Apache.",
        applies="in place",
    )
    head_timeout_seconds: float = setting(
        10.0,
        "Maximum time from the first byte of a request to the end of its head (408 beyond it).",
        applies="in place",
    )
    body_timeout_seconds: float = setting(
        30.0,
        "Maximum time between two reads of a request body that an app waits for (408 beyond it).",
        applies="in place",
    )
    max_spooled_bytes: int = setting(
        64 * MIB,
        "How much request content one worker keeps in temporary files at a time (503 with "
        "Retry-After beyond it, 413 for a single body that is larger). The files are in the "
        "directory that TMPDIR names, otherwise in /tmp, which in the Compose stack is memory: "
        "256 MiB for all workers.",
        least=0,
        applies="in place",
    )
    send_timeout_seconds: float = setting(
        30.0,
        "How long a client may leave a response unread before its connection is closed.",
        applies="in place",
    )
    keep_alive_seconds: float = setting(
        75.0,
        "How long an idle connection is kept open. Longer than nginx keeps its own (60 s), so "
        "that nginx never reuses one that is being closed.",
        applies="in place",
    )
    max_connections: int = setting(
        8_192,
        "Maximum number of open connections per worker. Further ones wait in the kernel's queue.",
        applies="in place",
    )
    drain_timeout_seconds: float = setting(
        30.0,
        "How long a stop, or a worker that a reload has replaced, waits for requests in flight "
        "before it cuts them off.",
        applies="in place",
    )
    drain_delay_seconds: float = setting(
        0.0,
        "How long a stop keeps accepting connections after /readyz has begun to answer 503, for "
        "load balancers that check it. nginx does not, so the default is 0.",
        least=0,
        applies="in place",
    )
    start_timeout_seconds: float = setting(
        60.0,
        "How long a worker may take to load its apps, from its turn to start. After that, a "
        "reload fails, and a start tries again. Long enough for slow imports on a busy machine, "
        "short enough to notice one that hangs.",
        applies="in place",
    )
    block_warn_seconds: float = setting(
        5.0,
        "How long a worker's event loop may be blocked before the log shows which request "
        "blocks it, and its stack: nothing else runs in that worker meanwhile. 0 logs nothing.",
        least=0,
        applies="in place",
    )
    block_timeout_seconds: float = setting(
        60.0,
        "How long it may be blocked before the worker is killed and replaced; its requests get "
        "502. Set it to more than the longest computation of any app, or to 0 (never) for a "
        "debugger that holds a request.",
        least=0,
        applies="in place",
    )
    build_timeout_seconds: float = setting(
        600.0,
        "How long building a pool's environment may take, including downloads. After that, a "
        "reload fails.",
        applies="in place",
    )


@dataclass(frozen=True)
class PoolLimits:
    """When a worker is replaced though nothing is wrong with it; keys of ``server:`` and of a pool.
    Memory is what the process occupies, what it shares with others included."""

    max_requests: int = setting(
        0,
        "Replace a worker after this many requests, plus or minus a tenth so that workers are "
        "not all replaced at once. 0 is never. For apps that leak memory.",
        least=0,
        applies="in place",
    )
    max_lifetime_seconds: float = setting(
        0.0,
        "Replace a worker at this age. 0 is never.",
        least=0,
        applies="in place",
    )
    max_memory_bytes: int = setting(
        0,
        "Replace a worker that uses more memory than this. 0 is no limit. No request is lost: "
        "the new worker serves before the old one leaves.",
        least=0,
        applies="in place",
    )
    max_memory_hard_bytes: int = setting(
        0,
        "Kill a worker that uses more memory than this, with its requests. 0 is no limit. For "
        "memory that grows faster than a worker can be replaced: it costs one worker instead of "
        "the machine.",
        least=0,
        applies="in place",
    )


@dataclass(frozen=True)
class Admission:
    """How many requests a mount or a pool runs at a time; keys of a mount, of ``defaults:`` and of
    a pool."""

    max_concurrency: int = setting(
        0,
        "Maximum number of requests that run at a time, each until its response has ended. 0 is "
        "no limit. Each front worker counts its own requests; for a pool, those of all its "
        "mounts together.",
        least=0,
        where="front",
        applies="in place",
    )
    queue: int = setting(
        100,
        "Maximum number of requests that wait for their turn (503 with Retry-After beyond it). "
        "The oldest goes first, but the newest while more than half of the queue is taken: its "
        "client is the likeliest to be still there. A request whose client has left is skipped.",
        least=0,
        where="front",
        applies="in place",
    )
    queue_timeout_seconds: float = setting(
        5.0,
        "How long a request waits for its turn (503 with Retry-After after that).",
        where="front",
        applies="in place",
    )


@dataclass(frozen=True)
class MountLimits(Admission):
    """What one mount allows a request; keys of a mount and of ``defaults:``."""

    timeout_seconds: float = setting(
        30.0,
        "How long a request may go without a byte read or written: 504 if the response has not "
        "begun, otherwise it is cut off. A stream may last as long as it keeps sending.",
        where="both",
        applies="in place",
    )
    max_body_bytes: int = setting(
        16 * MIB,
        "Maximum size of a request body (413 beyond it).",
        least=0,
        where="both",
        applies="in place",
    )
    tunnel_timeout_seconds: float = setting(
        300.0,
        "How long an upgraded connection (WebSocket) may go without a byte in either direction. "
        "timeout does not apply to it.",
        where="both",
        applies="in place",
    )
    request_buffering: str = setting(
        "on",
        "on: a request body is read before the app is called if it is short (64 KiB), chunked, "
        "or meant for native threads or a mount with max_concurrency. The app always gets a "
        "Content-Length, and what it leaves unread is read before its response is sent. off: "
        "bodies are streamed, for apps that respond while their client is still sending.",
        choices=("on", "off"),
        where="both",
        applies="in place",
    )
