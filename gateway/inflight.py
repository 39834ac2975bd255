"""The requests that one worker has in flight, in shared memory that outlives it: the supervisor
reads what the worker was doing, and whether its event loop is still running.

Owns the layout, for both sides. A slot belongs to a connection, which has at most one request in
flight. It is written once before the app is called, and freed by writing one byte: both are on the
hot path.
"""

import fcntl
import mmap
import os
import time
from collections.abc import Callable
from struct import Struct
from typing import NamedTuple

SLOT_BYTES = 512
# start (seconds), request id, client, mount and request line. The start is big-endian: its first
# byte is 0 only in a free slot.
_SLOT = Struct(">d136s48s320s")
_MOUNT_BYTES = 128
# heartbeat, requests, failures, dropped log records; then how many slots have ever been used, and
# the id of the request that blocks the event loop
_HEADER = Struct(">dQQQ")
_USED = Struct(">Q")
_HOLDER = Struct(">136s")
_MOMENT = Struct(">d")
# the first byte of any time between a few milliseconds and 250 years
_EXPONENTS = (b"\x3f", b"\x40", b"\x41")
_HOLDER_PLACE = _HEADER.size + _USED.size
_FIRST_SLOT = SLOT_BYTES
_PRIVATE_SLOTS = 64
# 10,000 requests a second for 28,000 years; JSON parsers may round larger numbers (RFC 8259 §6)
MAX_COUNTED = 2**53


class Recent(NamedTuple):
    """The ``mounts`` of requests in flight and of those that ended recently; ``ended`` counts the
    latter, at most one for each connection, which remembers only its last request."""

    mounts: set[str]
    ended: int


class InFlight:
    """The worker's side. ``descriptor`` is that of an ``InFlightReader``; -1 for private memory.

    A request begins with ``write(memory, slot, start, request_id, client, text)``: the monotonic
    time and bytes, the last of which are ``encode_mount``'s and the request line. What does not fit
    is cut off. It ends with ``memory[slot] = 0``. Connections count ``requests`` and ``failures``
    (responses of 500 and above); ``beat`` publishes both, together with ``heartbeat`` and the
    number of dropped log records, which ``count_dropped`` returns.
    """

    def __init__(self, descriptor: int = -1) -> None:
        size = 0 if descriptor >= 0 else _PRIVATE_SLOTS * SLOT_BYTES  # 0 is all of it
        self.memory: mmap.mmap | bytearray = mmap.mmap(descriptor, size)
        self.write = _SLOT.pack_into
        self.heartbeat = 0.0
        self.requests = 0
        self.failures = 0
        self.count_dropped: Callable[[], int] = int
        self._free: list[int] = []
        self._next = _FIRST_SLOT
        # for requests that find no free slot; never read
        self._surplus = len(self.memory) - SLOT_BYTES

    def take(self) -> int:
        """A slot for a connection: the last one freed, so that few memory pages are used."""
        if self._free:
            return self._free.pop()
        slot = self._next
        if slot < self._surplus:
            self._next += SLOT_BYTES
            _USED.pack_into(self.memory, _HEADER.size, slot // SLOT_BYTES)
        return slot

    def give_back(self, slot: int) -> None:
        """Its connection has closed."""
        if slot != self._surplus:
            self._free.append(slot)

    def beat(self, now: float) -> None:
        """Publish that the event loop is running, and the counts. ``now`` is monotonic."""
        self.heartbeat = now
        counts = self.requests, self.failures, self.count_dropped()
        _HEADER.pack_into(self.memory, 0, now, *counts)

    def running(self) -> dict[int, float]:
        """The start of each request in flight, by slot."""
        begins = self.memory[_FIRST_SLOT : self._find_end() : SLOT_BYTES]
        slots = (_FIRST_SLOT + i * SLOT_BYTES for i, first in enumerate(begins) if first)
        return {slot: _MOMENT.unpack_from(self.memory, slot)[0] for slot in slots}

    def recall(self, since: float, now: float, running: dict[int, float]) -> Recent:
        """Of the requests in flight, and of those that have ended since ``since``: they began after
        it, or are in ``running``. Times are monotonic."""
        mounts, ended = set(), 0
        for slot in range(_FIRST_SLOT, self._find_end(), SLOT_BYTES):
            begins = [] if self.memory[slot] else self._restore(slot)
            has_ended = running.get(slot) in begins or any(since <= each <= now for each in begins)
            if self.memory[slot] or has_ended:
                mounts.add(_read(_SLOT.unpack_from(self.memory, slot)[3]).partition("\n")[0])
            ended += has_ended
        return Recent(mounts, ended)

    def _find_end(self) -> int:
        used: int = _USED.unpack_from(self.memory, _HEADER.size)[0]
        return _FIRST_SLOT + used * SLOT_BYTES

    def _restore(self, slot: int) -> list[float]:
        """The possible starts of the request that ended in this slot."""
        rest = bytes(self.memory[slot + 1 : slot + _MOMENT.size])
        return [_MOMENT.unpack(first + rest)[0] for first in _EXPONENTS]

    def note_blocking_request(self, request_id: str) -> None:
        """Publish which request blocks the event loop; "" for none."""
        _HOLDER.pack_into(self.memory, _HOLDER_PLACE, request_id.encode())


def encode_mount(mount: str) -> bytes:
    """The mount's name, as it precedes the request line in a slot."""
    name = mount.encode()[:_MOUNT_BYTES].decode("utf-8", "ignore")
    return name.encode() + b"\n"


class WorkerCounts(NamedTuple):
    """What a worker published last. ``heartbeat`` is when its event loop last ran (monotonic), 0
    before it starts; ``failures`` are responses of 500 and above, ``dropped`` log records."""

    heartbeat: float
    requests: int
    failures: int
    dropped: int


class InFlightRequest(NamedTuple):
    """A request in flight, with "" for parts that were cut off. ``started`` is monotonic."""

    started: float
    request_id: str
    client: str
    mount: str
    method: str
    target: str
    protocol: str


class InFlightReader:
    """The supervisor's side: memory for a worker with ``slots`` connections. The worker inherits
    ``descriptor``, which stays open while this object exists. Any thread may call its methods.

    It reads instead of mapping: a mapping would allocate pages that were never used, and a shrunk
    file would kill this process (SIGBUS). A worker may write anything, so the size is sealed and
    impossible values are ignored. Source: memfd_create(2), fcntl(2) "File Sealing".
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self.descriptor = os.memfd_create("gateway-inflight", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, (slots + 2) * SLOT_BYTES)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)

    def __del__(self) -> None:
        os.close(self.descriptor)

    def counts(self) -> WorkerCounts:
        """What the worker published last; no count exceeds ``MAX_COUNTED``."""
        header = os.pread(self.descriptor, _HEADER.size, 0)
        heartbeat, *counts = _HEADER.unpack(header)
        return WorkerCounts(heartbeat, *(min(count, MAX_COUNTED) for count in counts))

    def count(self) -> int:
        """How many requests are in flight, not counting those without a slot."""
        return len(self._read_used())

    def requests(self) -> list[InFlightRequest]:
        """The requests in flight, the oldest first."""
        found = []
        for started, *texts in self._read_used():
            request_id, client, place = (_read(text) for text in texts)
            mount, _, line = place.partition("\n")
            method, target, protocol, *_ = (*line.split(" "), "", "")
            found.append(
                InFlightRequest(started, request_id, client, mount, method, target, protocol)
            )
        return sorted(found)

    def blocking_request(self) -> str:
        """The id of the request that blocks the event loop; "" for none."""
        return _read(os.pread(self.descriptor, _HOLDER.size, _HOLDER_PLACE))

    def _read_used(self) -> list[tuple[float, bytes, bytes, bytes]]:
        [count] = _USED.unpack(os.pread(self.descriptor, _USED.size, _HEADER.size))
        slots = os.pread(self.descriptor, min(count, self._slots) * SLOT_BYTES, _FIRST_SLOT)
        # the start in a freed slot has lost its exponent; one in the future, or NaN, is not real
        now = time.monotonic()
        return [slot for slot in _SLOT.iter_unpack(slots) if 1e-9 < slot[0] <= now]


def _read(text: bytes) -> str:
    return text.rstrip(b"\0").decode("utf-8", "replace")
