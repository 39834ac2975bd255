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
        "Longest request line (414 beyond it); nginx's own is 8 KiB, so it refuses first.",
        applies="in place",
    )
    max_head_bytes: int = setting(
        32 * KIB,
        "Longest request head, request line included (431 beyond it); nginx takes four of 8 KiB.",
        applies="in place",
    )
    max_fields: int = setting(
        100, "Most header fields of a request (431 beyond it), as Apache.", applies="in place"
    )
    head_timeout_seconds: float = setting(
        10.0,
        "From the first byte of a request to its complete head (408 beyond it).",
        applies="in place",
    )
    body_timeout_seconds: float = setting(
        30.0,
        "Between two reads of a request body that an app waits for (408 beyond it).",
        applies="in place",
    )
    max_spooled_bytes: int = setting(
        64 * MIB,
        "How much request content one worker keeps in temporary files at a time (503 with "
        "Retry-After beyond it, 413 for what alone is more). They are in the directory that TMPDIR "
        "names, else /tmp, which in the Compose stack is memory: 256 MiB for all workers.",
        least=0,
        applies="in place",
    )
    send_timeout_seconds: float = setting(
        30.0,
        "How long a client may leave a response unread before it is given up.",
        applies="in place",
    )
    keep_alive_seconds: float = setting(
        75.0,
        "How long an idle connection is kept; longer than nginx keeps its own (60 s), so that "
        "nginx never reuses one that is being closed.",
        applies="in place",
    )
    max_connections: int = setting(
        8_192,
        "Open connections of one worker; further ones wait in the kernel's queue.",
        applies="in place",
    )
    drain_timeout_seconds: float = setting(
        30.0,
        "How long a stop, or a worker that a reload has replaced, waits for requests in flight "
        "before it cuts them.",
        applies="in place",
    )
    drain_delay_seconds: float = setting(
        0.0,
        "How long a stop goes on accepting after /readyz has begun to answer 503, for load "
        "balancers that look there. nginx does not, so the default is none.",
        least=0,
        applies="in place",
    )
    start_timeout_seconds: float = setting(
        60.0,
        "How long a worker may take to load its apps, from its turn to start: a reload then fails, "
        "a start tries again. Long enough for slow imports on a busy machine, short enough to tell "
        "one that hangs.",
        applies="in place",
    )
    block_warn_seconds: float = setting(
        5.0,
        "How long a worker's event loop may be silent before the log tells which request keeps it "
        "and where, by its stack: nothing else runs in that worker meanwhile. 0 tells nothing.",
        least=0,
        applies="in place",
    )
    block_timeout_seconds: float = setting(
        60.0,
        "How long it may be silent before the worker is killed and replaced; its requests get 502. "
        "Longer than what an app computes at most: a debugger that holds a request wants 0, never.",
        least=0,
        applies="in place",
    )
    build_timeout_seconds: float = setting(
        600.0,
        "How long the environment of a pool may take to be built, downloads and all; a reload then "
        "fails.",
        applies="in place",
    )


@dataclass(frozen=True)
class PoolLimits:
    """When a worker is replaced though nothing is wrong with it; keys of ``server:`` and of a pool.
    Memory is what the process occupies, what it shares with others included."""

    max_requests: int = setting(
        0,
        "After how many requests a worker is replaced, give or take a tenth, so that not all are "
        "at once; 0 is never. For apps that leak.",
        least=0,
        applies="in place",
    )
    max_lifetime_seconds: float = setting(
        0.0,
        "How old a worker may become before it is replaced; 0 is without end.",
        least=0,
        applies="in place",
    )
    max_memory_bytes: int = setting(
        0,
        "How much memory a worker may take before it is replaced; 0 is any. No request is lost: "
        "the next worker serves before it leaves.",
        least=0,
        applies="in place",
    )
    max_memory_hard_bytes: int = setting(
        0,
        "How much before it is killed, and its requests with it; 0 is any. For what grows faster "
        "than a worker is replaced: one is lost instead of the machine's memory.",
        least=0,
        applies="in place",
    )


@dataclass(frozen=True)
class Admission:
    """How many requests a mount or a pool runs at a time; keys of a mount, of ``defaults:`` and of
    a pool."""

    max_concurrency: int = setting(
        0,
        "How many requests are run at a time, each until its response has ended; 0 is any number. "
        "Each front worker counts its own; for a pool, those of all its mounts together.",
        least=0,
        where="front",
        applies="in place",
    )
    queue: int = setting(
        100,
        "How many further ones wait for their turn (503 with Retry-After beyond it). The oldest is "
        "next, but the newest while more than half of the queue is taken: its client is the "
        "likeliest to wait on. One whose client has left is skipped.",
        least=0,
        where="front",
        applies="in place",
    )
    queue_timeout_seconds: float = setting(
        5.0,
        "How long a request waits for its turn (503 with Retry-After after it).",
        where="front",
        applies="in place",
    )


@dataclass(frozen=True)
class MountLimits(Admission):
    """What one mount allows a request; keys of a mount and of ``defaults:``."""

    timeout_seconds: float = setting(
        30.0,
        "How long a request may go without a byte read or written: 504 before the response "
        "has begun, cut after. A stream lives as long as it sends something in time.",
        where="both",
        applies="in place",
    )
    max_body_bytes: int = setting(
        16 * MIB, "Largest request body (413 beyond it).", least=0, where="both", applies="in place"
    )
    tunnel_timeout_seconds: float = setting(
        300.0,
        "How long an upgraded connection (WebSocket) may go without a byte in either direction, "
        "whoever answers it: timeout does not count there.",
        where="both",
        applies="in place",
    )
    request_buffering: str = setting(
        "on",
        "on: a request body that is short (64 KiB), chunked, or bound for native threads or for a "
        "place of max_concurrency is taken in before the app is called, which always gets a "
        "Content-Length; what it leaves unread is read before its answer goes out. off: bodies "
        "stream, for apps that answer while their client still sends.",
        choices=("on", "off"),
        where="both",
        applies="in place",
    )
